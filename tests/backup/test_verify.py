"""backup.verify: every kind of damage is found, down to each single bit of the manifest."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from conche.backup import manifest
from conche.backup.verify import check
from conche.errors import CheckFailed
from tests.backup.checkouts import Checkout

pytestmark = pytest.mark.process

ARCHIVE, PLAIN = "code/src.tar.gz", "models/prophet_1.pkl"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkout = Checkout.create(tmp_path_factory.mktemp("verify"))
    return checkout.create_backup()


@pytest.fixture
def backup(made: Path) -> Path:
    assert check(made, manifest.read(made), deep=True) == []
    return made


def damage_with_flipped(file: Path, backup: Path, bits: Iterable[int]) -> Iterator[tuple[int, list[str]]]:
    """Each bit of a file by itself, and what is found wrong while it is another one.

    The byte is overwritten in place: a file that is cut and written anew is flushed to the disk each time.
    """
    whole = file.read_bytes()
    with file.open("r+b", buffering=0) as stream:
        for bit in bits:
            place = bit // 8
            os.pwrite(stream.fileno(), bytes([whole[place] ^ 1 << bit % 8]), place)
            yield bit, damage(backup)
            os.pwrite(stream.fileno(), whole[place : place + 1], place)
    assert file.read_bytes() == whole


def damage(folder: Path) -> list[str]:
    try:
        return [str(one) for one in check(folder, manifest.read(folder))]
    except CheckFailed as error:
        return [error.code]


def test_each_single_bit_of_the_manifest_matters(backup: Path) -> None:
    file = backup / manifest.FILE
    bits = range(file.stat().st_size * 8)
    seen = dict(damage_with_flipped(file, backup, bits))

    assert seen == {bit: ["manifest-damaged"] for bit in bits}


def test_each_single_bit_of_small_files_and_2000_of_the_large_one_are_found(backup: Path) -> None:
    source, unseen = random.Random(7), []
    for file in sorted(
        path for path in backup.rglob("*") if path.is_file() and not path.is_symlink() and path.name != manifest.FILE
    ):
        bits = range(file.stat().st_size * 8)
        chosen = bits if len(bits) < 800 else source.sample(bits, 2000 if file.name == "src.tar.gz" else 100)
        for bit, found in damage_with_flipped(file, backup, chosen):
            if found != [f"{file.relative_to(backup)} differs from what was written"]:
                unseen.append((file, bit))

    assert unseen == []


def change(name: str, content: Callable[[bytes], bytes]) -> Callable[[Path], Callable[[], object]]:
    def apply(folder: Path) -> Callable[[], object]:
        file = folder / name
        whole = file.read_bytes()
        file.write_bytes(content(whole))
        return lambda: file.write_bytes(whole)

    return apply


def rename(folder: Path) -> Callable[[], object]:
    (folder / PLAIN).rename(folder / "models/renamed.pkl")
    return lambda: (folder / "models/renamed.pkl").rename(folder / PLAIN)


def add(name: str) -> Callable[[Path], Callable[[], object]]:
    def apply(folder: Path) -> Callable[[], object]:
        (folder / name).write_text("")
        return (folder / name).unlink

    return apply


def add_folder(folder: Path) -> Callable[[], object]:
    (folder / "models/empty").mkdir()
    return (folder / "models/empty").rmdir


def other_link(folder: Path) -> Callable[[], object]:
    link = folder / "models/latest/prophet.pkl"
    link.unlink()
    link.symlink_to("../model_registry.json")

    def back() -> None:
        link.unlink()
        link.symlink_to("../prophet_1.pkl")

    return back


def link_instead(folder: Path) -> Callable[[], object]:
    file = folder / PLAIN
    file.rename(folder.parent / "aside")
    file.symlink_to("model_registry.json")
    return lambda: (folder.parent / "aside").replace(file)


@pytest.mark.parametrize(
    ("apply", "said"),
    [
        (change(ARCHIVE, lambda c: c[:-1]), ARCHIVE),
        (change(ARCHIVE, lambda c: c[: len(c) // 2]), ARCHIVE),
        (change(ARCHIVE, lambda c: b""), ARCHIVE),
        (change(ARCHIVE, lambda c: c + b"\0"), ARCHIVE),
        (change(ARCHIVE, lambda c: bytes(4096) + c[4096:]), ARCHIVE),
        (change(ARCHIVE, lambda c: c[2048:4096] + c[:2048] + c[4096:]), ARCHIVE),
        (change(PLAIN, lambda c: c.upper()), PLAIN),
        (change("MANIFEST.txt", lambda c: c + b"\n"), "MANIFEST.txt"),
        (rename, "models/renamed.pkl does not belong"),
        (add("models/extra"), "models/extra does not belong"),
        (add("extra"), "extra does not belong"),
        (add_folder, "models/empty does not belong"),
        (other_link, "is no longer the link to"),
        (link_instead, "cannot be read"),
    ],
    ids=[
        "cut by a byte", "half", "empty", "longer", "a zeroed page", "swapped", "same size", "text",
        "renamed", "extra file", "extra at the top", "extra folder", "another link", "a link for a file",
    ],
)  # fmt: skip
def test_every_damage_is_found_and_named(
    backup: Path, apply: Callable[[Path], Callable[[], object]], said: str
) -> None:
    back = apply(backup)
    try:
        found = damage(backup)
    finally:
        back()

    assert any(said in one for one in found), found


def test_without_its_manifest_it_is_no_longer_trusted(backup: Path) -> None:
    (backup / manifest.FILE).rename(backup.parent / "aside.json")
    try:
        assert damage(backup) == ["manifest-missing"]
    finally:
        (backup.parent / "aside.json").rename(backup / manifest.FILE)
