"""Sends pings and notifications around a command; the command's own errors pass through unchanged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from conche.backup.site import Site
from conche.command import Invocation
from conche.errors import ConcheError, Told
from conche.notify import notify, ping
from conche.outcome import Outcome
from conche.secret import Secret

__all__ = ["reported", "secrets_of"]


@contextlib.contextmanager
def reported(call: Invocation, site: Site, what: str) -> Iterator[Callable[[Outcome], None]]:
    """Report to those who want to know how this block ends; the block calls the given function with its outcome."""
    told: list[Outcome] = []
    values = _values(call, site)
    _ping(site, values, "start")
    try:
        yield told.append
    except Told as error:
        _ping(site, values, "fail")
        _notify(site, values, f"{what} FAILED", f"[{error.code}] {error.message}", failure=True)
        raise
    except BaseException:
        _ping(site, values, "fail")
        raise
    failed = bool(told and told[0].exit_code)
    _ping(site, values, "fail" if failed else "success")
    if failed:
        _notify(site, values, f"{what}: DEGRADED", "\n".join(told[0].lines), failure=True)


def secrets_of(call: Invocation, names: tuple[str, ...]) -> dict[str, Secret]:
    """Return those of these secrets that the encrypted file has.

    Raises:
        KeyUnusable: there is no key for it.
    """
    values = call.vault.everything()
    call.output.redact.learn(values[name] for name in names if name in values)
    return {name: values[name] for name in names if name in values}


def _values(call: Invocation, site: Site) -> Mapping[str, Secret]:
    notifications = site.stack.notifications
    names = (*([site.section.ping] if site.section.ping else []), *(notifications.to if notifications else ()))
    if not names:
        return {}
    try:
        return secrets_of(call, names)
    except ConcheError as error:
        site.say(f"warning: nobody will be notified: {error.message}")
        return {}


def _ping(site: Site, values: Mapping[str, Secret], event: str) -> None:
    if site.section.ping in values:
        assert site.section.ping is not None
        problem = ping(values[site.section.ping], event)  # type: ignore[arg-type]
        if problem:
            site.say(f"warning: {problem}")


def _notify(site: Site, values: Mapping[str, Secret], title: str, body: str, *, failure: bool) -> None:
    names = site.stack.notifications.to if site.stack.notifications else ()
    problem = notify(
        [values[name] for name in names if name in values], f"{site.stack.name}: {title}", body, failure=failure
    )
    if problem:
        site.say(f"warning: {problem}")
