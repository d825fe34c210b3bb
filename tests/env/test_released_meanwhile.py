"""`env.up` of a release, overtaken by a deployment from another machine while it waits for the engine's lock."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from conche.env import released
from conche.errors import Locked
from conche.session import Session


def records(current: str, unfinished: str = "") -> Any:
    """What the state of an environment says of its releases."""
    ids = [SimpleNamespace(id=one) if one else None for one in (current, unfinished)]
    return SimpleNamespace(current=ids[0], unfinished=ids[1])


def require_current(monkeypatch: pytest.MonkeyPatch, read: Any, now: Any) -> None:
    monkeypatch.setattr(released, "open_records", lambda *_: now)
    nothing = cast(Any, None)
    released._require_current(Session(nothing, "prod", nothing), read)


@pytest.mark.parametrize(
    ("now", "newest"), [(records("r6"), "r6"), (records("r5", "r6"), "r6")], ids=["committed", "begun"]
)
def test_what_was_released_meanwhile_is_not_taken_back(monkeypatch: pytest.MonkeyPatch, now: Any, newest: str) -> None:
    with pytest.raises(Locked) as raised:
        require_current(monkeypatch, records("r5"), now)

    assert (raised.value.code, raised.value.looked_at) == ("released-meanwhile", (newest,))


@pytest.mark.parametrize("unfinished", ["", "r6"], ids=["nothing", "a release that was killed before"])
def test_what_was_there_before_is_no_reason(monkeypatch: pytest.MonkeyPatch, unfinished: str) -> None:
    require_current(monkeypatch, records("r5", unfinished), records("r5", unfinished))
