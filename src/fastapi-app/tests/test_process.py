"""The application as the container runs it: `python -m app`, in a process of its own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Timer

import httpx2 as httpx
import pytest
from fake_influx import WRITER, FakeInflux
from fake_sources import AEMET_KEY, OWM_KEY, running_sources

ROOT = Path(__file__).parent.parent
PATIENCE = 60.0  # seconds until a stuck process is called stuck; nothing waits for it otherwise


class Running:
    """A started process whose log is read line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []

    def line_with(self, words: str) -> str:
        """The next line of the log that holds the words; fails when the process ends without one."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if words in line:
                return line
        pytest.fail(f"no line with {words!r} in:\n{''.join(self.lines)}")

    def address(self) -> str:
        port = self.line_with("Uvicorn running on").split("0.0.0.0:")[1].split()[0]
        return f"http://127.0.0.1:{port}"

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.lines += self.process.communicate(timeout=PATIENCE)[1].splitlines(keepends=True)
        return self.process.returncode


Launch = Callable[..., Running]


def environment(folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(folder),
        "SECRETS_DIR": str(folder / "secrets"),
        "PORT": "0",
        "INGESTION_INTERVAL_MINUTES": "0",
        **variables,
    }


@contextmanager
def launched(folder: Path, *options: str, cwd: Path = ROOT, **variables: str) -> Iterator[Running]:
    process = subprocess.Popen(
        [sys.executable, "-m", "app", *options],
        cwd=cwd,
        env=environment(folder, variables),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    watchdog = Timer(PATIENCE, os.killpg, (process.pid, signal.SIGKILL))
    watchdog.start()
    try:
        yield Running(process)
    finally:
        watchdog.cancel()
        # The group, because a killed reloader leaves its child running, and the child the log open.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    with ExitStack() as running:
        yield lambda *options, **more: running.enter_context(launched(tmp_path, *options, **more))


def ended(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app"],
        cwd=ROOT,
        env=environment(folder, variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_the_start_is_logged_as_one_structured_event_and_health_answers(launch: Launch) -> None:
    running = launch(ENVIRONMENT="production", INGESTION_ENABLED="false", APP_VERSION="1.2.3")
    event = json.loads(running.line_with("startup complete"))
    assert event["event"] == "startup complete"
    assert (event["version"], event["environment"]) == ("1.2.3", "production")
    assert (event["store"], event["ingestion"]) == ("sqlite", False)
    assert httpx.get(f"{running.address()}/health").json()["version"] == "1.2.3"


def test_every_line_of_a_production_log_is_json(launch: Launch) -> None:
    running = launch(ENVIRONMENT="production", INGESTION_ENABLED="false")
    assert httpx.get(f"{running.address()}/prices").status_code == 200
    running.stop()
    events = [json.loads(line)["event"] for line in running.lines]
    assert any("GET /prices" in event for event in events)


def test_sigterm_lets_the_request_in_flight_finish_and_takes_no_new_one(launch: Launch) -> None:
    with running_sources(held=True) as sources, ThreadPoolExecutor(1) as pool:
        running = launch(INGESTION_ENABLED="true", REE_BASE_URL=sources.url)
        address = running.address()
        request = pool.submit(httpx.post, f"{address}/ingest/run", timeout=PATIENCE)
        assert sources.arrived.wait(PATIENCE)
        running.process.send_signal(signal.SIGTERM)
        running.line_with("Waiting for connections to close")
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{address}/health")
        assert not request.done()
        sources.released.set()
        answer = request.result(PATIENCE)
        assert answer.status_code == 200
        assert answer.json()["written"] == {"ree": 24}
        running.line_with("Application shutdown complete")
        assert running.process.wait(PATIENCE) in (0, -signal.SIGTERM)


def test_sigterm_during_a_scheduled_ingestion_ends_it(launch: Launch) -> None:
    with running_sources(held=True) as sources:
        running = launch(ENVIRONMENT="production", INGESTION_INTERVAL_MINUTES="60", REE_BASE_URL=sources.url)
        running.address()
        assert sources.arrived.wait(PATIENCE)
        assert running.stop() in (0, -signal.SIGTERM)
        assert "Application shutdown complete" in "".join(running.lines)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"INFLUXDB_URL": "http://influxdb:8086"}, "INFLUXDB_TOKEN is missing or empty"),
        (
            {"INFLUXDB_URL": "http://influxdb:8086", "INFLUXDB_TOKEN": " "},
            "INFLUXDB_TOKEN is missing or empty",
        ),
        ({"ENVIRONMENT": "staging"}, "ENVIRONMENT: "),
        ({"PORT": "eighty", "LOG_LEVEL": "LOUD"}, "LOG_LEVEL: "),
    ],
)
@pytest.mark.parametrize("options", [[], ["--reload"]])
def test_a_faulty_configuration_ends_the_start_with_one_line_and_exit_78(
    launch: Launch, variables: dict[str, str], words: str, options: list[str]
) -> None:
    process = launch(*options, **variables).process
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 78
    assert said.startswith("configuration error: ")
    assert words in said
    assert said.count("\n") == 1


def test_the_uvicorn_command_refuses_a_faulty_configuration_without_a_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "uvicorn", "app.main:create_app", "--factory", "--port", "0"],
        cwd=ROOT,
        env=environment(tmp_path, {"ENVIRONMENT": "staging"}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 78
    assert "configuration error: ENVIRONMENT: " in done.stderr
    assert "Traceback" not in done.stderr


def test_development_refuses_a_writing_token_and_does_not_show_it(tmp_path: Path, influx: FakeInflux) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "influxdb_token").write_text(WRITER)
    done = ended(tmp_path, INFLUXDB_URL=influx.url)
    assert done.returncode == 78
    assert done.stderr.startswith("configuration error: INFLUXDB_TOKEN can write")
    assert WRITER not in done.stderr
    assert influx.writes == []


def test_no_secret_reaches_the_log_even_at_debug_level(launch: Launch) -> None:
    with running_sources() as sources:
        running = launch(
            INGESTION_ENABLED="true",
            LOG_LEVEL="DEBUG",
            AEMET_API_KEY=AEMET_KEY,
            OPENWEATHERMAP_API_KEY=OWM_KEY,
            REE_BASE_URL=sources.url,
            AEMET_BASE_URL=sources.url,
            OPENWEATHERMAP_BASE_URL=sources.url,
        )
        address = running.address()
        answer = httpx.post(f"{address}/ingest/run", timeout=PATIENCE)
        assert set(answer.json()["written"]) == {"ree", "aemet", "openweathermap"}
        httpx.get(f"{address}/nowhere/{OWM_KEY}")
        running.stop()
    log = "".join(running.lines)
    assert "GET /nowhere/*** HTTP" in log
    assert "WARNING: Failed to read secret from" in log
    assert "ingestion finished" in log
    assert AEMET_KEY not in log
    assert OWM_KEY not in log


def test_serving_and_training_write_nothing_next_to_the_code(tmp_path: Path) -> None:
    code = tmp_path / "code"
    shutil.copytree(ROOT / "app", code / "app", ignore=shutil.ignore_patterns("__pycache__"))
    before = sorted(code.rglob("*"))
    with launched(tmp_path, cwd=code, MODELS_DIR=str(tmp_path / "models")) as running:
        address = running.address()
        assert httpx.get(f"{address}/prices").status_code == 200
        assert httpx.post(f"{address}/models/train").status_code == 201
        running.stop()
    assert sorted(code.rglob("*")) == before
    assert (tmp_path / "models" / "model_registry.json").is_file()


def test_reload_starts_again_when_a_file_of_the_code_changes(tmp_path: Path) -> None:
    code = tmp_path / "code"
    shutil.copytree(ROOT / "app", code / "app", ignore=shutil.ignore_patterns("__pycache__"))
    with launched(tmp_path, "--reload", cwd=code, PORT=str(free_port())) as running:
        first = running.address()
        running.line_with("startup complete {")
        version = code / "app" / "__init__.py"
        # Replaced in one step: half a file is a change too, and would be loaded.
        (tmp_path / "newer").write_text(version.read_text().replace("1.0.0", "1.0.1"))
        (tmp_path / "newer").replace(version)
        running.line_with("startup complete {")
        assert httpx.get(f"{first}/health", timeout=PATIENCE).json()["version"] == "1.0.1"
        running.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
