"""Notifies people when a release ends; this never changes its result."""

from __future__ import annotations

from conche.command import Invocation
from conche.errors import ConcheError
from conche.notify import notify
from conche.release.records import Record, Result

__all__ = ["tell"]


def tell(call: Invocation, record: Record, result: Result, cause: str = "") -> list[str]:
    """Send a message to every address of `notifications` in stack.yaml; return what went wrong, in words."""
    notifications = call.stack.notifications
    if notifications is None:
        return []
    try:
        values = call.vault.everything()
    except ConcheError as error:
        return [f"could not notify anyone: {error.message}"]
    addresses = [values[name] for name in notifications.to if name in values]
    call.output.redact.learn(addresses)
    title = f"{call.stack.name} {record.environment}: {record.kind} {record.id} {result.value}"
    images = ", ".join(sorted({placed.image for placed in record.services.values()}))
    body = "\n".join(line for line in (f"by {record.who} on {record.where}", images, cause) if line)
    body = call.output.redact(body)
    problem = notify(addresses, title, body, failure=result is not Result.SUCCEEDED)
    return [problem] if problem else []
