"""Release records: whole or known to be damaged, in the order of their numbers whatever the clock says."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conche.release.records import Ending, Placed, Record, Records, Result

PLACED = {"web": Placed("image@sha256:1", "sha256:1", "abc", "definition", ("hash",))}
GOOD, BAD = Ending("succeeded", "2026-01-01T00:00:01Z", 1.5), Ending("restored", "2026", 2, "why", ("line",))


class Files:
    """What a state volume does, in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def read(self) -> dict[str, bytes]:
        return dict(self.files)

    def write(self, files: Mapping[str, bytes]) -> None:
        self.files.update(files)

    def remove(self, paths: Iterable[str]) -> None:
        gone = tuple(f"{path}/" for path in paths)
        self.files = {path: content for path, content in self.files.items() if not path.startswith(gone)}


def records(files: Files) -> Records:
    return Records(files)  # type: ignore[arg-type]


def record(number: int, **said: Any) -> Record:
    given: dict[str, Any] = {"started": "2026-01-01T00:00:00Z", "services": PLACED, **said}
    return Record(number, "prod", "deploy", who="me", where="here", asked="x:1", revision="abc", dirty=False, **given)


def kept(*endings: Ending | None) -> Files:
    """Releases 1, 2, … with these endings."""
    files = Files()
    for number, ending in enumerate(endings, 1):
        records(files).begin(record(number), b"sealed", b"salt")
        if ending is not None:
            records(files).end(record(number), ending)
    return files


def damage(files: Files, path: str) -> None:
    files.files[path] = files.files[path].replace(b"e", b"f", 1)


def test_what_is_kept_comes_back_as_it_was() -> None:
    found = records(kept(GOOD, BAD))

    assert [entry.record for entry in found.entries] == [record(1), record(2)]
    assert [entry.ending for entry in found.entries] == [GOOD, BAD]
    assert found.sealed(record(1)) == b"sealed"
    assert found.salt == b"salt"


def test_the_current_release_is_the_newest_good_one() -> None:
    found = records(kept(GOOD, GOOD, BAD))

    assert found.current == record(2)
    assert found.unfinished is None
    assert found.following == 4


def test_a_release_without_an_ending_runs_or_was_killed() -> None:
    found = records(kept(GOOD, None))

    assert (found.current, found.unfinished) == (record(1), record(2))
    assert found.entries[1].result is Result.RUNNING


def test_only_what_came_after_the_current_release_can_be_unfinished() -> None:
    found = records(kept(None, GOOD))

    assert (found.current, found.unfinished) == (record(2), None)


@pytest.mark.parametrize("path", ["record.json", "ending.json"])
def test_a_damaged_file_is_known_and_never_used(path: str) -> None:
    files = kept(GOOD, GOOD)
    damage(files, f"releases/r2/{path}")

    found = records(files)

    assert [entry.result for entry in found.entries] == [Result.SUCCEEDED, Result.DAMAGED]
    assert found.current == record(1)
    assert found.following == 3


def test_a_release_whose_ending_is_damaged_is_settled_again() -> None:
    files = kept(GOOD, GOOD)
    damage(files, "releases/r2/ending.json")

    assert records(files).unfinished == record(2)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"content": {}}', b'{"content": {"number": 1}, "sha256": 1}'])
def test_whatever_stands_in_a_record_it_is_damaged_and_not_a_crash(content: bytes) -> None:
    files = kept(GOOD)
    files.files["releases/r1/record.json"] = content

    assert [entry.result for entry in records(files).entries] == [Result.DAMAGED]


@given(place=st.integers(0), bit=st.integers(0, 7))
def test_any_flipped_bit_is_harmless_or_known(place: int, bit: int) -> None:
    files = kept(GOOD)
    content = bytearray(files.files["releases/r1/record.json"])
    content[place % len(content)] ^= 1 << bit
    files.files["releases/r1/record.json"] = bytes(content)

    (entry,) = records(files).entries

    assert entry.record in (None, record(1))


def test_a_clock_that_is_set_back_changes_no_order() -> None:
    files = Files()
    for number, year in ((1, 2030), (2, 1970), (3, 2001)):
        records(files).begin(record(number, started=f"{year}-01-01T00:00:00Z"), b"", b"")
        records(files).end(record(number), GOOD)

    found = records(files)

    assert [entry.number for entry in found.entries] == [1, 2, 3]
    assert found.current is not None
    assert found.current.id == "r3"


def test_old_releases_are_forgotten_and_what_serves_never() -> None:
    files = kept(GOOD, BAD, BAD, BAD)

    records(files).forget(keep=2)

    assert [entry.number for entry in records(files).entries] == [1, 3, 4]


def test_a_freeze_is_said_until_it_is_thawed_and_one_that_cannot_be_read_still_holds() -> None:
    files = Files()
    assert records(files).frozen() is None
    records(files).freeze({"who": "me", "since": "now", "reason": "a feast"})
    assert (records(files).frozen() or {})["reason"] == "a feast"
    files.files["frozen.json"] = b"{half"
    assert "can no longer be read" in (records(files).frozen() or {})["reason"]
    records(files).freeze({})
    assert records(files).frozen() is None


def test_maintenance_and_scale_are_kept_and_damage_means_the_default() -> None:
    files = Files()
    records(files).maintain(on=True)
    records(files).scale({"web": 3})
    assert (records(files).maintained, records(files).replicas()) == (True, {"web": 3})

    files.files.update({"maintenance.json": b"?", "scale.json": b"[1]"})
    assert (records(files).maintained, records(files).replicas()) == (False, {})


def test_a_release_that_goes_back_is_a_new_one_that_says_where_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTOR", "a runner")

    again = record(3).again(8, {"web": ["another hash"]})

    assert (again.id, again.kind, again.of, again.asked, again.who) == ("r8", "rollback", 3, "r3", "a runner")
    assert again.services["web"].hashes == ("another hash",)
    assert again.started > record(3).started


def test_no_file_holds_more_than_what_was_given() -> None:
    files = kept(GOOD)

    assert set(json.loads(files.files["releases/r1/record.json"])) == {"sha256", "content"}
    assert sorted(files.files) == [
        "releases/r1/document.age", "releases/r1/ending.json", "releases/r1/record.json", "salt.age",
    ]  # fmt: skip


def test_a_record_knows_the_hashes_that_its_containers_were_given_when_they_were_made() -> None:
    files = kept(Ending("succeeded", "2026", 1, made={"web": ["given"], "gone": ["x"]}))
    current = records(files).current
    assert current is not None
    assert current.services["web"].hashes == ("given", "hash")

    records(files).remade(current, {"web": ["later"]})
    records(files).remade(current, {})

    again = records(files).current
    assert again is not None
    assert again.services["web"].hashes == ("given", "hash", "later")
