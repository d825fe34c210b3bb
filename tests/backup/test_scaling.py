"""Services that were scaled to nothing: what is noted of them, and whose notes are believed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conche.backup import idle, proof, scaling, users
from conche.backup.create import CreateOptions, create
from conche.backup.drivers import Dumping, volume
from conche.backup.locks import locked, resting
from conche.backup.manifest import Artifact, ComponentRecord
from conche.backup.notes import Damaged
from conche.backup.scaling import Scaled
from conche.backup.site import Site, open_site
from conche.backup.swap import Swap
from conche.command import Invocation
from conche.engine import swarm, swarm_places, volumes
from conche.engine.connection import Engine
from conche.engine.swarm_places import Serving
from conche.errors import NotRestored, Refused, Unreachable
from conche.formats import SCALED
from conche.output import Output

STACK = """\
name: shop
environments:
  prod: {compose: [compose.yaml], engine: swarm}
  stage: {compose: [compose.yaml], engine: swarm}
backup:
  components:
    data: {driver: volume, environment: prod, volume: shop_data, consistency: stop, idle: {db: [idle]}}
    rows:
      {driver: command, environment: prod, service: db, services: [web], dump: [d], restore: [r], check: [c]}
"""

DB = Serving("shop-prod_db", "db", 2, "shop-prod", here=True, elsewhere=())
AWAY = replace(DB, here=False, elsewhere=("second",))


WEB = replace(DB, name="shop-prod_web", service="web", replicas=3)
DONE = replace(WEB, name="shop-prod_seed", service="seed", replicas=1, ended=True)


class Swarm:
    """What is asked of a swarm's managers: services with so many tasks.

    Attributes:
        silent: how many times a service cannot be scaled up, by its name.
        ill: services that never have as many tasks as they should.
        awaited: services that were waited for.
    """

    def __init__(self) -> None:
        self.done: list[str] = []
        self.silent: dict[str, int] = {}
        self.ill: set[str] = set()
        self.awaited: list[str] = []
        self.have(DB)

    def have(self, *serving: Serving) -> None:
        self.known = serving
        self.replicas = {one.name: one.replicas for one in serving}

    @property
    def serving(self) -> tuple[Serving, ...]:
        """The services as they are now."""
        return tuple(replace(one, replicas=self.replicas[one.name]) for one in self.known)

    def scale(self, _: Engine, name: str, replicas: int) -> None:
        if replicas and self.silent.get(name):
            self.silent[name] -= 1
            raise Unreachable("engine-unreachable", "it is silent")
        self.replicas[name] = replicas
        self.done.append(f"{name}={replicas}")

    def settles(self, _: Engine, __: str, service: str, *___: float) -> bool:
        self.awaited.append(service)
        return service not in self.ill


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Swarm:
    made = Swarm()
    monkeypatch.setattr(swarm, "replicate", made.scale)
    monkeypatch.setattr(swarm, "wait_settled", made.settles)
    monkeypatch.setattr(volumes, "using", lambda *_: ())
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
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "compose.yaml").write_text("services: {db: {image: x}, web: {image: y}}\n")
    (checkout / "stack.yaml").write_text(STACK)
    made = replace(open_site(Invocation(checkout, Output("backup.create"))), say=said.append)
    made = replace(made, target=replace(made.target, folder=tmp_path / "target"))
    made.target.store.mkdir(parents=True)
    return made


def at_rest(site: Site) -> Any:
    return scaling.held(site, site.section.components["data"], Engine("swarm"))


def note(site: Site, **said: object) -> Path:
    content = {"engine": "swarm", "volume": "shop_data", "services": {DB.name: 2}, **said}
    file = scaling._file(site.target.store, Scaled("swarm", "shop_data"))
    file.write_text(json.dumps(SCALED.stamped(content)))
    return file


def test_it_is_noted_what_to_scale_back_to_for_as_long_as_that_is_not_done(site: Site, told: Swarm) -> None:
    with at_rest(site) as waited:
        noted = scaling.left(site)

    assert noted == [Scaled("swarm", "shop_data", {DB.name: 2})]
    assert told.done == [f"{DB.name}=0", f"{DB.name}=2"]
    assert waited.words.startswith("stopped for")
    assert scaling.left(site) == []


def test_one_that_cannot_be_scaled_back_stays_noted_and_is_the_next_commands(site: Site, told: Swarm) -> None:
    with pytest.raises(NotRestored, match="could not be scaled back") as caught, at_rest(site):
        told.silent[DB.name] = 2
    again = scaling.recover(site)
    at_last = scaling.recover(site)

    assert f"docker service scale {DB.name}=2" in caught.value.next_command
    assert ([one.code for one in again], at_last) == (["services-left-at-nothing"], [])
    assert told.done == [f"{DB.name}=0", f"{DB.name}=2"]
    assert scaling.left(site) == []


def test_one_that_keeps_running_is_not_read(site: Site, told: Swarm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm_places, "wait_resting", lambda *_: [DB.name])

    with pytest.raises(Unreachable) as caught, at_rest(site):
        pytest.fail("it is read")

    assert caught.value.code == "service-keeps-running"
    assert caught.value.next_command == f"docker service ps {DB.name}"
    assert told.done[-1] == f"{DB.name}=2"


@pytest.mark.parametrize("silent", [{WEB.name: 1}, {DB.name: 1, WEB.name: 1}, {DB.name: 1}])
def test_what_a_killed_command_has_left_at_nothing_is_scaled_back_before_another_note_is_written(
    site: Site, told: Swarm, silent: dict[str, int]
) -> None:
    told.have(DB, WEB)
    file = note(site, services={DB.name: 2, WEB.name: 3})
    told.replicas = {DB.name: 0, WEB.name: 0}
    told.silent = silent
    before = scaling.recover(site)

    with at_rest(site) as waited:
        during = dict(told.replicas)

    assert len(before) == 1
    assert during == {DB.name: 0, WEB.name: 0}
    assert (told.replicas, file.exists()) == ({DB.name: 2, WEB.name: 3}, False)
    assert waited.words.endswith(f": {DB.name}, {WEB.name}")


def test_nothing_is_read_and_the_note_stays_while_it_cannot_be_scaled_back(site: Site, told: Swarm) -> None:
    file = note(site)
    told.replicas[DB.name], told.silent[DB.name] = 0, 1

    with pytest.raises(NotRestored), at_rest(site):
        pytest.fail("it is read")

    assert file.exists()
    assert scaling.left(site) == [Scaled("swarm", "shop_data", {DB.name: 2})]


def test_a_note_that_is_not_understood_is_put_by_and_not_written_over(site: Site, told: Swarm) -> None:
    file = note(site, services=7)

    with at_rest(site):
        pass

    [kept] = site.target.store.glob(f"*{scaling.NOTE}")
    assert kept != file
    with pytest.raises(Damaged):
        scaling.require_understood(site)


def test_a_service_that_has_ended_is_not_run_again(site: Site, told: Swarm) -> None:
    told.have(DB, DONE, replace(DONE, name="shop-prod_job", replicas=None))

    with at_rest(site):
        pass

    assert told.done == [f"{DB.name}=0", f"{DB.name}=2"]


def test_only_those_that_ran_well_before_are_waited_for(site: Site, told: Swarm) -> None:
    told.have(DB, replace(WEB, well=False))
    told.ill = {"db", "web"}

    with at_rest(site) as waited:
        pass

    assert (told.awaited, len(waited.ill)) == (["db"], 1)
    assert waited.ill[0].startswith(f"{DB.name} did not run again")


def test_one_that_might_come_back_on_another_node_is_not_scaled(site: Site, told: Swarm) -> None:
    told.have(DB, replace(WEB, pin="node.id==n1"))

    with pytest.raises(Refused, match="without these data") as caught, at_rest(site):
        pytest.fail("it is read")

    assert (caught.value.code, told.done) == ("stop-under-swarm", [])
    assert caught.value.next_command.startswith("placement: {constraints: [node.id==n1]}")


def test_one_without_a_number_of_tasks_is_refused(site: Site, told: Swarm) -> None:
    told.have(replace(DB, replicas=None))

    with pytest.raises(Refused) as caught, at_rest(site):
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


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The environments that were locked."""
    names: list[str] = []

    @contextmanager
    def recorded(_: Any, __: Any, name: str, **___: Any) -> Iterator[None]:
        names.append(name)
        yield

    monkeypatch.setattr("conche.locking.locked", recorded)
    monkeypatch.setattr(users, "of_places", lambda *_: {})
    return names


