"""Whether what runs is what the files of an environment say, or its last release: then env.up has little to do."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from conche.engine import state
from conche.env import report
from conche.env.observe import Observed, glance
from conche.env.secret_files import having_older
from conche.session import Session
from conche.vault.values import unsealed_files

__all__ = ["has_older_key", "standing"]


def standing(session: Session, changed: Collection[Path]) -> Observed | None:
    """Return the environment if it is well and what its files say, or is its last release, well or not; else None.

    Args:
        changed: secret files that this command has written, or would.
    """
    seen = glance(session.call.stack, session.name, session.compose)
    if seen and report.is_well(seen) and not having_older(session, seen, changed):
        return seen
    return _as_released(session)


def _as_released(session: Session) -> Observed | None:
    """Return the environment, well or not, if it runs its last release and the files still say the same; else None."""
    if not state.kept(session.engine, session.compose.project):
        return None
    # Imported here because most environments without an edge have no release.
    from conche.env.rollout.view import can_tell, look_at_release, show_records

    records = show_records(session)
    if not can_tell(session.call, records):
        return None
    found = look_at_release(session, records)
    return None if found is None or found.changed or found.leftovers or found.interrupted else found


def has_older_key(session: Session, seen: Observed, changed: Collection[Path]) -> bool:
    """Return whether a container was made with an older value of a secret that no release keeps.

    Args:
        changed: files of such secrets that this command has written, or would.
    """
    if not (changed or _older_than_key(session, seen)) or not state.kept(session.engine, session.compose.project):
        return False
    from conche.env.released import has_other_key
    from conche.env.rollout.view import compose_of, of_today, opened_if_possible, show_records

    records = show_records(session)
    document = opened_if_possible(session.call, records, records.current)
    if document is None or document.masked:
        return False
    document = of_today(session.call, session.name, document)
    return has_other_key(compose_of(session.compose, document), document, seen)


def _older_than_key(session: Session, seen: Observed) -> bool:
    """Return whether a container is older than the file of a secret that no release keeps."""
    files = unsealed_files(session.call.stack, session.call.root, session.name)
    written = [file.stat().st_mtime for file in files if file.exists()]
    made = [one.created_at.timestamp() for one in seen.containers if one.created_at]
    return bool(written and made) and max(written) > min(made)
