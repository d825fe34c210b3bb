"""Decides which release env.rollback goes back to, and what of the current one stays as it is."""

from __future__ import annotations

from conche.engine import images
from conche.engine.connection import Engine
from conche.env.deploy.document import Document
from conche.env.deploy.prepare import kept_images
from conche.env.deploy.records import Placed, Record, Records, Result
from conche.errors import NotFound
from conche.stack import Deploy

__all__ = ["goal_of", "kept_at_rollback"]


def goal_of(records: Records, engine: Engine, name: str, to: str | None) -> Record:
    """Return the release to go back to: the one named, or the last good one before the one that serves."""
    good = {e.record.number: e.record for e in records.entries if e.record and e.result is Result.SUCCEEDED}
    current = records.current
    if to is not None:
        number = int(to.removeprefix("r")) if to.removeprefix("r").isdigit() else -1
        if number not in good:
            raise _no_goal(records, name, f"{name} has no good release {to}.")
        candidates = [good[number]]
    else:
        candidates = [one for number, one in sorted(good.items(), reverse=True) if current and number < current.number]
    for one in candidates:
        if all(images.find(engine, p.image_id or p.image) is not None for p in one.services.values()):
            return one
    said = f"{name} has no earlier good release" if to is None else f"{to} is known, but not"
    raise _no_goal(records, name, f"{said} whose images are still on the engine.")


def _no_goal(records: Records, name: str, said: str) -> NotFound:
    rows = [f"{e.record.id if e.record else f'r{e.number}'}: {e.result.value}" for e in records.entries]
    return NotFound("no-such-release", said, looked_at=rows or ["there is none at all"], next_command=_listing(name))


def _listing(name: str) -> str:
    return f"invoke env.history --env {name}"


def kept_at_rollback(engine: Engine, deploy: Deploy, current: Record | None, document: Document) -> dict[str, Placed]:
    """Return what services not behind the edge run now, if the goal has the same content in another image."""
    if deploy.serves is None or current is None:
        return {}
    asked = {name: str(body["image"]) for name, body in document.body["services"].items() if name != deploy.serves}
    return {name: current.services[name] for name in kept_images(engine, current, asked)}
