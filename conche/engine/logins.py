"""What `docker login` has stored, and the programs that keep it.

Docker's settings may name a credential helper, a program that another machine or another Docker has. It is asked only
for a registry that it keeps, and where it cannot be asked the engine goes there without a login: what needs none needs
no helper.
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

__all__ = ["Login", "login", "missing_helpers", "settings"]


@dataclass(frozen=True)
class Login:
    """How one is known to a registry.

    Attributes:
        fields: what the engine takes in a request; empty for nobody.
        problem: why a credential helper could not be asked; empty where none had to be.
        helper: its program.
    """

    fields: Mapping[str, str] = field(default_factory=dict, repr=False)
    problem: str = ""
    helper: str = ""

    @property
    def ways_out(self) -> str:
        """What to type where a login is needed after all."""
        return (
            f"install {self.helper}, or take the line that names it out of {settings()}\n"
            "then, if the registry wants it: docker login"
        )

    def explained(self, error: ConcheError, *, denied: bool) -> ConcheError:
        """A pull's or push's failure that may be the helper's.

        Args:
            denied: the registry wants to know who asks.
        """
        if not self.problem:
            return error
        if denied:
            return Unreachable(
                "credential-helper-unusable",
                f"{error.message} It was asked without a login, because {self.problem}.",
                looked_at=[str(settings()), *error.looked_at],
                evidence=error.evidence,
                next_command=self.ways_out,
            )
        error.looked_at = (*error.looked_at, f"the registry was asked without a login, because {self.problem}")
        error.next_command = f"{error.next_command}\n{self.ways_out}".strip()
        return error


def settings() -> Path:
    """Docker's settings file."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"


def login(registry: str) -> Login:
    """What is stored for a registry."""
    import docker.auth
    import docker.errors

    known = _known()
    if known is None:
        return Login()
    name = known.get_credential_store(registry)
    asked = Login(problem=_absent(name), helper=_program(name)) if name else Login()
    if asked.problem:
        return asked
    try:
        return replace(asked, fields=_plain(known.resolve_authconfig(registry)))
    except docker.errors.DockerException as error:
        return replace(
            asked, problem=f"the credential helper {asked.helper}, which {settings()} names, failed: {error}"
        )
    except (ValueError, TypeError, AttributeError, KeyError, OSError):
        return asked  # settings that nobody can read are no login


def missing_helpers() -> dict[str, str]:
    """Credential helpers that Docker's settings name and that cannot be run: program -> what it is to keep."""
    known = _known()
    if known is None:
        return {}
    stores = {str(host): str(name) for host, name in known.cred_helpers.items()}
    named = ([("every registry", str(known.creds_store))] if known.creds_store else []) + list(stores.items())
    return {_program(name): kept for kept, name in named if _absent(name)}


def _known() -> Any:
    """The settings; None where nobody can read them."""
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
