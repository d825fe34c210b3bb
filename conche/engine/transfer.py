"""Pushes and pulls images through the engine itself.

Given credentials go to the engine in one request's header, never into a file, argv or the environment; what
`docker login` has stored is then neither used nor touched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from conche.engine.connection import Engine, translated
from conche.engine.logins import StoredLogin, login
from conche.errors import ConcheError, KeyUnusable, Refused, Unreachable
from conche.secret import Secret
from conche.units import size

__all__ = ["Amount", "Credentials", "PullFailed", "Pushed", "pull", "push", "stored"]

STALLED = 300
"""Seconds of silence after which we give up on a registry."""

FULL = "no space left on device"

NO_NETWORK = (
    "no such host", "connection refused", "i/o timeout", "network is unreachable", "no route to host",
    "TLS handshake timeout", "Client.Timeout exceeded", "context deadline exceeded", "server misbehaving",
    "Temporary failure in name resolution", "connection reset by peer", "EOF", "broken pipe",
)  # fmt: skip
"""What the engine says if it did not reach a registry, or lost it, as opposed to a registry that refused."""

DENIED = (
    "unauthorized", "authentication required", "no basic auth credentials", "denied", "401 Unauthorized",
    "403 Forbidden",
)  # fmt: skip

BROKEN = ("received unexpected HTTP status: 5", "500 Internal", "502 Bad", "503 Service", "blob upload", FULL)

Amount = Callable[[str, int, int], None]
"""Called with a description of the progress, the bytes transferred, and the total known so far."""


@dataclass(frozen=True)
class Credentials:
    """A user and password for a registry."""

    user: str
    password: Secret = field(repr=False)

    def header(self) -> Mapping[str, str]:
        """Return what the engine takes for one request."""
        return {"username": self.user, "password": self.password.reveal()}


@dataclass(frozen=True)
class Pushed:
    """The result of a push.

    Attributes:
        digest: the manifest's digest, as the registry reports it.
        moved: number of layers transferred.
        known: number of layers that the registry had already.
    """

    digest: str
    moved: int
    known: int


class PullFailed(Unreachable):
    """The registry did not answer, or was lost on the way, as opposed to one that refused."""


class _Layers:
    """Sums up the events of all layers."""

    def __init__(self, amount: Amount | None, what: str) -> None:
        self._amount, self._what = amount, what
        self._bytes: dict[str, tuple[int, int]] = {}
        self.moved: set[str] = set()
        self.known: set[str] = set()

    def see(self, event: Mapping[str, Any]) -> None:
        layer, status = str(event.get("id", "")), str(event.get("status", ""))
        detail = event.get("progressDetail") or {}
        if status in ("Pushed", "Pull complete"):
            self.moved.add(layer)
        elif status.startswith("Retrying"):
            # The engine tries five times, waiting longer each time.
            self._tell(f"{self._what}: the registry was lost. {status}")
        elif status.startswith(("Layer already exists", "Mounted from", "Already exists")):
            self.known.add(layer)
        elif detail.get("total") and status in ("Pushing", "Downloading"):
            # A layer may turn out larger than the engine guessed.
            current, total = int(detail["current"]), int(detail["total"])
            self._bytes[layer] = (current, max(current, total))
            self._tell("")

    def _tell(self, words: str) -> None:
        if self._amount is not None:
            done, total = (sum(column) for column in zip((0, 0), *self._bytes.values(), strict=True))
            self._amount(words or f"{self._what}: {size(done)} of {size(total)}", done, total)


def push(
    engine: Engine,
    name: str,
    tag: str,
    credentials: Credentials | None = None,
    amount: Amount | None = None,
    *,
    patience: float = STALLED,
) -> Pushed:
    """Push one tag.

    The manifest goes last, after the layers: an interrupted push leaves no partial tag, and the next one resumes.

    Args:
        name: registry and repository.
        credentials: None for what `docker login` has stored.
        patience: seconds of silence after which to give up.

    Raises:
        KeyUnusable: the registry refuses the credentials.
        Unreachable: the registry cannot be reached, was lost on the way, or cannot store the image.
    """
    layers, digest, reference = _Layers(amount, f"pushing {name}:{tag}"), "", f"{name}:{tag}"
    known = _known(name, credentials)
    with _patient(engine, reference, "pushed", patience, known):
        for event in engine.client.api.push(name, tag=tag, stream=True, decode=True, auth_config=dict(known.fields)):
            _raise_said(event, reference, "pushed")
            layers.see(event)
            digest = (event.get("aux") or {}).get("Digest", digest)
    return Pushed(digest, len(layers.moved), len(layers.known))


def pull(
    engine: Engine,
    name: str,
    wanted: str,
    credentials: Credentials | None = None,
    amount: Amount | None = None,
    *,
    patience: float = STALLED,
) -> None:
    """Pull one image.

    Args:
        name: registry and repository, as the engine should name it.
        wanted: a tag or a digest.
        patience: seconds of silence after which to give up.

    Raises:
        PullFailed: no registry answered.
        KeyUnusable: the registry refuses the credentials.
        Refused: the registry answered, but has no such image.
    """
    reference = f"{name}@{wanted}" if wanted.startswith("sha256:") else f"{name}:{wanted}"
    layers = _Layers(amount, f"pulling {reference}")
    known = _known(name, credentials)
    with _patient(engine, reference, "pulled", patience, known):
        for event in engine.client.api.pull(name, tag=wanted, stream=True, decode=True, auth_config=dict(known.fields)):
            _raise_said(event, reference, "pulled")
            layers.see(event)


def _known(name: str, credentials: Credentials | None) -> StoredLogin:
    """Return the login for an image's registry: the given credentials, or what is stored."""
    if credentials is not None:
        return StoredLogin(credentials.header())
    import docker.auth

    return login(docker.auth.resolve_repository_name(name)[0])


