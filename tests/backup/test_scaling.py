"""Services that were scaled to nothing: what is noted of them, and whose notes are believed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conche.backup import idle, scaling, users
from conche.backup.drivers import Dumping, volume
from conche.backup.locks import locked
from conche.backup.notes import Damaged
from conche.backup.scaling import Scaled
from conche.backup.site import Site, open_site
from conche.backup.swap import Swap
from conche.command import Invocation
from conche.engine import swarm, swarm_places
from conche.engine.connection import Engine
from conche.engine.swarm_places import Serving
from conche.errors import NotRestored, Refused, Unreachable
from conche.formats import SCALED
from conche.output import Output

STACK = """\
name: shop
environments: {prod: {compose: [compose.yaml], engine: swarm}}
backup:
  components:
    data: {driver: volume, environment: prod, volume: shop_data, consistency: stop, idle: {db: [idle]}}
    rows:
      {driver: command, environment: prod, service: db, services: [web], dump: [d], restore: [r], check: [c]}
"""

DB = Serving("shop-prod_db", "db", 2, "shop-prod", here=True, elsewhere=())
AWAY = replace(DB, here=False, elsewhere=("second",))


class Swarm:
    """What is asked of a swarm's managers: services with so many tasks."""

    def __init__(self, *serving: Serving) -> None:
        self.serving = serving
        self.replicas: dict[str, int | None] = {one.name: one.replicas for one in serving}
        self.done: list[str] = []
        self.silent = False

    def scale(self, _: Engine, name: str, replicas: int) -> None:
        if self.silent and replicas:
            raise Unreachable("engine-unreachable", "it is silent")
        self.replicas[name] = replicas
        self.done.append(f"{name}={replicas}")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Swarm:
    made = Swarm(DB)
    monkeypatch.setattr(swarm, "replicate", made.scale)
    monkeypatch.setattr(swarm, "wait_settled", lambda *_: True)
    monkeypatch.setattr(swarm_places, "using", lambda *_: made.serving)
    monkeypatch.setattr(swarm_places, "of_stack", lambda *_: made.serving)
    monkeypatch.setattr(swarm_places, "_is_shared", lambda *_: False)
    monkeypatch.setattr(swarm_places, "wait_resting", lambda *_: [])
    monkeypatch.setattr(swarm_places, "replicas_of", lambda _, name: made.replicas.get(name))
    return made


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def site(tmp_path: Path, said: list[str]) -> Site:
    (tmp_path / "compose.yaml").write_text("services: {db: {image: x}, web: {image: y}}\n")
    (tmp_path / "stack.yaml").write_text(STACK)
    made = replace(open_site(Invocation(tmp_path, Output("backup.create"))), say=said.append)
    made = replace(made, target=replace(made.target, folder=tmp_path / "target"))
    made.target.store.mkdir(parents=True)
    return made


def at_rest(site: Site, *serving: Serving) -> Any:
    return scaling._at_rest(site, Engine("swarm"), "swarm", "shop_data", serving)


def note(site: Site, **said: object) -> Path:
    content = {"engine": "swarm", "volume": "shop_data", "services": {DB.name: 2}, **said}
    file = site.target.store / f"0.{scaling.NOTE}"
    file.write_text(json.dumps(SCALED.stamped(content)))
    return file


def test_it_is_noted_what_to_scale_back_to_for_as_long_as_that_is_not_done(site: Site, told: Swarm) -> None:
    with at_rest(site, DB) as waited:
        noted = scaling.left(site)

    assert noted == [Scaled("swarm", "shop_data", {DB.name: 2})]
    assert told.done == [f"{DB.name}=0", f"{DB.name}=2"]
    assert waited.words.startswith("stopped for")
    assert scaling.left(site) == []


def test_one_that_cannot_be_scaled_back_stays_noted_and_is_the_next_commands(site: Site, told: Swarm) -> None:
    with pytest.raises(NotRestored, match="could not be scaled back") as caught, at_rest(site, DB):
        told.silent = True
    again = scaling.recover(site)
    told.silent = False
    at_last = scaling.recover(site)

    assert f"docker service scale {DB.name}=2" in caught.value.next_command
    assert ([one.code for one in again], at_last) == (["services-left-at-nothing"], [])
    assert told.done == [f"{DB.name}=0", f"{DB.name}=2"]
    assert scaling.left(site) == []


