"""backup.* where containers and the engine do not do as they should: state as before, and never a wait without end."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from conche.backup import holding
from conche.backup.site import Site, open_site
from conche.command import Invocation
from conche.engine import containers, volumes
from conche.engine.connection import Engine
from conche.output import Output
from tests.backup.checkouts import with_backup
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine

NOTHING = "No component could be dumped; no backup was made, and earlier ones are unchanged."

ENGINE = "/var/run/docker.sock"


@pytest.fixture
def running(small: SmallStack) -> SmallStack:
    with_backup(small)
    small.up()
    docker("exec", f"{small.name}-web", "sh", "-c", "echo first > /kept/journal")
    return small


def only_volume(stack: SmallStack) -> None:
    """Each component would wait by itself for an engine that hangs."""
    text = (stack.folder / "stack.yaml").read_text()
    stack.write("stack.yaml", text[: text.index("    journal:")])


def site_of(stack: SmallStack) -> Site:
    """The site of its backups, with a target."""
    site = open_site(Invocation(stack.folder, Output("backup.create")))
    site.target.store.mkdir(parents=True, exist_ok=True)
    return site


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout


def create(stack: SmallStack, **extra: str) -> tuple[int, Any, str]:
    done = stack.invoke("backup.create", "--json", **extra)
    return done.returncode, json.loads(done.stdout), done.stderr


def kept(document: Any) -> Any:
    """What the manifest says of the volume."""
    folder = Path(document["value"]["folder"])
    return json.loads((folder / "manifest.json").read_text())["components"]["kept"]


class Relay:
    """Stands between a command and the engine; from the request on that has some words in it, it answers no more."""

    def __init__(self, place: Path, words: bytes) -> None:
        self.place, self._words = place, words
        self.silent = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(place))
        self._listener.listen()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                engine = socket.socket(socket.AF_UNIX)
                engine.connect(ENGINE)
                self._open += [client, engine]
                threading.Thread(target=self._pass_on, args=(client, engine, True), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(engine, client, False), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, asks: bool) -> None:
        with suppress(OSError):
            while block := source.recv(1 << 16):
                if asks and self._words in block:
                    self.silent.set()
                if not self.silent.is_set():
                    sink.sendall(block)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.close()
        for one in self._open:
            one.close()


@pytest.fixture
def relayed(tmp_path: Path) -> Iterator[Callable[[bytes], Relay]]:
    made: list[Relay] = []

    def make(words: bytes) -> Relay:
        made.append(Relay(tmp_path / f"relay-{len(made)}", words))
        return made[-1]

    yield make
    for one in made:
        one.close()


def through(relay: Relay) -> dict[str, str]:
    return {"DOCKER_HOST": f"unix://{relay.place}", "CONCHE_ENGINE_TIMEOUT": "5"}


def test_an_engine_that_hangs_is_given_up(small: SmallStack, relayed: Callable[[bytes], Relay]) -> None:
    with_backup(small)
    only_volume(small)

    done = small.invoke("backup.create", **through(relayed(b" ")))
    wrong = small.invoke("backup.create", CONCHE_ENGINE_TIMEOUT="soon")

    assert (done.returncode, "Traceback" in done.stderr) == (4, False)
    assert "No Docker engine answers" in done.stderr
    assert "is 'soon', not a number of seconds" in wrong.stderr
    assert not list((small.folder.parent / f"{small.name}-backups/.store").glob("building-*"))


def test_an_engine_that_hangs_before_it_lets_a_container_go_on_is_asked_again_by_the_next_command(
    running: SmallStack, engine: Engine, relayed: Callable[[bytes], Relay]
) -> None:
    only_volume(running)
    relay = relayed(b"/unpause")

    code, document, said = create(running, **through(relay))
    left = [one.state for one in running.containers(engine)]
    warned = running.invoke("backup.verify", **through(relay))
    listed = running.invoke("backup.list")
    healed = running.invoke("backup.verify")

    assert relay.silent.is_set()
    assert (code, document["error"]["code"]) == (5, "containers-left-waiting"), said
    assert "could not be resumed" in said
    assert NOTHING in said
    assert left == ["paused"]
    assert "could not be resumed" in warned.stderr
    assert f"warning: docker unpause {running.containers(engine)[0].id[:12]}" in warned.stderr
    # There is no backup yet.
    assert (warned.returncode, listed.returncode, healed.returncode) == (6, 0, 6), healed.stderr
    assert [one.state for one in running.containers(engine)] == ["running"]
    assert engine.client.api.containers(all=True, filters={"label": f"{volumes.LABEL}={running.name}-kept"}) == []
    code, _, said = create(running)
    assert code == 0, said


def test_an_engine_that_hangs_in_the_middle_leaves_nothing_for_long(
    running: SmallStack, engine: Engine, relayed: Callable[[bytes], Relay]
) -> None:
    only_volume(running)

    code, _, said = create(running, **through(relayed(b"/pause")))
    verified = running.invoke("backup.verify")

    assert code == 5, said
    assert "Traceback" not in said + verified.stderr
    assert [one.state for one in running.containers(engine)] == ["running"]
    assert engine.client.api.containers(all=True, filters={"label": f"{volumes.LABEL}={running.name}-kept"}) == []


def test_one_that_somebody_has_paused_stays_paused(running: SmallStack, engine: Engine) -> None:
    docker("pause", f"{running.name}-web")

    code, document, said = create(running)
    state = [one.state for one in running.containers(engine)]
    docker("unpause", f"{running.name}-web")

    assert code == 3, said
    assert state == ["paused"]
    assert kept(document)["artifacts"]


def test_what_happens_between_the_look_and_the_pause_stays_as_it_is(running: SmallStack, engine: Engine) -> None:
    site = site_of(running)
    users = volumes.using(engine, f"{running.name}-kept")
    assert [one.state for one in users] == ["running"]

    def held() -> tuple[list[str], list[str], str]:
        """States while the volume is held, and afterwards, and what is said of it."""
        with (
            holding.noted(site, None, f"{running.name}-kept"),
            holding.held(site.target.store, engine, None, users, "pause") as waited,
        ):
            inside = [one.state for one in running.containers(engine)]
        assert not (site.target.store / holding.NOTE).exists()
        return inside, [one.state for one in running.containers(engine)], waited.words.partition(":")[0][:10]

    assert held() == (["paused"], ["running"], "paused for")
    docker("pause", users[0].id)
    assert held() == (["paused"], ["paused"], "at rest")
    docker("unpause", users[0].id)
    docker("stop", users[0].id)
    assert held() == (["exited"], ["exited"], "at rest")
    docker("rm", users[0].id)
    assert held() == ([], [], "at rest")


def test_one_that_is_started_again_and_again_is_stopped_meanwhile_and_goes_on(
    running: SmallStack, engine: Engine
) -> None:
    only_volume(running)
    running.behave("crash")
    docker("restart", f"{running.name}-web")
    [container] = running.containers(engine)
    while (seen := containers.read(engine, container.id)) is None or seen.state != "restarting":
        assert seen is not None
    volume = f"{running.name}-kept"

    store = site_of(running).target.store
    with holding.noted(site_of(running), None, volume), holding.held(store, engine, None, [seen], "pause") as waited:
        inside = [one.state for one in running.containers(engine)]
    after = [one.state for one in running.containers(engine)]
    code, document, said = create(running)

    assert inside == ["exited"]
    assert waited.words.startswith("stopped for")
    assert after[0] in ("running", "restarting")
    # Between two of its starts it runs for a moment, and can be paused in that.
    assert code == 0, said
    assert kept(document)["consistency"].split()[0] in ("paused", "stopped")
    running.behave("well")


def test_a_renamed_container_is_found_by_what_it_is(running: SmallStack, engine: Engine) -> None:
    docker("rename", f"{running.name}-web", f"{running.name}-other")

    code, document, said = create(running)
    docker("exec", f"{running.name}-other", "sh", "-c", "echo second > /kept/journal")
    restored = running.invoke("backup.restore", "latest", "--force")

    assert code == 0, said
    assert f"{running.name}-other" in kept(document)["consistency"]
    assert restored.returncode == 0, restored.stderr
    assert docker("exec", f"{running.name}-other", "cat", "/kept/journal") == "first\n"


def test_a_restore_starts_a_container_that_was_paused(running: SmallStack, engine: Engine) -> None:
    create(running)
    docker("pause", f"{running.name}-web")

    done = running.invoke("backup.restore", "latest", "--component", "kept", "--force")

    assert done.returncode == 0, done.stderr
    assert f"{running.name}-web was paused; it is running now" in done.stderr
    # The data that it had in its memory are not those of the volume any more.
    assert [one.state for one in running.containers(engine)] == ["running"]