@contextlib.contextmanager
def _patient(engine: Engine, reference: str, verb: str, patience: float, known: StoredLogin) -> Iterator[None]:
    """Wait up to `patience` for each answer in this block, and translate errors, which are mostly the registry's."""
    import docker.errors
    import requests.exceptions
    import urllib3.exceptions

    # The first is raised before the engine's answer begins, the second in the middle of it.
    silent = (requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError)
    api = engine.client.api
    before = api.timeout
    api.timeout = patience  # type: ignore[assignment]  # requests takes fractions too
    try:
        with translated(engine.address):
            try:
                yield
            except docker.errors.APIError as error:
                raise _failure(str(error.explanation or error), reference, verb) from error
            except silent as error:
                raise _lost(f"no response for {patience:g} s", reference, verb) from error
    except ConcheError as error:
        said = " ".join(error.evidence)
        raise known.explained(error, denied=any(sign in said for sign in DENIED)) from error
    finally:
        api.timeout = before


def _raise_said(event: Mapping[str, Any], reference: str, verb: str) -> None:
    if "error" in event or "errorDetail" in event:
        detail = event.get("errorDetail") or {}
        raise _failure(str(detail.get("message") or event.get("error")), reference, verb)


def _failure(said: str, reference: str, verb: str) -> ConcheError:
    registry = reference.split("/", 1)[0]
    # A host's port or a repository's name must not pass for a status.
    words = said.replace(reference, "…").replace(registry, "…")
    if verb == "pulled" and FULL in words:
        return Unreachable(
            "disk-full",
            f"{reference} could not be pulled: the engine's disk is full.",
            evidence=[said],
            next_command="docker system df\ninvoke images.prune",
        )
    if any(sign in words for sign in NO_NETWORK):
        return _lost(said, reference, verb)
    if any(sign in words for sign in BROKEN):
        return Unreachable(
            "registry-failed",
            f"{reference} could not be {verb}: {registry} answered with an error of its own, such as a full disk.",
            evidence=[said],
            next_command=f"df -h    # on the machine of {registry}; its own log says more",
        )
    if any(sign in words for sign in DENIED) and "repository does not exist" not in words:
        return KeyUnusable(
            "registry-denied",
            f"{registry} rejects the user or password: {reference} was not {verb}.",
            evidence=[said],
            next_command="invoke images.login    # shows which user is tried, and what to type",
        )
    how = f"{reference} could not be {verb}: its registry or this engine refused."
    if verb == "pulled":
        return Refused(
            "image-not-pulled", how, evidence=[said], next_command="invoke images.list    # shows what exists"
        )
    return Refused("image-not-pushed", how, evidence=[said], next_command="invoke images.build")


def _lost(said: str, reference: str, verb: str) -> Unreachable:
    registry = reference.split("/", 1)[0]
    kind = PullFailed if verb == "pulled" else Unreachable
    return kind(
        "registry-unreachable",
        f"{reference} could not be {verb}: {registry} does not answer, or the connection was lost.",
        evidence=[said],
        next_command=f"run it again once {registry} answers: finished layers are not sent again",
    )


def stored(registry: str) -> Credentials | None:
    """Return what `docker login` stored for a registry, in Docker's settings or a credential helper, or None."""
    lower = {key.lower(): value for key, value in login(registry).fields.items()}
    # A credential helper's token is not a password.
    if not lower.get("username") or not lower.get("password"):
        return None
    return Credentials(lower["username"], Secret(lower["password"]))
