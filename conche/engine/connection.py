"""Chooses the engine and connects to it.

The address is the first that is set: the environment's `engine:` in stack.yaml, `DOCKER_HOST`, the current Docker
context, the local engine. The Docker CLI decides the same way, so both always use the same engine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conche.engine.logins import settings
from conche.errors import ConcheError, NotFound, Refused, Unreachable
from conche.process import run

if TYPE_CHECKING:
    from docker import DockerClient

__all__ = ["OF_NO_PROJECT", "Engine", "EngineRefused", "translated"]

OF_NO_PROJECT = {"com.docker.compose.project": "", "com.docker.compose.service": ""}
"""Labels of a helper's container: from an image that Compose built it would have those of a service, and be shown as
one, and removed as one, by `docker compose`."""

LOCAL = "unix:///var/run/docker.sock"

OLDEST_API = (1, 41)
"""That of engine 20.10, the oldest with which the tests run."""

TIMEOUT = 60
"""Seconds for one request to the engine; pulls and builds have limits of their own."""

TIMEOUT_VARIABLE = "CONCHE_ENGINE_TIMEOUT"
"""Variable that overrides TIMEOUT: for a distant or slow engine, or to give up sooner."""


class Engine:
    """A Docker engine, by address; connects only when `client` is first used.

    Args:
        address: `engine:` of an environment, or None for the engine that the Docker CLI would use. `swarm` and the
            prefix `swarm+` say what runs there, not where it is.
    """

    def __init__(self, address: str | None = None) -> None:
        self._configured = (address or "").removeprefix("swarm").removeprefix("+") or None

    @cached_property
    def address(self) -> str:
        """The URL of the engine, such as unix:///var/run/docker.sock or ssh://deploy@host."""
        chosen = self._configured or os.environ.get("DOCKER_HOST")
        return chosen or (self._context.host if self._context else LOCAL)

    @cached_property
    def _context(self) -> _Context | None:
        return _context()

    @property
    def is_local(self) -> bool:
        """Whether the engine shares this machine's file system, as bind mounts and port checks assume."""
        return self.address.startswith(("unix://", "npipe://"))

    def cli_environment(self) -> Mapping[str, str]:
        """Return the variables that make the Docker CLI use this engine too."""
        return {"DOCKER_HOST": self._configured} if self._configured else {}

    @cached_property
    def client(self) -> DockerClient:
        """The Docker SDK's client, connected on first use.

        Raises:
            Unreachable: no engine answers, or one that is too old; with the command that installs one on this machine.
        """

        with translated(self.address):
            client = self._over_ssh() if self.address.startswith("ssh://") else self._client("auto")
        _require_supported(client, self.address)
        return client

    def _client(self, version: str, **options: Any) -> DockerClient:
        import docker.errors

        import docker

        try:
            return docker.DockerClient(
                base_url=self.address, version=version, timeout=_timeout(), tls=self._tls(), **options
            )
        # The SDK trusts Docker's settings file to be well-formed.
        except (docker.errors.InvalidConfigFile, AttributeError, KeyError, TypeError, ValueError) as error:
            raise Refused(
                "docker-settings-invalid",
                f"{settings()} is not a valid Docker configuration.",
                evidence=[str(error)],
                next_command=f"correct it, or move it away and log in again:\nmv {settings()} {settings()}.old",
            ) from error

    def _over_ssh(self) -> DockerClient:
        from docker.constants import MINIMUM_DOCKER_API_VERSION

        from conche.engine.ssh import Adapter

        version, adapter = MINIMUM_DOCKER_API_VERSION, Adapter(self.address, _timeout())
        # Asking for the version takes a connection too, and that must not be one of the SDK's own kind.
        for _ in range(2):
            client = self._client(version, use_ssh_client=True)
            client.api.mount("http+docker://ssh", adapter)
            version = client.version(api_version=False)["ApiVersion"]
        return client

    def _tls(self) -> Any:
        """Return the certificates for a tcp:// engine: from DOCKER_CERT_PATH, or from the context that is used."""
        from docker.tls import TLSConfig
        from docker.utils import kwargs_from_env

        if self._configured or os.environ.get("DOCKER_HOST") or self._context is None:
            return kwargs_from_env().get("tls", False)
        folder = self._context.certificates
        authority, certificate, key = (folder / name for name in ("ca.pem", "cert.pem", "key.pem"))
        if not authority.is_file():
            return False
        pair = (str(certificate), str(key)) if certificate.is_file() else None
        return TLSConfig(client_cert=pair, ca_cert=str(authority), verify=True)


