"""Reads what `docker login` has stored, including through credential helpers.

Docker's settings may name a credential helper, a program that only another machine or another Docker has. It is asked
only about its own registries, and if it cannot be run the engine goes there without a login: where no login is needed,
no helper is either.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from conche.errors import ConcheError, Unreachable

__all__ = ["StoredLogin", "login", "missing_helpers", "settings"]


@dataclass(frozen=True)
class StoredLogin:
    """A stored login for a registry.

    Attributes:
        fields: what the engine takes in a request; empty if there is no login.
        problem: why a credential helper could not be asked; empty if it worked or none was needed.
        helper: its program.
    """

    fields: Mapping[str, str] = field(default_factory=dict, repr=False)
    problem: str = ""
    helper: str = ""

    @property
    def ways_out(self) -> str:
        """What to type if a login is needed after all."""
        return (
            f"install {self.helper}, or remove the line that names it from {settings()}\n"
            "then, if the registry needs a login: docker login"
        )

    def explained(self, error: ConcheError, *, denied: bool) -> ConcheError:
        """Return the error of a pull or push, with the helper's problem added if there is one.

        Args:
            denied: the registry demands a login.
        """
        if not self.problem:
            return error
        if denied:
            return Unreachable(
                "credential-helper-unusable",
                f"{error.message} This was without a login, because {self.problem}.",
                looked_at=[str(settings()), *error.looked_at],
                evidence=error.evidence,
                next_command=self.ways_out,
            )
        error.looked_at = (*error.looked_at, f"the registry was used without a login, because {self.problem}")
        error.next_command = f"{error.next_command}\n{self.ways_out}".strip()
        return error


def settings() -> Path:
    """Return the path of Docker's settings file."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"


def login(registry: str) -> StoredLogin:
    """Return the login stored for a registry."""
    import docker.auth
    import docker.errors

    known = _known()
    if known is None:
        return StoredLogin()
    name = known.get_credential_store(registry)
    asked = StoredLogin(problem=_absent(name), helper=_program(name)) if name else StoredLogin()
    if asked.problem:
        return asked
    try:
        return replace(asked, fields=_plain(known.resolve_authconfig(registry)))
    except docker.errors.DockerException as error:
        return replace(
            asked, problem=f"the credential helper {asked.helper}, which {settings()} names, failed: {error}"
        )
    except (ValueError, TypeError, AttributeError, KeyError, OSError):
        return asked  # unreadable settings count as no login


def missing_helpers() -> dict[str, str]:
    """Return the credential helpers in Docker's settings that cannot be run: program -> the registry it serves."""
    known = _known()
    if known is None:
        return {}
    stores = {str(host): str(name) for host, name in known.cred_helpers.items()}
    named = ([("every registry", str(known.creds_store))] if known.creds_store else []) + list(stores.items())
    return {_program(name): kept for kept, name in named if _absent(name)}


def _known() -> Any:
    """Return the settings; None if they are unreadable."""
    import docker.auth
    import docker.errors

    with contextlib.suppress(docker.errors.DockerException, ValueError, TypeError, AttributeError, OSError):
        found = docker.auth.load_config()
        return found if isinstance(found.cred_helpers, dict) and isinstance(found.creds_store, str | None) else None
    return None


def _program(name: str) -> str:
    return f"docker-credential-{name}"


def _absent(name: str) -> str:
    if shutil.which(_program(name)):
        return ""
    return f"the credential helper {_program(name)}, which {settings()} names, is not installed"


def _plain(found: Mapping[str, Any] | None) -> dict[str, str]:
    return {str(key): str(value) for key, value in (found or {}).items() if value}
