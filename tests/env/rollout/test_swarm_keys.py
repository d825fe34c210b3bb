"""What of a Compose file a swarm is given: as `docker stack deploy` would, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conche.engine.compose import Compose
from conche.engine.connection import Engine
from conche.env.rollout.lint import check
from conche.env.rollout.swarm_keys import uncarried, unordered
from conche.env.rollout.swarm_service import convert
from conche.env.rollout.swarm_stack import to_stack
from conche.errors import Refused
from conche.release.document import RELEASE, Document
from conche.stack import Deploy, Environment

DEPLOY = Deploy()


def body_of(**said: Any) -> dict[str, Any]:
    return {"services": {"web": {"image": "a", **said}}}


def sent(**said: Any) -> dict[str, Any]:
    return convert("web", body_of(**said)["services"]["web"], DEPLOY)


REFUSED = [
    ("devices", ["/dev/null:/dev/x"]),
    ("shm_size", "64m"),
    ("privileged", True),
    ("security_opt", ["no-new-privileges"]),
    ("group_add", ["users"]),
    ("network_mode", "host"),
    ("container_name", "fixed"),
    ("domainname", "example.org"),
    ("links", ["db"]),
    ("cpu_shares", 5),
    ("what_a_later_version_brings", {"x": 1}),
]


@pytest.mark.parametrize(("key", "value"), REFUSED)
def test_a_key_that_is_not_handed_on_is_refused_by_name(key: str, value: object) -> None:
    assert uncarried(body_of(**{key: value})) == [f"services.web.{key}: is not supported on a swarm"]


@pytest.mark.parametrize(
    ("said", "path"),
    [
        ({"healthcheck": {"test": ["NONE"], "start_interval": "1s"}}, "services.web.healthcheck.start_interval"),
        ({"networks": {"in": {"ipv4_address": "10.0.0.9"}}}, "services.web.networks.in.ipv4_address"),
        ({"volumes": [{"type": "volume", "target": "/d", "volume": {"subpath": "x"}}]}, "volume.subpath"),
        ({"volumes": [{"type": "cluster", "target": "/d"}]}, "services.web.volumes[0]: cluster"),
        ({"deploy": {"resources": {"reservations": {"devices": [{"count": 1}]}}}}, "reservations.devices"),
        ({"deploy": {"mode": "replicated-job"}}, "services.web.deploy.mode"),
        ({"deploy": {"update_config": {"later": 1}}}, "services.web.deploy.update_config.later"),
        ({"tmpfs": ["/run:size=1m,uid=5"]}, "services.web.tmpfs: /run:size=1m,uid=5: a swarm does not support uid=5"),
        ({"depends_on": {"db": {"condition": "service_completed_successfully"}}}, "services.web.depends_on.db"),
        ({"restart": "sometimes"}, "services.web.restart"),
    ],
)
def test_what_stands_deeper_is_refused_by_its_path(said: dict[str, Any], path: str) -> None:
    [complaint] = uncarried(body_of(**said))

    assert path in complaint


def test_networks_volumes_and_configs_are_looked_at_too() -> None:
    document = {
        **body_of(),
        "networks": {"in": {"name": "in", "enable_ipv6": True, "ipam": {"config": [{"gateway": "10.0.0.1"}]}},
                     "out": {"driver": "bridge"}, "away": {"external": True, "driver": "bridge"}},
        "volumes": {"data": {"name": "data", "later": "x"}},
        "configs": {"a": {"template_driver": "golang"}},
        "secrets": {"b": {"driver": "vault"}},
        "models": {"m": {"model": "x"}},
        "x-mine": {"anything": 1},
    }  # fmt: skip

    assert [one.partition(": ")[0] for one in uncarried(document)] == [
        "networks.in.enable_ipv6", "networks.in.ipam.config[0].gateway", "volumes.data.later",
        "configs.a.template_driver", "secrets.b.driver", "models", "networks.out.driver",
    ]  # fmt: skip


def test_what_says_nothing_is_not_complained_of() -> None:
    said = {"privileged": False, "devices": [], "security_opt": None, "x-note": 1, "profiles": ["a"], "expose": ["80"]}

    assert uncarried(body_of(**said, depends_on={"db": {"condition": "service_started"}})) == []


def test_what_can_be_lived_with_is_said() -> None:
    ports = [{"target": 1, "published": "80", "host_ip": "127.0.0.1"}, {"target": 2, "host_ip": "0.0.0.0"}]

    assert unordered(body_of(ports=ports, depends_on={"db": {"condition": "service_healthy"}})) == [
        "web does not wait for db: a swarm starts services in no order",
        "web publishes 80 on every address of its node: a swarm cannot bind to one address",
    ]


def test_ports_without_a_number_ranges_and_protocols() -> None:
    ports = [{"target": 9000}, {"target": 53, "published": "5353", "protocol": "udp"},
             {"target": 80, "published": "7000-7001"}]  # fmt: skip
    host = {"protocol": "tcp", "mode": "host"}

    assert sent(ports=ports)["ports"] == [
        {**host, "target": 9000},
        {**host, "target": 53, "protocol": "udp", "published": 5353},
        {**host, "target": 80, "published": 7000},
        {**host, "target": 80, "published": 7001},
    ]
    routed = sent(ports=[{"target": 1, "published": "2", "mode": "ingress"}], deploy={"endpoint_mode": "vip"})
    assert (routed["ports"][0]["mode"], routed["deploy"]["endpoint_mode"]) == ("ingress", "vip")


@pytest.mark.parametrize(
    ("said", "policy"),
    [
        ({}, {"condition": "any", "delay": "1s"}),
        ({"restart": "unless-stopped"}, {"condition": "any", "delay": "1s"}),
        ({"restart": "no"}, {"condition": "none", "delay": "1s"}),
        ({"restart": "on-failure:3"}, {"condition": "on-failure", "delay": "1s", "max_attempts": 3}),
        ({"restart": "no", "deploy": {"restart_policy": {"condition": "any"}}}, {"condition": "any"}),
    ],
)
def test_a_restart_policy_is_kept(said: dict[str, Any], policy: dict[str, Any]) -> None:
    assert sent(**said)["deploy"]["restart_policy"] == policy


def test_replicas_modes_and_old_names_of_limits() -> None:
    assert sent(deploy={"replicas": 0})["deploy"]["replicas"] == 0
    assert sent(scale=3)["deploy"]["replicas"] == 3
    assert "replicas" not in sent(deploy={"mode": "global"})["deploy"]
    assert sent(cpus=0.5, mem_limit="1000", mem_reservation="10", pids_limit=5)["deploy"]["resources"] == {
        "limits": {"cpus": "0.5", "memory": "1000", "pids": 5}, "reservations": {"memory": "10"},
    }  # fmt: skip


def test_the_alias_of_a_release_stays_on_compose() -> None:
    said = sent(labels={RELEASE: "r7"}, networks={"in": {"aliases": ["other", "web-r7"]}, "out": None})

    assert said["networks"] == {"in": {"aliases": ["other"]}, "out": {"aliases": []}}


def test_configs_keep_their_content_and_volumes_their_options() -> None:
    rendered = {
        **body_of(
            configs=[{"source": "own", "mode": 0o440}, {"source": "theirs", "target": "/t", "mode": "0400"}],
            volumes=[{"type": "volume", "source": "data", "target": "/d"}, {"type": "volume", "target": "/anonymous"}],
        ),
        "configs": {"own": {"content": "costs 5 $$"}, "theirs": {"external": True, "name": "c"}},
        "volumes": {"data": {"name": "x_data", "driver_opts": {"type": "none", "o": "bind", "device": "/srv"}}},
        "networks": {"in": {"name": "given", "internal": True, "driver_opts": {"encrypted": ""}}},
    }

    given = to_stack(Document(rendered), DEPLOY, None)

    assert given.configs == {"own": b"costs 5 $"}
    document = json.loads(given.content({"own": "x_own-1"}))
    assert document["configs"] == {
        "theirs": {"external": True, "name": "c"},
        "own": {"external": True, "name": "x_own-1"},
    }
    assert document["volumes"] == rendered["volumes"]
    assert document["networks"]["in"] == {"driver": "overlay", "attachable": True, **rendered["networks"]["in"]}
    assert [(one.get("target"), one["mode"]) for one in document["services"]["web"]["configs"]] == [
        (None, 288),
        ("/t", 256),
    ]


@pytest.mark.process
def test_every_reason_is_given_at_once(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    services = {
        "web": {"image": "a", "devices": ["/dev/null:/dev/x"], "shm_size": "64m"},
        "db": {"image": "b", "pid": "host"},
    }
    file.write_text(json.dumps({"services": services}))
    configuration = Compose(Engine(), "x-prod", (file,)).configuration(hashed=False)
    environment = Environment(compose=(file,), engine="swarm", deploy=Deploy(release_command=("migrate",)))

    with pytest.raises(Refused) as refused:
        check(configuration, environment, tmp_path, {})

    assert refused.value.code == "not-deployable"
    assert [one.partition(":")[0] for one in refused.value.evidence] == [
        "services.db.pid", "services.web.devices", "services.web.shm_size", "deploy.release_command in stack.yaml",
    ]  # fmt: skip
