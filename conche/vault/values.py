"""Which secrets a stack declares and where they are kept, what a value may be, and values generated for development."""

from __future__ import annotations

import json
import secrets as random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from conche.errors import KeyUnusable, Refused, did_you_mean
from conche.files import lock, state_folder, write_atomic
from conche.formats import DEVELOPMENT
from conche.secret import Secret
from conche.stack import SecretDeclaration, Secrets, Stack
from conche.vault.forms import form_of

if TYPE_CHECKING:
    from conche.vault.store import Store

__all__ = [
    "BACKUP_KEYS",
    "PLACEHOLDERS",
    "called",
    "demonstrates",
    "development",
    "files_locked",
    "how_to_declare",
    "make",
    "open_store",
    "opened",
    "require_holdable",
    "require_with",
    "stores",
    "unsealed_files",
    "used_by",
    "variables",
]

PLACEHOLDERS = frozenset({"", "your_key_here", "your_token_here", "changeme", "change_me", "todo", "xxx"})
"""Values that count as not set yet."""

BACKUP_KEYS = "conche_backup_keys"
"""The name of the secret with the keys that prove backups (conche/backup/mac_keys.py): no service gets it."""

LONGEST_VARIABLE = 32 * 4096
"""The most bytes of one variable, with its name, `=` and a NUL, with which Linux starts a program (execve(2))."""

_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
"""Only characters that are not special to Compose, dotenv or a shell, and that people do not confuse."""


def open_store(stack: Stack, root: Path) -> Store:
    """Return a stack's encrypted file; of several, the first that the present key opens.

    Raises:
        Refused: stack.yaml declares no secrets.
    """
    if stack.secrets is None:
        raise Refused(
            "no-secrets-declared",
            "stack.yaml has no section `secrets`.",
            next_command="add it as in: conche docs stack",
        )
    every = stores(stack, root)
    return next((one for one in every[1:] and every if _opens(one)), every[0])


def stores(stack: Stack, root: Path) -> list[Store]:
    """Return all of a stack's encrypted files; nothing if it declares no secrets."""
    from conche.vault.store import Store

    section = stack.secrets
    return [Store(root, root / file, _places(section, file)) for file in section.all_files] if section else []


@contextmanager
def files_locked(
    stack: Stack, root: Path, places: Iterable[Path], purpose: str, wait: float | None = None
) -> Iterator[None]:
    """Exclude changes of the encrypted files that are at or below one of these paths, for this block.

    Raises:
        Locked: a change does not end in time.
    """
    from conche.vault.store import Store

    wanted, files = set(places), stack.secrets.all_files if stack.secrets else ()
    touched = {file.name: root / file for file in files if wanted & {root / file, *(root / file).parents}}
    with ExitStack() as held:
        for name in sorted(touched):
            held.enter_context(Store(root, touched[name]).locked(purpose, wait))
        yield


def _places(section: Secrets, file: Path) -> dict[str, tuple[str, ...]]:
    """Return name -> place, for secrets not stored under their own name; dotenv stores them under their variable's."""
    by_variable = form_of(file.name) == "dotenv"
    return {
        name: tuple(one.path.split(".")) if one.path else (one.variable(name),)
        for name, one in section.declared.items()
        if one.path or by_variable
    }


def _opens(store: Store) -> bool:
    """Return whether the present key is a recipient of a file."""
    try:
        store.key()
    except (KeyUnusable, Refused):
        return False
    return True


def opened(stack: Stack, root: Path) -> tuple[Secrets, Store]:
    """Return the stack's declared secrets and its encrypted file; raises `Refused` like `open_store`."""
    store = open_store(stack, root)
    assert stack.secrets is not None
    return stack.secrets, store


def called(name: str, known: Iterable[str]) -> str:
    """Quote an unknown name for an error message only if it resembles a known one.

    People paste the value where the name belongs, and errors are kept in logs.
    """
    meant = did_you_mean(name, known)
    return f"{name!r}.{meant}" if meant else "of that name."


def how_to_declare(names: Iterable[str]) -> str:
    """Say what to do about names that are in the encrypted file but not in stack.yaml."""
    said = ", ".join(f"{name}: {{}}" for name in names)
    return f"invoke secrets.declare --all    # or under secrets.declared in stack.yaml: {said}"


def used_by(section: Secrets, environment: str) -> dict[str, SecretDeclaration]:
    """Return the declared secrets that an environment uses."""
    return {n: d for n, d in section.declared.items() if not d.environments or environment in d.environments}


def unsealed_files(stack: Stack, root: Path, environment: str) -> dict[Path, str]:
    """Return file -> secret, for those whose value no release of an environment keeps."""
    if stack.secrets is None:
        return {}
    folder, used = root / stack.secrets.folder, used_by(stack.secrets, environment)
    return {folder / f"{one}.txt": one for one, said in used.items() if not said.sealed}