def test_one_that_keeps_running_is_not_read(site: Site, told: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm_places, "wait_resting", lambda *_: [DB.name])

    with pytest.raises(Unreachable) as caught, at_rest(site, DB):
        pytest.fail("it is read")

    assert caught.value.code == "service-keeps-running"
    assert told.done[-1] == f"{DB.name}=2"


def test_one_without_a_number_of_tasks_is_refused(site: Site, told: Swarm) -> None:
    with pytest.raises(Refused) as caught, at_rest(site, replace(DB, replicas=None)):
        pytest.fail("it is read")

    assert (caught.value.code, told.done) == ("stop-under-swarm", [])


def test_one_that_somebody_has_scaled_since_stays_as_it_is(site: Site, told: Swarm) -> None:
    file = note(site)
    told.replicas[DB.name] = 5

    assert (scaling.recover(site), told.done, file.exists()) == ([], [], False)


@pytest.mark.parametrize(
    "forged", [{"engine": "tcp://other"}, {"volume": "theirs"}, {"services": {"theirs": 9}}, {"services": 7}]
)
def test_nothing_of_others_is_scaled_by_the_word_of_a_note(
    site: Site, told: Swarm, said: list[str], forged: dict[str, object]
) -> None:
    file = note(site, **forged)

    assert (scaling.recover(site), told.done) == ([], [])
    assert any("not of this stack" in line or "is damaged" in line for line in said)
    if file.exists():
        with pytest.raises(Damaged):
            scaling.require_understood(site)
        scaling.give_up(site)
    assert not file.exists()


def test_what_is_left_at_nothing_is_settled_under_the_lock_of_its_environment(
    site: Site, told: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []

    @contextmanager
    def recorded(_: Any, __: Any, name: str, **___: Any) -> Iterator[None]:
        taken.append(name)
        yield

    monkeypatch.setattr("conche.locking.locked", recorded)
    monkeypatch.setattr(users, "of_places", lambda *_: {})
    note(site)
    told.replicas[DB.name] = 0

    with locked(Invocation(site.root, Output("backup.verify")), site, "a test"):
        pass

    assert (taken, told.done) == (["prod"], [f"{DB.name}=2"])


def test_neither_a_backup_nor_a_restore_takes_what_this_node_has_for_that_of_another(site: Site, told: Swarm) -> None:
    told.serving = (AWAY,)
    component = site.section.components["data"]

    with pytest.raises(Refused) as dumped:
        volume.dump(Dumping(site, "data", component, site.root))
    with pytest.raises(Refused) as restored:
        users.require_resting(site, [Swap("swarm", "shop_data")])

    assert dumped.value.code == restored.value.code == "volume-elsewhere"
    assert "shop-prod_db uses shop_data on second" in dumped.value.message


def test_a_writer_and_a_user_have_to_be_at_nothing_for_a_restore(site: Site, told: Swarm) -> None:
    with pytest.raises(Refused) as using:
        users.require_resting(site, [Swap("swarm", "shop_data")])
    with pytest.raises(Refused) as writing:
        users.of_services(site, "prod", ["db"])
    told.serving = (replace(DB, replicas=0),)

    assert using.value.code == writing.value.code == "restore-under-swarm"
    assert using.value.next_command.startswith(f"docker service scale {DB.name}=0    # and after")
    assert users.of_services(site, "prod", ["db"]) == {}
    users.require_resting(site, [Swap("swarm", "shop_data")])


def test_who_has_to_be_idle_on_another_node_cannot_be_asked(site: Site, told: Swarm) -> None:
    told.serving = (AWAY,)

    assert "db runs on second" in idle.wait(site, site.section.components["data"], Engine("swarm"))


def test_what_is_shared_cannot_be_paused_on_another_node(site: Site, told: Swarm) -> None:
    component = site.section.components["data"].model_copy(update={"consistency": "pause"})

    with pytest.raises(Refused) as caught, scaling.held(site, component, Engine("swarm"), (AWAY,)):
        pytest.fail("it is read")

    assert caught.value.code == "pause-elsewhere"
