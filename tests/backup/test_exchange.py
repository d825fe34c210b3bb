"""Two files change places and back again, whenever the exchange is interrupted and whoever writes meanwhile."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from conche.backup import settling
from conche.backup.exchange import JOURNAL, Journal, Pair
from conche.backup.settling import excluded
from conche.backup.site import Site
from conche.backup.target import Target
from conche.errors import Locked
from conche.files import write_atomic
from conche.stack import load
from conche.vault import store, values


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """What was there before, and what is staged for its place."""
    (tmp_path / "live").write_text("before")
    (tmp_path / "staged").write_text("restored")
    return Pair.of(tmp_path / "staged", tmp_path / "live")


def content(pair: Pair) -> tuple[str, str]:
    return Path(pair.live).read_text(), Path(pair.staged).read_text()


def test_what_is_exchanged_comes_back(pair: Pair) -> None:
    pair.forward()
    exchanged = content(pair)
    for _ in range(2):
        pair.back()

    assert exchanged == ("restored", "before")
    assert content(pair) == ("before", "restored")


@pytest.mark.parametrize("renames", [1, 2])
@pytest.mark.parametrize("exchanged", [False, True])
def test_an_exchange_by_three_renames_is_taken_back_from_any_of_them(pair: Pair, renames: int, exchanged: bool) -> None:
    if exchanged:
        pair.forward()
    aside = pair.live + ".exchanged"
    for source, goal in [(pair.staged, aside), (pair.live, pair.staged)][:renames]:
        os.replace(source, goal)

    pair.back()

    assert content(pair) == ("before", "restored")
    assert not os.path.lexists(aside)


def test_what_was_written_anew_after_the_exchange_gives_way_to_what_was_there_before(pair: Pair) -> None:
    pair.forward()
    write_atomic(Path(pair.live), b"edited")

    pair.back()

    assert content(pair) == ("before", "edited")


STACK = """\
name: shop
secrets: {declared: {alpha: {}}}
backup: {components: {secrets: {driver: secrets}}}
environments: {dev: {compose: [compose.yaml]}}
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "compose.yaml").write_text("services: {web: {image: x}}\n")
    (tmp_path / "stack.yaml").write_text(STACK)
    stack = load(tmp_path)
    assert stack.backup is not None
    return Site(tmp_path, stack, stack.backup, Target(tmp_path / "target", "shop"), lambda _: None)


def half_exchanged(site: Site) -> Journal:
    """A restore of the encrypted file that was killed after the exchange."""
    site.make_own()
    live, staging = site.root / "secrets.enc.yaml", site.own / "restore-1/secrets"
    staging.mkdir(parents=True)
    live.write_text("before")
    (staging / live.name).write_text("restored")
    pair = Pair.of(staging / live.name, live)
    pair.forward()
    journal = Journal("1", ["secrets"], [pair], begun=True)
    journal.write(site.own)
    return journal


def test_the_encrypted_file_is_not_changed_while_a_restore_is_taken_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = half_exchanged(site)
    monkeypatch.setattr(settling, "undo", lambda *_, **__: pytest.fail("somebody changes the file"))
    monkeypatch.setattr(store, "WAIT", 0.0)

    with values.open_store(site.stack, site.root).locked("an edit"), pytest.raises(Locked, match="an edit"):
        excluded(site, journal).__enter__()
    with values.open_store(site.stack, site.root).locked("an edit"):
        settling.recover(site)

    left: Any = Journal.read(site.own)
    assert (left, left.stuck, (site.own / JOURNAL).exists()) == (journal, "", True)


def test_once_it_is_free_it_is_taken_back(site: Site) -> None:
    half_exchanged(site)

    settling.recover(site)

    assert (site.root / "secrets.enc.yaml").read_text() == "before"
    assert not (site.own / JOURNAL).exists()


@pytest.mark.parametrize(
    ("place", "free"), [("secrets.enc.yaml", False), (".", False), ("src", True), ("secrets.enc.yaml.old", True)]
)
def test_only_what_reaches_the_encrypted_file_excludes_its_changes(site: Site, place: str, free: bool) -> None:
    with values.files_locked(site.stack, site.root, [site.root / place], "a restore"):
        try:
            with values.open_store(site.stack, site.root).locked("an edit", 0.0):
                taken = True
        except Locked:
            taken = False

    assert taken is free
