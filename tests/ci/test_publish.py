"""ci.publish: a release of a tag, whole or not seen, on a server of each kind."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from conche.ci.forge.client import Client
from conche.ci.forge.releases import OURS, Releases
from conche.ci.publish import section_of
from conche.errors import Unreachable
from conche.testing.forge import FakeForge, FakeRelease
from tests.ci.served import TOKEN, ask
from tests.stacks import SmallStack

CHANGES = """\
# Changelog

## [0.2.0] - 2026-12-01

### Added

- Everything.

## [0.1.0] - 2026-01-01

- The beginning.
"""


@pytest.fixture
def tagged(stack: SmallStack, forge: FakeForge) -> SmallStack:
    """A checkout with packages and a changelog, whose server has the tag."""
    forge.tags["v0.2.0"] = "c" * 40
    for name, content in (("app.whl", b"PK\x03\x04\xff"), ("SHA256SUMS", b"of the wheel\n")):
        (stack.folder / "dist").mkdir(exist_ok=True)
        (stack.folder / "dist" / name).write_bytes(content)
    (stack.folder / "CHANGELOG.md").write_text(CHANGES)
    return stack


def content(forge: FakeForge) -> dict[str, bytes]:
    [release] = forge.releases
    assert len(release.files) == len({name for name, _ in release.files.values()})
    return dict(release.files.values())


@pytest.mark.process
@pytest.mark.parametrize("forge", ["gitea-1.22", "forgejo-7", "forgejo-15"], indirect=True)
def test_a_release_has_its_files_and_what_the_changelog_says(tagged: SmallStack, forge: FakeForge) -> None:
    said = ask(tagged, "ci.publish", "v0.2.0", "--files", "dist")

    [release] = forge.releases
    assert (release.tag, release.draft) == ("v0.2.0", False)
    assert release.notes == "### Added\n\n- Everything."
    assert content(forge) == {"app.whl": b"PK\x03\x04\xff", "SHA256SUMS": b"of the wheel\n"}
    assert said["value"]["url"].endswith("/releases/tag/v0.2.0")
    assert {one["name"]: one["state"] for one in said["value"]["files"]} == {
        "SHA256SUMS": "attached", "app.whl": "attached",
    }  # fmt: skip

    again = ask(tagged, "ci.publish", "v0.2.0", "--files", "dist")

    assert (again["changed"], len(forge.releases)) == (False, 1)
    assert {one["state"] for one in again["value"]["files"]} == {"was there"}


@pytest.mark.process
def test_an_old_release_is_found_behind_all_the_newer_ones(tagged: SmallStack, forge: FakeForge) -> None:
    forge.releases.append(FakeRelease(1, "v0.2.0", draft=False))
    forge.releases += [FakeRelease(number, f"v1.{number}", draft=False) for number in range(2, 60)]
    (tagged.folder / "dist/.gitignore").write_text("*")

    ask(tagged, "ci.publish", "v0.2.0", "--files", "dist")

    assert len(forge.releases) == 59
    assert {name for name, _ in forge.releases[0].files.values()} == {"app.whl", "SHA256SUMS"}


@pytest.mark.process
def test_a_job_publishes_to_the_server_that_runs_it(tagged: SmallStack, forge: FakeForge) -> None:
    described = (tagged.folder / "stack.yaml").read_text()
    tagged.write("stack.yaml", described.replace(f"server: '{forge.address}', repository: team/app, ", ""))
    job = {"GITHUB_SERVER_URL": forge.address, "GITHUB_REPOSITORY": "team/app"}

    ask(tagged, "ci.publish", "v0.2.0", "--files", "dist", **job)

    assert not forge.releases[0].draft


@pytest.mark.process
def test_a_dry_run_says_what_would_be_done_and_asks_for_nothing_else(tagged: SmallStack, forge: FakeForge) -> None:
    said = ask(tagged, "ci.publish", "v0.2.0", "--files", "dist", "--dry-run")

    assert [(step["action"], step["subject"]) for step in said["plan"]] == [
        ("create", "release v0.2.0"),
        ("add", "file SHA256SUMS"),
        ("add", "file app.whl"),
        ("publish", "release v0.2.0"),
    ]
    assert forge.releases == []
    assert {one.partition(" ")[0] for one in forge.asked} == {"GET"}


@pytest.mark.process
@pytest.mark.parametrize(
    "held", [{}, {1: ("app.whl", b"half")}, {1: ("app.whl", b"PK\x03\x04\xff"), 2: ("app.whl", b"x")}]
)
def test_what_a_killed_call_has_left_is_finished(
    tagged: SmallStack, forge: FakeForge, held: dict[int, tuple[str, bytes]]
) -> None:
    forge.releases.append(FakeRelease(1, "v0.2.0", f"old notes\n\n{OURS}\n", draft=True, files=dict(held)))

    ask(tagged, "ci.publish", "v0.2.0", "--files", "dist")

    assert content(forge) == {"app.whl": b"PK\x03\x04\xff", "SHA256SUMS": b"of the wheel\n"}
    assert not forge.releases[0].draft
    assert forge.releases[0].notes == section_of(tagged.folder, "v0.2.0") != ""


@pytest.mark.process
@pytest.mark.parametrize("notes", ["", "What a person writes.", f"{OURS}\nWhat a person has added."])
def test_of_a_draft_that_a_person_has_made_nothing_is_replaced_unless_that_is_asked_for(
    tagged: SmallStack, forge: FakeForge, notes: str
) -> None:
    held = {1: ("app.whl", b"theirs"), 2: ("read.me", b"theirs, too")}
    forge.releases.append(FakeRelease(1, "v0.2.0", notes, draft=True, files=dict(held)))

    refused = ask(tagged, "ci.publish", "v0.2.0", "--files", "dist")["error"]

    assert (refused["code"], refused["exit_code"]) == ("release-file-differs", 2)
    assert "somebody has attached to its draft" in refused["message"]
    assert (forge.releases[0].draft, forge.releases[0].notes, forge.releases[0].files) == (True, notes, held)
    assert {one.partition(" ")[0] for one in forge.asked} == {"GET"}

    said = ask(tagged, "ci.publish", "v0.2.0", "--files", "dist", "--force")

    assert [(step["action"], step["cause"]) for step in said["plan"]][1:] == [
        ("replace", "the release has another of that name"),
        ("publish", "the draft that somebody has made, with its text"),
    ]
    assert (forge.releases[0].draft, forge.releases[0].notes) == (False, notes)
    assert content(forge)["read.me"] == b"theirs, too"


@pytest.mark.process
def test_a_file_that_people_may_have_is_replaced_only_when_that_is_asked_for(
    tagged: SmallStack, forge: FakeForge
) -> None:
    ask(tagged, "ci.publish", "v0.2.0", "--files", "dist")
    (tagged.folder / "dist/app.whl").write_bytes(b"PK\x03\x04\xfe")

    refused = tagged.invoke("ci.publish", "v0.2.0", "--files", "dist/app.whl", "--json", FORGEJO_TOKEN=TOKEN)

    assert (refused.returncode, json.loads(refused.stdout)["error"]["code"]) == (2, "release-file-differs")
    assert content(forge)["app.whl"] == b"PK\x03\x04\xff"

    said = ask(tagged, "ci.publish", "v0.2.0", "--files", "dist/app.whl", "--force")

    assert content(forge)["app.whl"] == b"PK\x03\x04\xfe"
    assert [step["action"] for step in said["plan"]] == ["replace"]


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["v0.3.0", "--files", "dist"], "no-such-ref"),
        (["v0.2.0", "--files", "absent"], "no-such-file"),
        (["v0.2.0", "--files", "empty"], "no-such-file"),
        (["v0.2.0", "--files", "dist", "--files", "other/app.whl"], "names-repeat"),
        (["v0.1.0", "--files", "dist"], "tag-differs"),
        (["v0.2.0", "--files", "dist", "--notes", "absent.md"], "file-unreadable"),
    ],
)
def test_what_cannot_be_published_is_refused_before_anything_is_made(
    tagged: SmallStack, forge: FakeForge, words: list[str], code: str
) -> None:
    for folder in ("empty", "other"):
        (tagged.folder / folder).mkdir()
    tagged.write("other/app.whl", "another")
    identity = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false")
    for git in (("init", "--quiet"), ("commit", "--quiet", "--allow-empty", "--message", "one"), ("tag", "v0.1.0")):
        subprocess.run(["git", "-C", str(tagged.folder), *identity, *git], check=True)
    forge.tags["v0.1.0"] = "d" * 40

    refused = tagged.invoke("ci.publish", *words, "--json", FORGEJO_TOKEN=TOKEN)

    assert json.loads(refused.stdout)["error"]["code"] == code
    assert forge.releases == []


@pytest.mark.parametrize("said", [{"message": "of another product"}, ["text"], [{"tag": "v1"}], 7])
def test_an_answer_of_another_shape_is_told_in_words(said: Any) -> None:
    client = SimpleNamespace(json=lambda *_: said)
    releases = Releases(cast("Client", client), "team/app")

    for ask_for in (releases.commit_of, releases.find):
        with pytest.raises(Unreachable, match="in a form that is not known"):
            ask_for("v1")


@pytest.mark.parametrize(
    ("tag", "says"),
    [("v0.2.0", "### Added\n\n- Everything."), ("0.1.0", "- The beginning."), ("v0.2", ""), ("v0.2.0-rc1", "")],
)
def test_the_section_of_a_version_is_the_page_of_its_release(tmp_path: Path, tag: str, says: str) -> None:
    (tmp_path / "CHANGELOG.md").write_text(CHANGES)

    assert section_of(tmp_path, tag) == says
    assert section_of(tmp_path / "elsewhere", tag) == ""
