"""What is wanted of an environment beyond its releases: read, or told as unreadable, and never taken for nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conche import formats
from conche.formats import Format
from conche.release.desired import DesiredState, described
from conche.release.signing import packed

KINDS = {
    "maintenance.json": formats.MAINTENANCE,
    "scale.json": formats.SCALE,
    "handover.json": formats.HANDOVER,
    "scaling.json": formats.SCALING,
}
NOTHING = DesiredState(maintained=False, replicas={}, handover=("", ()), scaling=None, damaged=())

NONSENSE = [b"", b"{", b"null", b"[]", b"7", b'"text"', b"\xff", b"[" * 100_000]
WRONG = [
    ("maintenance.json", {}),
    ("maintenance.json", {"on": "yes"}),
    ("maintenance.json", {"on": None}),
    ("scale.json", {"replicas": None}),
    ("scale.json", {"replicas": ["web"]}),
    ("scale.json", {"replicas": {"web": "3"}}),
    ("scale.json", {"replicas": {"web": True}}),
    ("scale.json", {"replicas": {"web": -1}}),
    ("handover.json", {}),
    ("handover.json", {"release": "r1"}),
    ("handover.json", {"release": 1, "containers": []}),
    ("handover.json", {"release": "r1", "containers": "c0ffee"}),
    ("handover.json", {"release": "r1", "containers": [None]}),
    ("scaling.json", {"service": "web"}),
    ("scaling.json", {"service": "web", "count": "2"}),
    ("scaling.json", {"service": None, "count": 2}),
]


def test_what_was_never_written_is_nothing() -> None:
    assert DesiredState.read({}) == NOTHING


def test_what_was_written_is_read() -> None:
    files = {
        "maintenance.json": packed(formats.MAINTENANCE, {"on": True}),
        "scale.json": packed(formats.SCALE, {"replicas": {"web": 3, "format": 2}}),
        "handover.json": packed(formats.HANDOVER, {"release": "r3", "containers": ["c0ffee"]}),
        "scaling.json": packed(formats.SCALING, {"service": "web", "count": 2}),
    }

    assert DesiredState.read(files) == DesiredState(True, {"web": 3, "format": 2}, ("r3", ("c0ffee",)), ("web", 2), ())  # noqa: FBT003


def test_a_note_that_was_cleared_is_nothing() -> None:
    assert DesiredState.read({"scaling.json": packed(formats.SCALING, {})}) == NOTHING


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("content", NONSENSE, ids=lambda content: repr(content[:20]))
def test_nonsense_is_told_by_the_name_of_its_file(name: str, content: bytes) -> None:
    assert DesiredState.read({name: content}).damaged == (name,)


@pytest.mark.parametrize(("name", "content"), WRONG)
def test_a_content_of_the_wrong_shape_is_told(name: str, content: dict[str, object]) -> None:
    assert DesiredState.read({name: packed(KINDS[name], content)}).damaged == (name,)


@pytest.mark.parametrize("name", KINDS)
def test_what_a_later_version_has_written_is_not_damaged(name: str) -> None:
    later = Format("thing", KINDS[name].number + 1, "nowhere")

    assert DesiredState.read({name: packed(later, {"new": {"shape": True}})}) == NOTHING


@given(
    st.sampled_from(sorted(KINDS)),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda below: (
            st.lists(below, max_size=2)
            | st.dictionaries(
                st.sampled_from(["on", "replicas", "release", "containers", "service", "count", "format", "conche"]),
                below,
            )
        ),
        max_leaves=6,
    ),
)
def test_anything_is_read_or_told(name: str, content: object) -> None:
    found = DesiredState.read({name: json.dumps(content).encode()})

    assert found.damaged in ((), (name,))
    if found.damaged:
        assert (found.maintained, found.replicas, found.handover, found.scaling) == (False, {}, ("", ()), None)


def test_a_file_is_described_by_what_it_tells() -> None:
    said = described(["scale.json", "scaling.json"])

    assert said == "scale.json (how many containers env.scale wants), scaling.json (which service is being scaled)"
