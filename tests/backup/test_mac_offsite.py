"""Snapshots off-site: whoever has the repository's password gives any tags and any time to anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from conche.backup import mac
from conche.backup.mac import KEYLESS, Keys
from conche.backup.repository import by_name
from conche.backup.snapshots import Snapshot, snapshot_of, superfluous
from conche.vault import values
from tests.backup.proven import LATER, NOW, STRANGERS, Content, named

PROVEN = Keys((values.make(None), values.make(None)))
SENT = Snapshot("1", named(LATER), "daily", LATER.replace(microsecond=0), sound=frozenset({"models", "code"}))


def listed(*tags: str) -> Content:
    return {"id": "1", "time": "2099-01-01T00:00:00+00:00", "tags": list(tags)}


def test_a_snapshot_is_what_it_was_sent_as() -> None:
    tags = SENT.tags(PROVEN)

    assert snapshot_of(listed(*reversed(tags)), PROVEN) == SENT
    assert snapshot_of(listed(*tags), Keys(PROVEN.every[::-1])) == SENT
    assert snapshot_of(listed(*tags), KEYLESS) == SENT
    assert snapshot_of(listed(*SENT.tags()), KEYLESS) == SENT


RETAGGED: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "another name": (lambda tags: ["name=factory_daily_20300101_000000", *tags[1:]], "foreign"),
    "another kind": (lambda tags: [tags[0], "kind=monthly", *tags[2:]], "foreign"),
    "complete after all": (lambda tags: [*tags[:2], "state=degraded", *tags[3:]], "foreign"),
    "a later time": (lambda tags: [*tags[:3], "created=2030-01-01T00:00:00+00:00", *tags[4:]], "foreign"),
    "one more sound component": (lambda tags: [*tags, "sound=database"], "foreign"),
    "without a sound component": (lambda tags: [one for one in tags if one != "sound=code"], "foreign"),
    "without its time": (lambda tags: [one for one in tags if not one.startswith("created=")], "foreign"),
    "without a MAC": (lambda tags: [one for one in tags if not one.startswith("mac=")], "unproven"),
    "with the MAC of a manifest": (
        lambda tags: [*tags[:-1], f"mac={PROVEN.tag(mac.MANIFEST, chr(0).join(tags[:-1]).encode()).decode()}"],
        "foreign",
    ),
    "with a stranger's MAC": (lambda _: list(SENT.tags(STRANGERS)), "foreign"),
}


@pytest.mark.parametrize("name", RETAGGED)
def test_another_tag_proves_nothing(name: str) -> None:
    change, doubt = RETAGGED[name]
    forged = snapshot_of(listed(*change(list(SENT.tags(PROVEN)))), PROVEN)

    assert forged is not None
    assert forged.doubt == doubt
    older = [replace(SENT, id=str(day), time=NOW - timedelta(days=day)) for day in range(1, 4)]
    newer = [replace(forged, id=f"forged {number}") for number in range(9)]
    assert superfluous([*newer, *older], {"daily": 3}) == ()
    assert by_name([*newer, *older])[SENT.name] == "1"


def test_a_time_that_is_none_is_no_snapshot_of_ours() -> None:
    assert snapshot_of(listed("name=x", "kind=daily", "created=yesterday"), KEYLESS) is None
