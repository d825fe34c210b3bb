"""Credentials for the private registry, taken from the secrets for one command and never written to disk."""

from __future__ import annotations

from collections.abc import Mapping

from conche.engine.connection import Engine
from conche.engine.logins import login as stored_login
from conche.engine.transfer import Credentials, stored
from conche.errors import Refused
from conche.secret import Secret
from conche.stack import Login, Stack, is_here
from conche.supply.registry import Advice, Registry
from conche.vault.values import used_by
from conche.vault.vault import Vault

__all__ = ["advice", "credentials", "open_registry", "registry_of", "two_sides"]


def credentials(vault: Vault) -> Credentials | None:
    """Return the user and password for the private registry: the secrets that `login` in stack.yaml names.

    Without a key, use the development values of an unprotected environment. Without those, or without `login`, use what
    `docker login` has stored.

    Raises:
        KeyUnusable: there is a key, but it cannot be used.
    """
    stack = vault.stack
    if stack.login is not None:
        values = _values(vault, stack.login)
        if stack.login.user in values and stack.login.password in values:
            return Credentials(values[stack.login.user].reveal(), values[stack.login.password])
    return stored(stack.registry) if stack.registry else None


def registry_of(stack: Stack) -> str:
    """Return the host of the private registry.

    Raises:
        Refused: stack.yaml names none, so images stay where they are built.
    """
    if stack.registry is None:
        raise Refused(
            "no-registry",
            "stack.yaml names no registry: the images of this stack stay on the engine that builds them.",
            next_command="add `registry: HOST:PORT` to stack.yaml, and name the image that a service builds"
            " HOST:PORT/NAME:TAG",
        )
    return stack.registry


def _values(vault: Vault, login: Login) -> Mapping[str, Secret]:
    section = vault.stack.secrets
    assert section is not None
    if vault.key is not None:
        return vault.known()
    for name, environment in vault.stack.environments.items():
        if not environment.protected and login.password in used_by(section, name):
            return vault.of(name, create=False)
    return {}


def open_registry(vault: Vault, engine: Engine | None = None) -> Registry:
    """Return the private registry, with our credentials, whose password is redacted from now on.

    Args:
        engine: the engine that pushes to it or pulls from it.
    """
    stack = vault.stack
    host = registry_of(stack)
    known = credentials(vault)
    if known is not None:
        vault.redact.learn([known.password])
    unasked = "" if known else stored_login(host).problem
    note = " ".join(two_sides(stack, engine)) or unasked
    return Registry(host, known, advice=advice(stack)._replace(note=note), environments=_released_for(stack))


def advice(stack: Stack) -> Advice:
    """Advise, based on stack.yaml, what to type if the private registry does not answer or refuses us."""
    up = f"invoke env.up --env {stack.own_registry}" if stack.own_registry else ""
    enter = f"invoke secrets.set {stack.login.password}" if stack.login else f"docker login {stack.registry}"
    return Advice(
        unreachable=up or "invoke images.login    # tries again; or correct `registry` in stack.yaml",
        denied="\n".join(filter(None, (enter, up if stack.login else ""))),
    )


def _released_for(stack: Stack) -> dict[str, str]:
    """Return each `repository:tag` that images.release makes -> its environment."""
    pairs = [(stack.reference(image, name), name) for name in reversed([*stack.environments]) for image in stack.images]
    return {reference.removeprefix(f"{stack.registry}/"): name for reference, name in pairs}


def two_sides(stack: Stack, engine: Engine | None) -> list[str]:
    """Warn if a name such as `localhost` means one registry to us and another to a remote engine."""
    if engine is None or engine.is_local or stack.registry is None or not is_here(stack.registry):
        return []
    return [
        (
            f"for the engine at {engine.address}, {stack.registry} is a registry on its own machine, not on this "
            "one: they are the same only through a tunnel, such as ssh -L"
        )
    ]
