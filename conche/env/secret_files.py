"""The secret files of an environment: written before it is looked at, and whose containers have an older one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from conche.command import Invocation
from conche.env.observe import Observed
from conche.secret import Secret
from conche.session import Session
from conche.vault.values import used_by

__all__ = ["having_older", "mounting", "write"]


def write(call: Invocation, name: str, secrets: Mapping[str, Secret]) -> tuple[set[Path], frozenset[Path]]:
    """Write the secret files that differ from the secrets, and remove those of secrets that are unset.

    Returns:
        The files that have changed, and those that are there now; in a dry run, what these would be.
    """
    section = call.stack.secrets
    if section is None:
        return set(), frozenset()
    from conche.vault import render

    wanted = used_by(section, name)
    if not secrets and call.vault.key is None:
        return set(), frozenset()  # nobody can tell what they say
    # Compose cannot mount a file that is not there, so an absent optional secret becomes an empty one.
    staged = render.files(call.root, section, {**render.emptied(call.root, section, wanted), **secrets})
    changed = [one for one in staged if one.state != "same"]
    gone = [path for path in render.left_over(call.root, section, staged) if path.stem in wanted]
    if (changed or gone) and not call.dry_run:
        for one in changed:
            call.output.say(f"secret file {one.path.name}: {one.state}")
        for path in gone:
            call.output.say(f"secret file {path.name}: removed")
        render.write(call.root, section, changed, gone)
    return {one.path for one in changed}, frozenset(one.path for one in staged)


def having_older(session: Session, seen: Observed, changed: Collection[Path]) -> set[str]:
    """Return services with a container that was made with another secret file than there is now.

    Args:
        changed: files that this command has written, or would.
    """
    return mounting(seen, changed) | _outdated(session, seen)


def mounting(seen: Observed, files: Collection[Path]) -> set[str]:
    """Return services with a container that mounts one of these files, or its folder."""
    real = {file.resolve() for file in files}
    real |= {file.parent for file in real}
    return {one.service for one in seen.containers if any(Path(bind).resolve() in real for bind in one.binds)}


def _outdated(session: Session, seen: Observed) -> set[str]:
    """Return services older than a secret file that they mount, written by a killed command or by hand."""
    call = session.call
    section = call.stack.secrets
    if section is None or not session.engine.is_local:
        return set()
    found = set()
    for name in {*section.declared, *section.htpasswd}:
        file = call.root / section.folder / f"{name}.txt"
        if file.exists():
            written = file.stat().st_mtime
            users = mounting(seen, [file])
            started = [c for c in seen.containers if c.service in users and c.started_at]
            found |= {c.service for c in started if c.started_at and c.started_at.timestamp() < written}
    return found