def test_an_environment_whose_services_share_a_volume_is_locked_too(site: Site, told: Swarm, taken: list[str]) -> None:
    told.have(DB, replace(WEB, stack="shop-stage"), replace(DONE, stack="other"))

    assert resting(site).of == {"data": {"prod", "stage"}}


def test_a_backup_ends_with_what_is_left_at_nothing_and_is_made_all_the_same(
    site: Site, told: Swarm, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dumped(task: Dumping) -> ComponentRecord:
        if task.name == "data":
            with at_rest(task.site):
                told.silent[DB.name] = 1
        (task.folder / "rows").write_bytes(b"1")
        sha256 = hashlib.sha256(b"1").hexdigest()
        return task.record(artifacts=(Artifact(path="rows/rows", size=1, sha256=sha256),))

    monkeypatch.setattr(proof, "dumped", dumped)

    with pytest.raises(NotRestored) as caught:
        create(Invocation(site.root, Output("backup.create")), "daily", CreateOptions())

    assert (caught.value.code, caught.value.status) == ("services-left-at-nothing", 5)
    assert f"docker service scale {DB.name}=2" in caught.value.next_command
    made = caught.value.rest.value
    assert (made["complete"], Path(made["folder"]).is_dir()) == (False, True)


def test_what_is_left_at_nothing_is_settled_under_the_lock_of_its_environment(
    site: Site, told: Swarm, taken: list[str]
) -> None:
    note(site)
    told.replicas[DB.name] = 0

    with locked(Invocation(site.root, Output("backup.verify")), site, "a test"):
        pass

    assert (taken, told.done) == (["prod"], [f"{DB.name}=2"])


def test_neither_a_backup_nor_a_restore_takes_what_this_node_has_for_that_of_another(site: Site, told: Swarm) -> None:
    told.have(AWAY)
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
    told.have(replace(DB, replicas=0), DONE)

    assert using.value.code == writing.value.code == "restore-under-swarm"
    assert using.value.next_command.startswith(f"docker service scale {DB.name}=0    # and after")
    assert users.of_services(site, "prod", ["db"]) == {}
    users.require_resting(site, [Swap("swarm", "shop_data")])


def test_each_user_of_what_is_restored_is_refused_with_what_it_needs(site: Site, told: Swarm) -> None:
    told.have(DB, replace(WEB, pin="node.id==n1"), replace(DB, name="shop-prod_agent", replicas=None))

    with pytest.raises(Refused) as caught:
        users.require_resting(site, [Swap("swarm", "shop_data")])

    assert "shop-prod_db and shop-prod_web and shop-prod_agent use the data" in caught.value.message
    after = "and after the restore: docker service scale shop-prod_db=2 shop-prod_web=3"
    assert caught.value.next_command.splitlines() == [
        "docker service update --constraint-add node.id==n1 --replicas 0 shop-prod_web",
        f"docker service scale shop-prod_db=0    # {after}",
        "docker service rm shop-prod_agent    # and deploy after the restore",
    ]


def test_who_has_to_be_idle_on_another_node_cannot_be_asked(site: Site, told: Swarm) -> None:
    told.have(AWAY)

    assert "db runs on second" in idle.wait(site, site.section.components["data"], Engine("swarm"))


def test_what_is_shared_cannot_be_paused_on_another_node(
    site: Site, told: Swarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    component = site.section.components["data"].model_copy(update={"consistency": "pause"})
    monkeypatch.setattr(swarm_places, "_is_shared", lambda *_: True)
    told.have(AWAY)

    with pytest.raises(Refused) as caught, scaling.held(site, component, Engine("swarm")):
        pytest.fail("it is read")

    assert caught.value.code == "pause-elsewhere"
