"""ci.logs on a server whose API has no logs: from the container of our own, or a public page, or said in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shlex import quote

import pytest

from conche.ci.forge import own as module
from conche.ci.forge.own import OwnForge
from conche.ci.logs import logs
from conche.command import Invocation
from conche.engine.compose import Compose
from conche.engine.connection import Engine
from conche.errors import NotFound, Refused
from conche.output import Output
from conche.process import Completed, run
from conche.testing.forge import FakeForge, FakeJob, FakeRun, serve

STACK = (
    "name: t\nenvironments: {{git: {{compose: [compose.yaml]}}}}\nci: {{server: '{address}', repository: team/app}}\n"
)


@pytest.fixture
def forge(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeForge]:
    monkeypatch.setenv("FORGEJO_TOKEN", "good-token-of-tests")
    with serve("forgejo-15") as fake:
        jobs = [
            FakeJob(101, "test-all", ["success"], "all passed\n"),
            FakeJob(102, "deploy-dev", ["failure"], "no room\n"),
        ]
        fake.runs = [FakeRun(41, 7, jobs)]
        yield fake


@pytest.fixture
def call(tmp_path: Path, forge: FakeForge) -> Invocation:
    root = tmp_path / "checkout"
    root.mkdir()
    (root / "stack.yaml").write_text(STACK.format(address=forge.address))
    (root / "compose.yaml").write_text("services: {}\n")
    return Invocation(root, Output("ci.logs"))


@pytest.fixture
def container(tmp_path: Path, forge: FakeForge, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a server of this stack, whose container is this machine."""
    folder = tmp_path / "gitea"

    def inside(argv: tuple[str, ...], **options: object) -> Completed:
        words = [word.replace("/var/lib/gitea", quote(str(folder))) for word in argv[argv.index("forgejo") + 1 :]]
        return run(words, exact=bool(options["exact"]))

    ours = OwnForge(Compose(Engine(), "t-git", (), {}), "forgejo", forge.address)
    monkeypatch.setattr(OwnForge, "find", classmethod(lambda *_: ours))
    monkeypatch.setattr(module, "run", inside)
    return folder


def write(container: Path, task: int, name: str, content: str) -> None:
    file = container / f"actions_log/team/app/{task % 256:02x}/{name}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def test_the_log_of_our_own_server_is_read_in_its_container(call: Invocation, container: Path) -> None:
    write(container, 1101, "1101.log", "all passed\n")
    write(container, 1102, "1102.log", "no room\n")

    assert logs(call, None, None, None).raw == "no room\n"
    assert logs(call, 7, None, "test-all").value == {"run": 7, "logs": {"test-all": "all passed\n"}}


def test_a_log_that_is_still_written_does_not_hide_the_others(
    call: Invocation, container: Path, forge: FakeForge
) -> None:
    forge.runs[0].jobs[1].states = ["running"]
    write(container, 1101, "1101.log", "all passed\n")

    told = logs(call, None, None, None)

    assert told.raw == "all passed\n"
    assert told.warnings == ["deploy-dev is running: until it has ended, only its page has the log."]
    with pytest.raises(NotFound, match="deploy-dev is running") as refused:
        logs(call, None, None, "deploy-dev")
    assert refused.value.next_command.splitlines() == [
        "invoke ci.watch --run 7    # then again, or",
        f"open {forge.address}/team/app/actions/runs/7",
    ]


@pytest.mark.parametrize(
    ("name", "words"),
    [("1102.log.zst", "keeps the log of deploy-dev compressed"), ("other", "has no file with the log")],
)
def test_a_log_that_cannot_be_read_is_told(call: Invocation, container: Path, name: str, words: str) -> None:
    write(container, 1102, name, "x")

    with pytest.raises(NotFound, match=words) as told:
        logs(call, None, None, None)

    assert told.value.code == "log-not-there"
    assert told.value.next_command.endswith("/team/app/actions/runs/7")


def test_a_compressed_log_of_a_public_repository_is_read_from_its_page(
    call: Invocation, container: Path, forge: FakeForge
) -> None:
    write(container, 1102, "1102.log.zst", "x")
    forge.settings["private"] = False

    assert logs(call, None, None, None).raw == "no room\n"


def test_a_server_elsewhere_gives_the_log_of_a_public_repository(call: Invocation, forge: FakeForge) -> None:
    forge.settings["private"] = False

    assert logs(call, None, None, None).raw == "no room\n"
    assert logs(call, None, None, "test-all").raw == "all passed\n"


def test_a_server_elsewhere_with_a_private_repository_has_only_its_page(call: Invocation, forge: FakeForge) -> None:
    with pytest.raises(Refused, match="no API for a job's log") as refused:
        logs(call, None, None, None)

    assert refused.value.code == "server-lacks-this"
    assert refused.value.next_command == f"open {forge.address}/team/app/actions/runs/7"
    assert f"{forge.address} hands out no log of deploy-dev." in refused.value.looked_at


def test_another_server_than_ours_is_not_taken_for_it(
    call: Invocation, container: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(container, 1102, "1102.log", "of another server\n")
    elsewhere = OwnForge(Compose(Engine(), "t-git", (), {}), "forgejo", "http://localhost:3000")
    monkeypatch.setattr(OwnForge, "find", classmethod(lambda *_: elsewhere))

    with pytest.raises(Refused):
        logs(call, None, None, None)


def test_a_container_that_is_down_is_named(call: Invocation, container: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "run", lambda argv, **_: run(["sh", "-c", "exit 1"]))

    with pytest.raises(Refused, match="no API") as refused:
        logs(call, None, None, None)

    assert any(line.startswith("reading the log failed") for line in refused.value.looked_at)