def require_with(stack: Stack, environment: str, profiles: str, values: Mapping[str, Secret]) -> None:
    """Refuse an environment whose Compose profiles need a secret that has no value.

    Args:
        profiles: the value of `COMPOSE_PROFILES`.

    Raises:
        Refused: with the commands that set the missing secrets.
    """
    if stack.secrets is None:
        return
    chosen = [one.strip() for one in profiles.split(",")]
    wanted = {name: one for name, one in used_by(stack.secrets, environment).items() if one.required_with}
    absent = [name for name, one in wanted.items() if one.is_required(chosen) and name not in values]
    if absent:
        raise Refused(
            "secrets-incomplete",
            f"{environment} with the Compose profiles {profiles} requires {', '.join(absent)}, which has no value.",
            looked_at=[wanted[name].source for name in absent if wanted[name].source],
            next_command="\n".join(f"invoke secrets.set {name}" for name in absent),
        )


def variables(section: Secrets, values: Mapping[str, Secret]) -> dict[str, Secret]:
    """Return the values that go into the environment, by variable.

    Raises:
        Refused: a value does not fit into an environment.
    """
    declared = section.declared
    for name, value in values.items():
        require_holdable(name, declared[name], value)
    return {declared[n].variable(n): value for n, value in values.items() if "env" in declared[n].outputs}


def require_holdable(name: str, declared: SecretDeclaration, value: Secret) -> None:
    """Refuse a value for the environment with which no process could be started."""
    if "env" not in declared.outputs:
        return
    size = len(f"{declared.variable(name)}={value.reveal()}".encode()) + 1
    if size > LONGEST_VARIABLE or "\0" in value.reveal():
        why = "contains a NUL byte" if "\0" in value.reveal() else f"takes {size} bytes of {LONGEST_VARIABLE}"
        raise Refused(
            "value-not-for-environment",
            f"{name} cannot be an environment variable: it {why}. Nothing was changed.",
            looked_at=[f"secrets.declared.{name}.outputs in stack.yaml: {', '.join(declared.outputs)}"],
            next_command=f"give {name} `outputs: [file]` in stack.yaml, and read /run/secrets/{name} in its services",
        )


def demonstrates(store: Store, section: Secrets) -> bool:
    """Return whether the demonstration key can read the file."""
    return bool(set(store.document().recipients) & set(section.demonstration))


def make(kind: str | None) -> Secret:
    """Generate a random value."""
    if kind == "password":
        return Secret("".join(random.choice(_ALPHABET) for _ in range(24)))
    return Secret(random.token_hex({"hex16": 16, "hex20": 20}.get(kind or "", 32)))


def _first(declared: SecretDeclaration) -> Secret:
    return make(declared.generate) if declared.development is None else Secret(declared.development)


def development(
    stack: Stack,
    environment: str,
    wanted: Mapping[str, SecretDeclaration],
    say: Callable[[str], None],
    *,
    create: bool,
) -> dict[str, Secret]:
    """Return the development values of an unprotected environment: of the secrets that it requires.

    Args:
        wanted: the secrets that it uses.
        say: is told where they are kept.
        create: generate those that are missing; otherwise nothing is written.

    Raises:
        Refused: they cannot be read or kept.
    """
    required = {name: declared for name, declared in wanted.items() if declared.required}
    file = state_folder() / stack.name / f"{environment}.json"
    if not required:
        return {}
    if not create:
        return {name: value for name, value in _kept(file).items() if name in required}
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with lock(environment, "making development values", folder=file.parent, wait=10):
            known = _kept(file)
            made = {name: known.get(name) or _first(declared) for name, declared in required.items()}
            shown = {name: value.reveal() for name, value in made.items()}
            write_atomic(file, json.dumps(DEVELOPMENT.stamped({"values": shown}), indent=1).encode(), mode=0o600)
    except OSError as error:
        raise Refused(
            "development-values-not-kept",
            f"The development values of {environment} cannot be kept: {error.strerror}.",
            looked_at=[str(file)],
            next_command="set XDG_STATE_HOME to a folder of your own",
        ) from error
    say(f"{environment} uses generated development values, kept in {file}")
    return made


def _kept(file: Path) -> dict[str, Secret]:
    """Return the development values generated before; none if there is no such file.

    Raises:
        WrittenByNewer: a later version has written the file.
        Refused: it cannot be read; new values would not open what was made with these.
    """
    try:
        known = DEVELOPMENT.entries(json.loads(file.read_text()), "values", str(file))
        return {name: Secret(value) for name, value in known.items() if isinstance(value, str)}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is damaged"
        raise Refused(
            "development-values-unreadable",
            f"The development values in {file} cannot be read: {why}. What was made with them does not open with"
            " others.",
            looked_at=[str(file)],
            next_command=f"ls -l '{file}'    # restore it from a copy, if there is one\n"
            f"mv '{file}' '{file}.damaged'    # the next command makes new values",
        ) from error
