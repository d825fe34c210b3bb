"""What env.up finds before it changes anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from conche.command import Invocation
from conche.engine import host, networks
from conche.engine.compose import Compose, Configuration
from conche.engine.service import Service
from conche.env import preflight
from conche.env.carry_out import nothing_to_do
from conche.env.contents import ignored, ungiven
from conche.env.observe import Observed
from conche.errors import Refused
from conche.outcome import Action, Kind, Plan, Step
from conche.stack import Secrets

VOLUMES = {"data": {"name": "shop_data"}, "old": {"name": "kept", "external": True}}
PLAN = Plan((Step(Action.CREATE, Kind.SERVICE, "web", "has no container"),))


def seen(services: Mapping[str, Any]) -> Observed:
    rendered = {"services": services, "volumes": VOLUMES}
    described = {name: Service(name, "a", frozenset()) for name in services}
    return Observed("dev", Configuration("shop", described, (), (), rendered), (), {}, (), (), {})


def mounting(*sources: str) -> dict[str, Any]:
    return {"volumes": [{"type": "volume", "source": one, "target": f"/{one}"} for one in sources]}


@pytest.fixture
def compose(monkeypatch: pytest.MonkeyPatch) -> Compose:
    """A project on an engine that has a volume of no project, and room on its disk."""

    def volumes(_: object, wanted: Sequence[str]) -> tuple[str, ...]:
        return tuple(one for one in wanted if one == "there")

    monkeypatch.setattr(networks, "volumes", volumes)
    monkeypatch.setattr(host, "free_disk", lambda _: None)
    return Compose(cast("Any", type("AnEngine", (), {"is_local": True})()), "shop", ())


def test_an_external_volume_that_any_service_lacks_is_named_before_anything_is_changed(compose: Compose) -> None:
    with pytest.raises(Refused) as refused:
        preflight.check(seen({"web": mounting("data"), "db": mounting("old")}), PLAN, compose)

    assert (refused.value.code, refused.value.message) == (
        "volume-missing",
        "db mounts the external volume kept, which does not exist.",
    )


@pytest.mark.parametrize("name", ["there", "kept"])
def test_an_external_volume_that_is_there_or_that_nothing_mounts_is_no_problem(
    compose: Compose, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(VOLUMES, "old", {"name": name, "external": True})

    preflight.check(seen({"web": mounting("data", *(["old"] if name == "there" else []))}), PLAN, compose)


def test_two_services_with_one_name_for_their_containers_are_refused_before_the_first_is_made(compose: Compose) -> None:
    with pytest.raises(Refused) as refused:
        preflight.check(seen({"web": {"container_name": "shop"}, "db": {"container_name": "shop"}}), PLAN, compose)

    assert refused.value.code == "container-name-twice"
    assert "web and db of dev both have container_name: shop" in refused.value.message


@pytest.mark.parametrize("pulled", [False, True])
def test_a_missing_image_that_is_never_to_be_pulled_is_named(compose: Compose, pulled: bool) -> None:
    plan = Plan((Step(Action.PULL, Kind.IMAGE, "a", "no such image on the engine"), *PLAN))
    found = seen({"web": {}, "db": {}})
    services = {
        name: replace(one, pulled=pulled and name == "db") for name, one in found.configuration.services.items()
    }
    found = replace(found, configuration=replace(found.configuration, services=services))

    if pulled:
        preflight.check(found, plan, compose)
        return
    with pytest.raises(Refused) as refused:
        preflight.check(found, plan, compose)

    assert refused.value.code == "image-never-pulled"
    assert "not pulled for web, db" in refused.value.message


def test_of_owner_and_mode_only_those_that_compose_ignores_are_told() -> None:
    given = [{"source": "file", "uid": "1000", "mode": 256}, {"source": "said", "mode": 256}, {"source": "plain"}]
    configs = {"file": {"file": "/a.txt"}, "said": {"content": "x"}, "plain": {"file": "/b.txt"}}
    rendered = {"services": {"web": {"configs": given}}, "configs": configs}

    [told] = ignored(Configuration("shop", {}, (), (), rendered))

    assert told.startswith("uid, mode of the config file of web")


def test_a_release_tells_the_owners_and_modes_that_its_containers_do_not_have() -> None:
    given = [{"source": "file", "uid": "1000", "mode": 256}, {"source": "said", "mode": 256}, {"source": "plain"}]
    configs = {"file": {"file": "/a.txt"}, "said": {"content": "x"}, "plain": {"file": "/b.txt"}}
    secrets = {"token": {"environment": "TOKEN"}}
    body = {"configs": given, "secrets": [{"source": "token", "gid": "7"}]}
    rendered = {"services": {"web": body}, "configs": configs, "secrets": secrets}

    told = ungiven(Configuration("shop", {}, (), (), rendered))

    assert [one.partition(":")[0] for one in told] == [
        "uid, mode of the config file of web",
        "gid of the secret token of web",
    ]


@pytest.mark.parametrize(
    ("section", "advised"),
    [(None, "git status"), (Secrets.model_validate({"declared": {"token": {}}}), "invoke secrets.render")],
)
def test_a_missing_file_is_rendered_only_where_it_is_one_of_the_stacks_secrets(
    compose: Compose, tmp_path: Path, section: Secrets | None, advised: str
) -> None:
    found = seen({"web": {}})
    web = replace(found.configuration.services["web"], secret_files=(tmp_path / "docker/secrets/token.txt",))
    found = replace(found, configuration=replace(found.configuration, services={"web": web}))

    with pytest.raises(Refused) as refused:
        preflight.check(found, PLAN, compose, section=section)

    assert refused.value.code == "file-missing"
    assert refused.value.next_command.startswith(advised)


def test_an_environment_all_of_whose_services_have_profiles_is_not_said_to_be_up() -> None:
    with pytest.raises(Refused) as refused:
        nothing_to_do(cast("Invocation", None), "dev", seen({}))

    assert refused.value.code == "no-service-selected"
    assert "environments.dev.profiles" in refused.value.next_command