def _require_supported(client: DockerClient, address: str) -> None:
    """Refuse an engine older than the tests know: what it lacks would show half-way, in words of its own."""
    spoken = client.api.api_version
    if tuple(int(part) for part in spoken.split(".")) >= OLDEST_API:
        return
    raise Unreachable(
        "engine-too-old",
        f"The Docker engine at {address} is too old: it speaks API {spoken}, and"
        f" {'.'.join(map(str, OLDEST_API))} is needed, which engine 20.10 has.",
        looked_at=[address],
        next_command=f"{_remedy(address)}\ninvoke doctor",
    )


def _remedy(address: str) -> str:
    return "scripts/install-engine" if address == LOCAL else f"docker --host {address} info"


def _timeout() -> int:
    text = os.environ.get(TIMEOUT_VARIABLE) or str(TIMEOUT)
    if not text.isdecimal() or int(text) == 0:
        raise Refused(
            "engine-timeout-no-number",
            f"{TIMEOUT_VARIABLE} is {text!r}, not a number of seconds.",
            next_command=f"unset {TIMEOUT_VARIABLE}",
        )
    return int(text)


@contextmanager
def translated(address: str, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Translate the Docker SDK's errors within this block, such as `Unreachable` for an engine that does not answer.

    Args:
        but: exceptions that the caller handles itself.
    """
    import docker.errors
    import requests.exceptions
    import urllib3.exceptions

    try:
        yield
    except but:
        raise
    except docker.errors.NotFound as error:
        raise NotFound("not-on-engine", error.explanation or str(error)) from error
    except docker.errors.APIError as error:
        if "no space left on device" in str(error.explanation or error):
            raise Unreachable(
                "disk-full",
                "The engine's disk is full.",
                evidence=[str(error.explanation or error)],
                next_command="docker system df\ndocker builder prune",
            ) from error
        raise EngineRefused(
            "engine-refused", "The engine refused a request.", evidence=[str(error.explanation or error)]
        ) from error
    # A broken stream raises errors from the layers below requests.
    except (
        docker.errors.DockerException,
        requests.exceptions.RequestException,
        urllib3.exceptions.HTTPError,
        ConnectionError,
    ) as error:
        raise _unreachable(address, error) from error


class EngineRefused(ConcheError):
    """The engine answered a request with an error that has no more specific translation."""

    exit_code = 9


def _unreachable(address: str, error: Exception) -> Unreachable:
    words = str(error)
    if "Permission denied" in words or "PermissionError" in words:
        return Unreachable(
            "engine-forbidden",
            f"There is an engine at {address}, but this user is not allowed to use it.",
            looked_at=[address],
            next_command='sudo usermod -aG docker "$USER"    # then log in again',
            evidence=[words],
        )
    return Unreachable(
        "engine-unreachable",
        f"No Docker engine answers at {address}.",
        looked_at=[address, "DOCKER_HOST, the Docker context and `engine:` in stack.yaml say which engine is meant"],
        next_command=f"{_remedy(address)}\ninvoke doctor",
        evidence=[words],
    )


@dataclass(frozen=True)
class _Context:
    """A Docker context: the engine's address, and the folder of its certificates."""

    host: str
    certificates: Path


def _context() -> _Context | None:
    """Return the current Docker context, as the CLI reports it; the SDK's `from_env` ignores contexts."""
    name = os.environ.get("DOCKER_CONTEXT") or _current_context()
    if not name or name == "default":
        return None
    answer = run(["docker", "context", "inspect", name], timeout=30)
    if not answer.ok:
        raise NotFound(
            "no-such-context",
            f"There is no Docker context {name!r}.",
            looked_at=["DOCKER_CONTEXT", "currentContext in Docker's config.json"],
            evidence=answer.last_lines(2),
            next_command="docker context ls",
        )
    [context] = json.loads(answer.stdout.raw)
    host = context["Endpoints"].get("docker", {}).get("Host") or LOCAL
    return _Context(host, Path(context.get("Storage", {}).get("TLSPath") or "") / "docker")


def _current_context() -> str | None:
    try:
        name = json.loads(settings().read_text(encoding="utf-8")).get("currentContext")
    except (OSError, ValueError, AttributeError):
        return None
    return str(name) if name else None
