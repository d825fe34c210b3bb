"""Write a file to attach to a bug report: versions, checks, and what kind of stack it is.

Only what is listed here goes into it, so no value and no name of a host, user, environment or service can slip in
through an error's text or an address.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from conche.command import Invocation
from conche.doctor.finding import Finding
from conche.errors import ConcheError, NotFound, Refused
from conche.files import write_atomic
from conche.stack import Stack

__all__ = ["place", "render", "write"]

HEAD = """\
# Conche report

Made by `invoke doctor --report`. It names no host, user, folder, environment, service or secret; look through it before
you attach it all the same.
"""


def place(to: str) -> Path:
    """Return the path of the report, refusing one where a file exists."""
    file = Path(to).expanduser().absolute()
    if file.exists() or file.is_symlink():
        raise Refused("file-exists", f"{file} already exists; nothing was written.", next_command="name another file")
    if not file.parent.is_dir():
        raise NotFound("no-such-folder", f"There is no folder {file.parent}.", next_command="name another file")
    return file


def write(call: Invocation, findings: Sequence[Finding], file: Path) -> None:
    """Write the report."""
    try:
        write_atomic(file, render(findings, _shape(call)).encode(), mode=0o600)
    except OSError as error:
        raise Refused(
            "report-not-written", f"{file} cannot be written: {error.strerror}.", next_command="name another file"
        ) from error


def render(findings: Iterable[Finding], shape: Iterable[str]) -> str:
    """Return the report's text."""
    rows = [f"| {one.name} | {one.state} | {_said(one)} |" for one in findings]
    table = "\n".join(["| what | state | found |", "|---|---|---|", *rows])
    kinds = "\n".join(f"- {line}" for line in shape)
    return f"{HEAD}\n## Checks\n\n{table}\n\n## Stack\n\n{kinds}\n"


def _said(one: Finding) -> str:
    """Return what was found, limited to what identifies nobody: versions, figures, and the code of an error."""
    versions = [f"{name} {version}" for name, version in one.versions.items()]
    parts = [one.found] if one.plain else versions
    return ", ".join([*parts, *([f"error {one.code}"] if one.code else [])])


def _shape(call: Invocation) -> Iterator[str]:
    try:
        stack = call.stack
    except ConcheError as error:
        yield f"not read: error {error.code}, {len(error.evidence)} problems"
        return
    yield from _kinds(stack)


def _kinds(stack: Stack) -> Iterator[str]:
    """Yield which kinds of things a stack file has, and how many."""
    every = stack.environments.values()
    engines = Counter((one.engine or "local").partition("://")[0] for one in every)
    yield f"environments: {len(every)}; engines: {_counted(engines)}"
    hooks = sum(bool(one.deploy.hooks) for one in every)
    yield f"with an edge: {sum(one.deploy.edge is not None for one in every)}; with hooks: {hooks}"
    yield f"images: {len(stack.images)}; base images: {len(stack.bases)}; login: {_word(stack.login)}"
    yield f"secrets: {len(stack.secrets.declared) if stack.secrets else 'none'}"
    if stack.backup is not None:
        drivers = Counter(str(component.driver) for component in stack.backup.components.values())
        yield f"backup: {_counted(drivers)}; off-site: {_word(stack.backup.offsite)}"
    yield f"notifications: {_word(stack.notifications)}"


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))


def _word(section: object | None) -> str:
    return "no" if section is None else "yes"
