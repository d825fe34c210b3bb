"""Who we are to the private registry: from the secrets, for one command, and into no file."""

from __future__ import annotations

from pathlib import Path

from conche.engine.connection import Engine
from conche.engine.logins import login as stored_login
from conche.engine.transfer import Credentials, stored
from conche.errors import Refused
from conche.secret import Redactor, Secret
from conche.stack import Stack, is_here
from conche.supply.registry import Advice, Registry
from conche.vault import keys
from conche.vault.values import PLACEHOLDERS, for_environment, open_store, used_by

__all__ = ["advice", "credentials", "open_registry", "registry_of", "two_sides"]


def credentials(stack: Stack, root: Path) -> Credentials | None:
    """The user and password of the private registry: the secrets that `login` in stack.yaml names.

    Without a key they are the development values of an environment that is not protected; where there are none, or no
    `login`, what `docker login` has stored.

    Raises:
        KeyUnusable: there is a key, and it cannot be used.
    """
    if stack.login is not None:
        values = _values(stack, root)
        if stack.login.user in values and stack.login.password in values:
            return Credentials(values[stack.login.user].reveal(), values[stack.login.password])
    return stored(stack.registry) if stack.registry else None


def registry_of(stack: Stack) -> str:
    """The host of the private registry.

    Raises:
        Refused: stack.yaml names none, and images stay where they are built.
    """
    if stack.registry is None:
        raise Refused(
            "no-registry",
            "stack.yaml names no registry: the images of this stack stay on the engine that builds them.",
            next_command="add `registry: HOST:PORT` to stack.yaml, and name the image that a service builds"
            " HOST:PORT/NAME:TAG",
        )
    return stack.registry


def _values(stack: Stack, root: Path) -> dict[str, Secret]:
    assert stack.secrets is not None
    assert stack.login is not None
    if keys.find(root) is not None:
        found = open_store(stack, root).read()
        return {name: value for name, value in found.items() if value.reveal() not in PLACEHOLDERS}
    for name, environment in stack.environments.items():
        if not environment.protected and stack.login.password in used_by(stack.secrets, name):
            return for_environment(stack, root, name, lambda _: None, create=False)
    return {}


def open_registry(
    stack: Stack, root: Path, redact: Redactor, engine: Engine | None = None
) -> tuple[Registry, Credentials | None]:
    """The private registry, and who we are to it.

    Args:
        redact: learns the password.
        engine: which pushes to it or pulls from it.
    """
    host = registry_of(stack)
    known = credentials(stack, root)
    if known is not None:
        redact.learn([known.password])
    unasked = "" if known else stored_login(host).problem
    note = " ".join(two_sides(stack, engine)) or unasked
    return Registry(host, known, note=note, advice=advice(stack), environments=_released_for(stack)), known


def advice(stack: Stack) -> Advice:
    """What to type where the private registry does not answer or refuses us: by what stack.yaml says of it."""
    up = f"invoke env.up --env {stack.own_registry}" if stack.own_registry else ""
    enter = f"invoke secrets.set {stack.login.password}" if stack.login else f"docker login {stack.registry}"
    return Advice(
        unreachable=up or "invoke images.login    # asks it again; or correct `registry` in stack.yaml",
        denied="\n".join(filter(None, (enter, up if stack.login else ""))),
    )


def _released_for(stack: Stack) -> dict[str, str]:
    """The environment of each `repository:tag` that images.release makes."""
    pairs = [(stack.reference(image, name), name) for name in reversed([*stack.environments]) for image in stack.images]
    return {reference.removeprefix(f"{stack.registry}/"): name for reference, name in pairs}


def two_sides(stack: Stack, engine: Engine | None) -> list[str]:
    """A warning where a name such as `localhost` means one registry to us and another to an engine elsewhere."""
    if engine is None or engine.is_local or stack.registry is None or not is_here(stack.registry):
        return []
    return [
        (
            f"{stack.registry} means a registry on its own machine to the engine at {engine.address}, and one on this "
            "machine to us: they are the same only through a tunnel, such as ssh -L"
        )
    ]
