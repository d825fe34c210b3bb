"""What is kept carries its format; older ones are read, newer ones are left alone, and nonsense is neither."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyrage
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conche import formats
from conche.backup import envelope, holding, manifest, running, scaling
from conche.backup.exchange import Aside, Journal
from conche.backup.mac import KEYLESS
from conche.backup.prune import RetentionCandidate, decide, decide_future
from conche.backup.target import StoredBackup, Target
from conche.backup.verify import check
from conche.env import definitions
from conche.errors import CheckFailed, Refused
from conche.formats import EVERY, Format, WrittenByNewer, number_of
from conche.release.document import Document
from conche.release.records import PastRelease, Result
from conche.release.signing import FORMATS, SIGNED
from conche.secret import Redactor
from conche.stack import Retention, parse
from conche.vault import render
from conche.vault.keys import PREFIX
from conche.vault.vault import Vault
from conche.version import version
from tests.architecture.source import SOURCES, nodes
from tests.formats import made

ROOT = made.ROOT
KEPT = ROOT / "tests/data/formats"
EVER = sorted(KEPT.iterdir())
LATER = "9.0.0"

NO_STATE = {
    "ci/run.py": {"run"},  # act's event
    "ci/provision/probe.py": {"_commit"},  # a workflow, for the server
    "engine/builds.py": {"build"},  # Compose's input
    "engine/dotenv.py": {"as_compose_reads"},  # Compose's input
    "engine/hashes.py": {"resolved", "without_dependencies"},  # Compose's input
    "engine/images.py": {"contents"},  # a digest's input
    "engine/rendered.py": {"flat"},  # compared
    "engine/sources.py": {"fingerprint"},  # a digest's input
    "release/document.py": {
        "content",
        "unpacked",
        "masked_in",
        "renumbered",
        "definition",
        "shape",
    },  # Compose's input
    "release/signing.py": {"signed", "_canonical"},  # the envelope of what is stamped; a digest's input
    "env/rollout/swarm.py": {"docker_config"},  # Docker's
    "env/rollout/swarm_stack.py": {"content"},  # Docker's input
    "env/config.py": {"config"},  # shown
    "env/trial.py": {"start_and_wait"},  # Compose's input
    "supply/base.py": {"import_argv"},  # Docker's input
    "supply/registry.py": {"_token"},  # a key in memory
    "init/env_files.py": {"without"},  # Compose's input
    "init/writing.py": {"flow"},  # a line of stack.yaml
    "output.py": {"_hand_on", "_document"},  # shown, with a schema of its own
    "secret.py": {"forms"},  # searched for
    "vault/sops.py": {"encrypt", "set_value", "_index", "_values"},  # sops's input, and values as text
    "vault/readers.py": {"_parsed"},  # compared
    "stack/model.py": {"write_schema"},  # the schema of stack.yaml
    "stack/reading.py": {"parse"},  # in memory
    "testing/forge/server.py": {"send"},  # a stand-in's answer
    "testing/forge/git.py": {"go_on"},  # the same
    "backup/unchanged.py": {"_how", "_plain"},  # a digest's input; a MAC's
    "backup/envelope.py": {"rendered"},  # carries its format as schema_
}
"""Where JSON is written that nobody keeps, by file and function."""


@pytest.fixture(params=EVER, ids=lambda folder: f"format {folder.name}")
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of what was kept in one of the formats that there have been."""
    return Path(shutil.copytree(request.param, tmp_path / "there"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What this version keeps, written once."""
    folder = tmp_path_factory.mktemp("written")
    made.make(folder, by=version())
    return folder


@pytest.fixture
def now(written: Path, tmp_path: Path) -> Path:
    """A copy of what this version keeps."""
    return Path(shutil.copytree(written, tmp_path / "now"))


def writers() -> Iterator[tuple[str, str, bool]]:
    """Each place where JSON is written: file, function, and whether with a format."""
    for source in SOURCES:
        for function in nodes(source) if "json.dump" in source.read_text() else ():
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Call) and _writes_json(node.func):
                        said = [below for below in ast.walk(node) if isinstance(below, ast.Attribute)]
                        stamped = any(one.attr == "stamped" for one in said)
                        yield source.relative_to(ROOT / "conche").as_posix(), function.name, stamped


def _writes_json(function: ast.expr) -> bool:
    return isinstance(function, ast.Attribute) and ast.unparse(function) in ("json.dumps", "json.dump")


def test_whoever_keeps_json_says_its_format() -> None:
    silent = {(file, name) for file, name, stamped in writers() if not stamped}

    assert silent == {(file, name) for file, names in NO_STATE.items() for name in names}


def test_every_format_is_written_somewhere() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "conche").rglob("*.py") if path.name != "formats.py")
    names = {name for name, one in vars(formats).items() if isinstance(one, Format)}

    assert {name for name in names if name not in sources} == set()
    assert len({one.name for one in EVERY}) == len(EVERY) == len(names)


def test_the_reference_lists_every_format() -> None:
    page = (ROOT / "docs/reference/formats.md").read_text()

    assert [one.name for one in EVERY if f"| {one.name} | {one.number} | {one.where} |" not in page] == []


def test_the_present_formats_are_among_the_kept_ones() -> None:
    assert EVER[-1].name == str(max(one.number for one in EVERY))


def identity() -> Any:
    [line] = [line for line in made.KEY.read_text().splitlines() if line.startswith(PREFIX)]
    return pyrage.x25519.Identity.from_str(line)


def test_releases_of_every_format_are_read_and_go_on(there: Path) -> None:
    kept = made.records(there / "releases")

    assert [entry.result for entry in kept.entries] == [Result.SUCCEEDED, Result.RESTORED, Result.RUNNING]
    assert kept.entries[1] == PastRelease(2, made.record(2), made.FAILED)
    assert kept.current == made.record(1).carrying({"web": ["7e57"]})
    assert kept.unfinished == made.record(3)
    assert (kept.frozen(), kept.maintained, kept.replicas()) == (made.FREEZE, True, made.REPLICAS)
    assert (kept.handover("r3"), kept.scaling) == (("c0ffee",), ("web", 2))
    sealed = kept.sealed(made.record(1))
    assert sealed is not None
    assert Document.unpacked(pyrage.decrypt(sealed, [identity()])) == made.DOCUMENT

    kept.end(made.record(3), made.SUCCEEDED)
    kept.freeze({})
    kept.scale({"web": 1})

    after = made.records(there / "releases")
    assert after.current == made.record(3).carrying({"web": ["7e57"]})
    assert (after.frozen(), after.replicas()) == (None, {"web": 1})


def test_backups_of_every_format_are_read_and_go_on(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(there / "user"))
    target = Target(there / "backups", "guestbook")

    [found] = target.backups()
    assert found.manifest is not None
    assert check(found.folder, found.manifest, deep=True) == []
    assert target.record(found).verified == datetime(2026, 11, 27, 20, 41, tzinfo=UTC)
    assert holding._read(target.store, None) == holding._Note(None, ("guestbook-data",), ("c0ffee",), ("decaf",))

    number = json.loads((target.folder / ".conche-target").read_text())["target"]
    with target.locked("a test"):
        target.note(found, target.record(found))
    lifted = json.loads((target.folder / ".conche-target").read_text())
    assert (lifted["target"], number_of(lifted)) == (number, formats.TARGET.number)
    assert target.record(found).verified is not None


def test_what_restores_and_users_keep_is_read_of_every_format(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Journal.read(there / "restores") == made.JOURNAL
    assert Aside("0123abcd", None, "guestbook-data") in Aside.every(there / "restores")
    records = list((there / "restores").glob("restored-*.json"))
    restored, damaged = Journal.restored(there / "restores")
    assert (len(restored), damaged) == (len(records), [])

    monkeypatch.setenv("XDG_STATE_HOME", str(there / "user"))
    stack = parse(made.STACK)
    assert stack.secrets is not None
    known = Vault(stack, there / "checkout", Redactor(), print).of("dev", create=False)
    assert {name: value.reveal() for name, value in known.items()} == {"web_token": "for-development"}
    assert made.HASH in definitions._read(definitions._file("guestbook", "guestbook-dev"))[1]

    folder = there / "checkout" / stack.secrets.folder
    said = json.loads((folder / render.RECORD).read_text())
    [moment, _] = said.get("files", said)["web_token.txt"]
    os.utime(folder / "web_token.txt", ns=(moment, moment))
    assert render._ours(folder) == [folder / "web_token.txt"]


def later(file: Path) -> None:
    """Have a later version have written a file."""
    said = json.loads(file.read_text())
    content = said["content"] if file.name in SIGNED else said
    content.update({"format": content["format"] + 1, "conche": LATER, "new": {"shape": True}})
    if file.name in SIGNED:
        said["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps(said))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refused(call: Callable[[], object], folder: Path) -> None:
    """See that a call names both versions and changes nothing."""
    before = contents(folder)

    with pytest.raises(WrittenByNewer) as caught:
        call()

    assert caught.value.code == "format-newer"
    assert f"Conche {LATER} in format " in caught.value.message
    assert f"This is Conche {version()}" in caught.value.message
    assert contents(folder) == before


@pytest.mark.parametrize("name", FORMATS)
def test_releases_with_something_newer_are_shown_and_not_changed(name: str, now: Path) -> None:
    folder = now / "releases"
    place = "releases/r2" if name in SIGNED else "."
    later(folder / place / name)

    kept = made.records(folder)

    assert kept.newer is not None
    assert kept.current == made.record(1).carrying({"web": ["7e57"]})
    assert [entry.result for entry in kept.entries][1] is (Result.NEWER if name in SIGNED else Result.RESTORED)
    assert kept.frozen()
    changes: dict[str, Callable[[], object]] = {
        "begin": lambda: kept.begin(made.record(4), b"sealed", b"salt"),
        "end": lambda: kept.end(made.record(3), made.SUCCEEDED),
        "remade": lambda: kept.remade(made.record(1), {"web": ["hash"]}),
        "freeze": lambda: kept.freeze({}),
        "maintain": lambda: kept.maintain(on=False),
        "scale": lambda: kept.scale({}),
        "handover": lambda: kept.note_handover("r4", []),
        "scaling": kept.note_scaling,
        "forget": lambda: kept.forget(1),
    }
    for change in changes.values():
        refused(change, folder)


def test_a_newer_document_is_not_started_from() -> None:
    said = json.loads(made.DOCUMENT.packed()) | {"format": formats.DOCUMENT.number + 1, "conche": LATER}

    with pytest.raises(WrittenByNewer, match=r"the document of a release was written by Conche 9\.0\.0 in format 3"):
        Document.unpacked(json.dumps(said).encode())


@pytest.mark.parametrize("name", [".conche-target", "target.json"])
def test_a_target_with_a_newer_mark_is_shown_and_not_changed(
    name: str, now: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(now / "user"))
    target = Target(now / "backups", "guestbook")
    memory = now / "user/conche/guestbook/target.json"
    memory.rename(target.mark._state)
    later(target.folder / name if name == ".conche-target" else target.mark._state)

    [found] = target.backups()
    assert found.manifest is not None
    (target.store / "backup.lock").touch(mode=0o600)

    def lock() -> None:
        with target.locked("a test"):
            raise AssertionError("it was locked")

    before = {name: content for name, content in contents(now).items() if not name.endswith(".lock")}
    with pytest.raises(WrittenByNewer, match=f"Conche {LATER} in format [23]"):
        lock()
    assert {name: content for name, content in contents(now).items() if not name.endswith(".lock")} == before


def foreign(folder: Path, schema: str, tools: object) -> StoredBackup:
    """A backup whose manifest is whole and of another format."""
    file = next(folder.glob("backups/daily/*/manifest.json"))
    said = json.loads(file.read_text())
    del said["digest"]
    said |= {"schema_": schema, "tools": tools, "new": {}}
    file.write_bytes(envelope.closed(said, KEYLESS))
    return StoredBackup(file.parent, "daily", datetime(2026, 11, 27, tzinfo=UTC))


def test_a_newer_backup_is_named_and_kept(now: Path) -> None:
    newer, known = (f"conche-backup/{formats.MANIFEST.number + more}" for more in (1, 0))
    found = foreign(now, newer, {"conche": LATER})

    assert (found.manifest, found.made_by) == (None, f"Conche {LATER}")
    with pytest.raises(CheckFailed) as caught:
        manifest.read(found.folder)
    assert f"made by Conche {LATER}: its manifest.json is '{newer}'" in caught.value.message
    assert f"This is Conche {version()}, which knows {known}" in caught.value.message


@pytest.mark.parametrize("tools", [{}, {"conche": 3}, {"conche": "a b\n"}, [], None])
def test_a_backup_of_another_product_is_no_newer_one(now: Path, tools: object) -> None:
    assert foreign(now, "other/7", tools).made_by == "another tool"


@pytest.mark.parametrize("future", [False, True])
def test_retention_lets_no_backup_go_that_it_cannot_read(*, future: bool) -> None:
    moment, old = datetime(2026, 11, 27, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC)
    every = [
        RetentionCandidate(
            "old", "daily", moment.replace(year=2027) if future else old, verified=False, made_by="Conche 9"
        ),
        *(RetentionCandidate(f"new {day}", "daily", moment.replace(day=day), verified=True) for day in range(10, 20)),
    ]
    rule = Retention(days=1, least=1)

    decisions = decide_future(every, moment) if future else decide(every, {"daily": rule}, moment)

    [mine] = [one for one in decisions if one.name == "old"]
    assert mine.keep
    assert "made by Conche 9" in mine.why


def test_the_rest_that_is_newer_stops_whoever_would_change_it(now: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(now / "user"))
    stack = parse(made.STACK)
    assert stack.secrets is not None
    secrets, checkout = stack.secrets, now / "checkout"
    for file in ("backups/.store/waiting.json", "restores/journal.json", "restores/aside.json",
                 "restores/restored-0123abcd.json",
                 "user/conche/guestbook/dev.json", "checkout/docker/secrets/.rendered",
                 "user/conche/guestbook/definitions-guestbook-dev.json"):  # fmt: skip
        later(now / file)

    note = now / f"backups/.store/7e57.{running.NOTE}"
    note.write_text(json.dumps(formats.RUNNING.stamped({}) | {"format": formats.RUNNING.number + 1, "conche": LATER}))
    refused(lambda: running._parsed(note), now)
    refused(lambda: holding._read(now / "backups/.store", None), now)
    [scaled] = (now / "backups/.store").glob(f"*{scaling.NOTE}")
    later(scaled)
    refused(lambda: scaling._parsed(scaled), now)
    refused(lambda: Journal.read(now / "restores"), now)
    refused(lambda: Aside.add(now / "restores", made.JOURNAL), now)
    refused(lambda: Journal.restored(now / "restores"), now)
    refused(lambda: Vault(stack, checkout, Redactor(), print).of("dev", create=False), now)
    refused(lambda: render.left_over(checkout, secrets, ()), now)
    before = contents(now)
    definitions.remember("guestbook", made.CONFIGURATION, [made.CONTAINER])
    assert contents(now) == before


NONSENSE = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'{"format": 7}',
    b'{"format": true, "conche": "9"}',
    b'{"format": -1, "conche": "9"}',
    b'{"format": "9", "conche": "9"}',
    b'{"conche": "9"}',
    b"[" * 100_000,
    b"\xff",
]
"""Half written, of another product, or made to hurt."""


@pytest.mark.parametrize("name", FORMATS)
def test_nonsense_in_a_state_is_no_newer_format(name: str, now: Path) -> None:
    folder = now / "releases"
    for content in NONSENSE:
        (folder / ("releases/r2" if name in SIGNED else ".") / name).write_bytes(content)

        kept = made.records(folder)

        assert kept.newer is None, content[:40]
        assert [entry.result for entry in kept.entries][::2] == [Result.SUCCEEDED, Result.RUNNING], content[:40]
        if name in SIGNED:
            assert kept.entries[1].result is Result.DAMAGED, content[:40]
        assert (bool(kept.frozen()), bool(kept.replicas()), kept.handover("r3"), kept.scaling) is not None


@pytest.mark.parametrize("content", NONSENSE, ids=lambda content: repr(content[:40]))
def test_nonsense_in_a_journal_is_left_for_a_person(content: bytes, now: Path) -> None:
    (now / "restores/journal.json").write_bytes(content)

    with pytest.raises(CheckFailed) as caught:
        Journal.read(now / "restores")

    assert caught.value.code == "journal-damaged"
    assert caught.value.next_command.startswith("invoke backup.settle --as-it-is")


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda below: st.lists(below) | st.dictionaries(
    st.sampled_from(["format", "conche", "x"]), below), max_leaves=10))  # fmt: skip
def test_anything_has_a_number_and_opens_or_is_newer(content: object) -> None:
    one = Format("thing", 1, "nowhere")

    assert number_of(content) >= 0
    if number_of(content) <= 1:
        opened = one.opened(content)
        assert opened == content or "format" not in opened
    else:
        with pytest.raises(WrittenByNewer):
            one.opened(content)


@pytest.mark.parametrize("by", ["9.0.0\nNext: rm -rf /", "", "x" * 100, "latest"])
def test_a_version_from_outside_that_is_none_is_not_repeated(by: str) -> None:
    problem = Format("thing", 1, "nowhere").newer({"format": 2, "conche": by})

    assert problem is not None
    assert "was written by Conche of another version in format 2" in problem.message


def test_labels_carry_the_format_too() -> None:
    labels = formats.LOCK.labels("io.conche.lock")
    formats.LOCK.labelled(labels, "io.conche.lock", "x-lock")
    formats.LOCK.labelled({}, "io.conche.lock", "x-lock")
    assert labels == {"io.conche.lock.format": "1", "io.conche.lock.conche": version()}

    with pytest.raises(Refused, match=r"the lock x-lock was written by Conche 9\.0\.0 in format 2"):
        formats.LOCK.labelled(
            {"io.conche.lock.format": "2", "io.conche.lock.conche": LATER}, "io.conche.lock", "x-lock"
        )
