"""An environment for one command: its Compose project, with the variables its files interpolate."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from conche.command import Invocation
from conche.engine.compose import Compose
from conche.engine.connection import Engine
from conche.engine.dotenv import as_compose_reads
from conche.engine.settings import SETTINGS
from conche.errors import ConcheError
from conche.files import state_folder, write_atomic
from conche.formats import PROFILES, WrittenByNewer
from conche.secret import SECRET_NAME, Redactor, Secret
from conche.stack import Environment, Stack
from conche.texts import read_text
from conche.vault.values import variables

__all__ = ["Session", "forget_profiles", "open_compose", "open_unread", "remember_profiles"]

SAID_IN_STACK = frozenset({"COMPOSE_FILE", "COMPOSE_PATH_SEPARATOR", "COMPOSE_PROJECT_NAME"})
"""Compose settings that have keys of their own in stack.yaml."""

_PLAIN = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\n|[A-Za-z_]\w*=[A-Za-z0-9_./:@%+,=~^-]*\n)*")
"""Matches a .env that python-dotenv and Compose read alike; asking Compose costs another process."""

_MAY_BE_MORE = re.compile(r"&[^*]*\*|\b(?:include|extends|env_file)\b")
"""Matches a Compose file that may be longer than it looks: it has aliases, or names other files."""


@dataclass(frozen=True)
class Session:
    """One command at work on one environment.

    Attributes:
        name: the environment's name.
        held: descriptor of its lock on this machine, for processes that outlive the command; None without the lock.
    """

    call: Invocation
    name: str
    compose: Compose
    held: int | None = None

    @property
    def environment(self) -> Environment:
        """The environment's section of stack.yaml."""
        return self.call.environment(self.name)

    @property
    def engine(self) -> Engine:
        return self.compose.engine


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
    values = _at_hand(call, name) if secrets is None else secrets
    shell = _shell()
    shown = {**_variables(environment, files, root, shell, call.output.say), **_called_by(stack)}
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
            **_profiles(stack, name, shown, remembered=not call.forgetful),
        },
        redact,
        further=shell,
    )


def open_unread(call: Invocation, name: str) -> Compose:
    """Open the Compose project of an environment as the engine knows it, without reading its files."""
    environment = call.environment(name)
    redact = Redactor([*_at_hand(call, name).values()])
    call.output.redact.adopt(redact)
    return Compose(Engine(environment.engine), call.stack.project(name), (), redact=redact, unread=True)


def _profiles(stack: Stack, name: str, shown: Mapping[str, str], *, remembered: bool) -> dict[str, str]:
    """Return the variable with the profiles: stack.yaml's, else .env's, and those that were brought up later."""
    said = stack.environments[name].profiles or filter(None, shown.get("COMPOSE_PROFILES", "").split(","))
    profiles = dict.fromkeys((*said, *(_remembered(_file(stack, name)) if remembered else ())))
    return {"COMPOSE_PROFILES": ",".join(profiles)} if profiles else {}


def remember_profiles(stack: Stack, name: str, profiles: Iterable[str]) -> None:
    """Let these profiles, instead of earlier ones, belong to an environment on this machine until `forget_profiles`.

    It is no fault if this cannot be remembered: then the services are started by the command that has started them now.
    """
    file = _file(stack, name)
    with contextlib.suppress(OSError, WrittenByNewer):
        _remembered(file)  # what a later version remembers stays
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(file, json.dumps(PROFILES.stamped({"profiles": sorted(set(profiles))})).encode(), mode=0o600)


def forget_profiles(stack: Stack, name: str) -> None:
    """Let only those profiles belong to an environment that stack.yaml or .env names."""
    with contextlib.suppress(OSError):
        _file(stack, name).unlink()


def _file(stack: Stack, name: str) -> Path:
    return state_folder() / stack.name / f"profiles-{stack.project(name)}.json"


def _remembered(file: Path) -> list[str]:
    """Return the profiles in a file; none if it cannot be read.

    Raises:
        WrittenByNewer: a later version remembers something there.
    """
    try:
        said = PROFILES.opened(json.loads(file.read_bytes()), str(file))["profiles"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return [one for one in said if isinstance(one, str)] if isinstance(said, list) else []


def _shell() -> dict[str, str]:
    """Return the shell's variables, without those that configure Compose, the Docker CLI or sops."""
    return {name: value for name, value in os.environ.items() if not (name in SETTINGS or name.startswith("SOPS_"))}


def _at_hand(call: Invocation, name: str) -> Mapping[str, Secret]:
    """Return an environment's secrets if they can be read; otherwise none, and .env has to do."""
    try:
        return call.vault.of(name, create=False)
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
    texts = [read_text(file, str(file.relative_to(root)) if file.is_relative_to(root) else str(file)) for file in files]
    mentioned = {name for text in texts for name in re.findall(r"\$\{?([A-Za-z_]\w*)", text)}
    found = {**written, **{name: shell[name] for name in mentioned if name in shell}, **values}
    if any(_MAY_BE_MORE.search(text) for text in texts):
        # Imported here because few files need it, and the parser of YAML takes long to import.
        from conche.engine.bombs import refuse_bombs

        refuse_bombs(root, files, {**shell, **found})
    return found


def _called_by(stack: Stack) -> dict[str, str]:
    """Return the variables by which two copies of a stack on one engine have names of their own."""
    registry = {"CONCHE_REGISTRY": stack.registry} if stack.registry else {}
    return {"CONCHE_NAME": stack.name, "CONCHE_CONTAINERS": stack.name.replace("-", "_"), **registry}


def _dotenv(
    file: Path, environment: Environment, shell: Mapping[str, str], say: Callable[[str], None]
) -> dict[str, str]:
    """Read .env by Compose's rules; of the settings of Compose and the Docker CLI keep only the profiles."""
    if not file.is_file():
        return {}
    from conche.vault.dotenv import parse

    text = read_text(file, file.name)
    plain = _PLAIN.fullmatch(text)
    found = parse(text) if plain else as_compose_reads(Engine(environment.engine), file, shell)
    settings = {name for name in found if name in SETTINGS and name != "COMPOSE_PROFILES"}
    if strange := sorted(settings - SAID_IN_STACK):
        say(f"warning: {', '.join(strange)} in .env is ignored: stack.yaml determines it")
    return {name: value for name, value in found.items() if name not in settings}
