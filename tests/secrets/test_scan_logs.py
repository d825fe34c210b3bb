"""secrets.scan --logs: the real values in what containers and tools have written."""

from __future__ import annotations

import gzip
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from docker.types import LogConfig

from conche.engine.connection import Engine
from conche.engine.containers import LABEL
from conche.secret import Secret
from conche.stack import Stack, parse
from conche.vault.leaks import UNREADABLE, Needles
from conche.vault.leaks_in_logs import scan_container_logs, scan_log_files
from tests.secrets.declared import Checkout

Runs = Callable[..., str]


@pytest.fixture
def needles(canary: str) -> Needles:
    return Needles({"token": Secret(canary)})


@pytest.fixture
def stack() -> Stack:
    name = f"t{uuid.uuid4().hex[:10]}"
    return parse(f"name: {name}\nregistry: localhost:5000\nenvironments:\n  dev: {{compose: [compose.yaml]}}\n")


@pytest.fixture
def ran(engine: Engine, base_image: str, stack: Stack) -> Iterator[Runs]:
    """A container of the stack that runs a command to its end; its name."""
    started = []

    def run(command: Sequence[str], *, project: str = "", once: bool = False, driver: str = "json-file") -> str:
        labels = {
            f"{LABEL}.project": project or stack.project("dev"),
            f"{LABEL}.service": "web",
            f"{LABEL}.oneoff": str(once),
        }
        container = engine.client.containers.run(
            base_image, list(command), labels=labels, detach=True, log_config=LogConfig(type=driver)
        )
        started.append(container)
        container.wait()
        return str(container.name)

    yield run
    for container in started:
        container.remove(force=True)


def script(canary: str, code: str) -> list[str]:
    return ["python3", "-c", f"import sys; value = sys.argv[1]; {code}", canary]


@pytest.mark.engine
def test_a_value_in_a_containers_log_is_found_with_its_stream_and_line(
    ran: Runs, stack: Stack, needles: Needles, canary: str
) -> None:
    out = ran(script(canary, "print('one'); print('two', value)"))
    error = ran(script(canary, "print('x' * 16380 + value + 'y' * 20000, file=sys.stderr)"), once=True)
    trial = ran(script(canary, "print(value, end='')"), project=f"{stack.project('dev')}-trial")
    ran(script(canary, "print('nothing')"))

    found = scan_container_logs(stack, needles)

    assert {(one.name, one.kind, one.place) for one in found} == {
        ("token", "log", f"dev web {out} stdout:2"),
        ("token", "log", f"dev web {error} stderr:1"),
        ("token", "log", f"dev web {trial} stdout:1"),
    }
    assert canary not in repr(found)


@pytest.mark.engine
def test_a_log_that_the_engine_does_not_keep_is_said(ran: Runs, stack: Stack, needles: Needles, canary: str) -> None:
    name = ran(script(canary, "print(value)"), driver="none")

    found = scan_container_logs(stack, needles)

    assert {one.name for one in found} == {UNREADABLE}
    assert {one.place for one in found} == {f"dev web {name} stdout", f"dev web {name} stderr"}


def test_an_engine_that_does_not_answer_is_said(stack: Stack, needles: Needles, tmp_path: Path) -> None:
    address = f"unix://{tmp_path}/nobody.sock"
    elsewhere = stack.environments["dev"].model_copy(update={"engine": address})

    [found] = scan_container_logs(stack.model_copy(update={"environments": {"dev": elsewhere}}), needles)

    assert (found.name, found.place) == (UNREADABLE, f"dev at {address}")


def test_log_files_are_searched_however_deep_and_though_they_are_compressed(
    tmp_path: Path, needles: Needles, canary: str
) -> None:
    (tmp_path / "logs/app").mkdir(parents=True)
    (tmp_path / "logs/app/today.log").write_text(f"one\ntwo {canary}\n")
    (tmp_path / "logs/app/yesterday.log.gz").write_bytes(gzip.compress(f"a\nb\n{canary}".encode()))
    (tmp_path / "logs/clean.log").write_text("nothing\n")
    (tmp_path / "logs/broken.gz").write_bytes(gzip.compress(os.urandom(1000))[:500])
    (tmp_path / "outside").write_text(canary)
    (tmp_path / "logs/link").symlink_to(tmp_path / "outside")
    os.mkfifo(tmp_path / "logs/pipe")

    found = scan_log_files(tmp_path, needles)

    assert [(one.name, one.place) for one in found] == [
        (UNREADABLE, "logs/broken.gz"),
        ("token", "logs/app/today.log:2"),
        ("token", "logs/app/yesterday.log.gz:3"),
    ]


def test_without_a_folder_of_logs_there_is_nothing(tmp_path: Path, needles: Needles) -> None:
    assert scan_log_files(tmp_path, needles) == ()


@pytest.mark.engine
def test_scan_names_the_line_of_a_log_and_the_secret_and_never_the_value(checkout: Checkout, engine: Engine) -> None:
    (checkout.folder / "logs").mkdir()
    (checkout.folder / "logs/app.log").write_text("the password is the-value-of-db-password\n")
    (checkout.folder / ".gitignore").write_text("logs/\n" + (checkout.folder / ".gitignore").read_text())
    assert checkout.call("secrets.scan").returncode == 0

    done = checkout.call("secrets.scan", "--logs")

    assert done.returncode == 1
    assert "logs/app.log:1" in done.stdout
    assert "invoke secrets.rotate-value db_password" in done.stdout
    assert "the-value" not in done.stdout + done.stderr
