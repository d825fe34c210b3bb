"""Tells people and a dead man's switch how a command ended; a failure to do so never fails the command.

Apprise (https://github.com/caronc/apprise) sends the messages; it knows mail, chat and phone services by address.
Pings follow the convention of healthchecks.io: URL/start, URL, URL/fail. Addresses are secrets: they contain tokens.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Literal

from conche.secret import Secret
from conche.tls import trusted

__all__ = ["notify", "ping"]

TIMEOUT = 10.0
"""Seconds after which a ping is given up."""


def ping(url: Secret, event: Literal["start", "success", "fail"]) -> str:
    """Send a ping; return what went wrong, without the address in it, or an empty string."""
    import httpx

    suffix = "" if event == "success" else f"/{event}"
    try:
        address = url.reveal().rstrip("/") + suffix
        answer = httpx.get(address, timeout=TIMEOUT, follow_redirects=True, verify=trusted())
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return f"the ping ({event}) could not be sent: {type(error).__name__}"
    return "" if answer.is_success else f"the ping ({event}) was answered with {answer.status_code}"


def notify(addresses: Sequence[Secret], title: str, body: str, *, failure: bool) -> str:
    """Send one message to every address; return what went wrong, or an empty string."""
    if not addresses:
        return ""
    import apprise

    # Apprise logs the addresses it fails to reach, with the tokens in them.
    logging.getLogger("apprise").disabled = True
    sender = apprise.Apprise()
    unknown, sent = 0, False
    with contextlib.suppress(Exception):  # a plugin may raise anything, and a notification never fails a command
        unknown = sum(not sender.add(address.reveal()) for address in addresses)
        kind = apprise.NotifyType.FAILURE if failure else apprise.NotifyType.SUCCESS
        sent = bool(sender.notify(title=title, body=body, notify_type=kind))
    if unknown:
        return f"{unknown} of {len(addresses)} notification addresses are not known to Apprise"
    return "" if sent else "a notification could not be sent"
