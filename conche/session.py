"""Opens the Compose project of an environment for one command, with the variables its files interpolate."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from conche.command import Invocation
from conche.engine.compose import Compose
from conche.engine.connection import Engine
from conche.engine.dotenv import as_compose_reads
from conche.errors import ConcheError
from conche.files import read_text
from conche.secret import SECRET_NAME, Redactor, Secret
from conche.stack import Environment, Stack
from conche.vault.values import for_environment, variables

__all__ = ["open_compose", "open_unread"]

SAID_IN_STACK = frozenset({"COMPOSE_FILE", "COMPOSE_PATH_SEPARATOR", "COMPOSE_PROJECT_NAME"})
"""Compose settings that have keys of their own in stack.yaml."""

_PLAIN = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\n|[A-Za-z_]\w*=[A-Za-z0-9_./:@%+,=~^-]*\n)*")
"""Matches a .env that python-dotenv and Compose read alike; asking Compose costs another process."""


def open_compose(call: Invocation, name: str, secrets: Mapping[str, Secret] | None = None) -> Compose:
    """Open the Compose project of an environment, with the variables its files interpolate.

    Answers of Compose and the engine are read unredacted; the command's output redacts these secrets from now on.

    Args:
        secrets: by name, as `conche.vault.values` gives them; default: those that can be read, else none, which is
            enough to look.
    """
    stack, root = call.stack, call.root
    environment = stack.environments[name]
    files = tuple(root / file for file in environment.compose)
    values = _at_hand(stack, name, root) if secrets is None else secrets
    shell = _shell()
    shown = _variables(environment, files, root, shell, call.output.say)
    hidden = variables(stack.secrets, values) if stack.secrets else {}
    named = [Secret(value) for variable, value in {**shell, **shown}.items() if SECRET_NAME.search(variable)]
    redact = Redactor([*named, *values.values()])
    call.output.redact.adopt(redact)
    return Compose(
        Engine(environment.engine),
        stack.project(name),
        files,
        {
            **shown,
            **{variable: secret.reveal() for variable, secret in hidden.items()},
            **({"COMPOSE_PROFILES": ",".join(environment.profiles)} if environment.profiles else {}),
        },
        redact,
        further=shell,
    )


def open_unread(call: Invocation, name: str) -> Compose:
    """Open the Compose project of an environment as the engine knows it, without reading its files."""
    environment = call.environment(name)
    redact = Redactor([*_at_hand(call.stack, name, call.root).values()])
    call.output.redact.adopt(redact)
    return Compose(Engine(environment.engine), call.stack.project(name), (), redact=redact, unread=True)


def _shell() -> dict[str, str]:
    """Return the shell's variables, without those that configure Compose, the Docker CLI or sops."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("COMPOSE_", "DOCKER_", "SOPS_"))}


def _at_hand(stack: Stack, name: str, root: Path) -> Mapping[str, Secret]:
    """Return an environment's secrets if they can be read; otherwise none, and .env has to do."""
    try:
        return for_environment(stack, root, name, lambda _: None, create=False)
    except ConcheError:
        return {}


def _variables(
    environment: Environment, files: tuple[Path, ...], root: Path, shell: Mapping[str, str], say: Callable[[str], None]
) -> dict[str, str]:
    """Merge the variables: stack.yaml wins, then the shell for names that the files mention, then .env."""
    owner = root.stat()
    values = {
        "CONCHE_PUBLISH": environment.publish,
        "CONCHE_UID": str(owner.st_uid or 1000),
        "CONCHE_GID": str(owner.st_gid or 1000),
    }
    if environment.port is not None:
        values["CONCHE_PORT"] = str(environment.port)
    written = _dotenv(root / ".env", environment, shell, say)
    mentioned = {
        name for file in files for name in re.findall(r"\$\{?([A-Za-z_]\w*)", read_text(file, _called(file, root)))
    }
    return {**written, **{name: shell[name] for name in mentioned if name in shell}, **values}


def _dotenv(
    file: Path, environment: Environment, shell: Mapping[str, str], say: Callable[[str], None]
) -> dict[str, str]:
    """Read .env by Compose's rules; of the settings of Compose and the Docker CLI keep only the profiles."""
    if not file.is_file():
        return {}
    from conche.vault.dotenv import parse

    text = read_text(file, file.name)
    found = parse(text)
    if not _PLAIN.fullmatch(text):
        found = as_compose_reads(Engine(environment.engine), file, found, shell)
    settings = {name for name in found if name.startswith(("COMPOSE_", "DOCKER_")) and name != "COMPOSE_PROFILES"}
    if strange := sorted(settings - SAID_IN_STACK):
        say(f"warning: {', '.join(strange)} in .env is left out: stack.yaml says what is meant")
    return {name: value for name, value in found.items() if name not in settings}


def _called(file: Path, root: Path) -> str:
    return str(file.relative_to(root)) if file.is_relative_to(root) else str(file)
