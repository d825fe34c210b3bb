"""What a stack is made of on a real swarm: as `docker stack deploy` makes it, and put back as it was."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conche.engine import stacks, swarm
from conche.engine.compose import Configuration
from conche.engine.connection import Engine
from conche.env.rollout.read_contents import with_configs
from conche.env.rollout.swarm_stack import to_stack
from conche.release.document import Document
from conche.stack import Deploy

pytestmark = pytest.mark.engine

COMPOSE = """\
version: "3.9"
services:
  web:
    image: python:3.11-slim-bookworm
    command: ["sleep", "1000"]
    ports: ["9000", "7000-7002:8000-8002/udp", "7100-7101:8100"]
    restart: on-failure:3
    networks: {inside: {aliases: [other]}}
    volumes:
      - data:/data
      - /anonymous
      - {type: tmpfs, target: /t, tmpfs: {size: 1000000}}
      - {type: bind, source: /tmp, target: /host, read_only: true, bind: {propagation: rshared}}
      - {type: volume, source: data, target: /again, volume: {nocopy: true}}
    configs: [rules, {source: rules, target: /etc/rules, uid: "5", gid: "6", mode: 0400}]
    deploy:
      mode: replicated
      replicas: 0
      labels: {of: service}
      placement:
        constraints: [node.labels.disk==ssd]
        preferences: [{spread: node.labels.rack}]
        max_replicas_per_node: 2
      update_config:
        {parallelism: 2, delay: 1s, failure_action: pause, monitor: 3s, max_failure_ratio: 0.1, order: start-first}
      rollback_config:
        {parallelism: 2, delay: 1s, failure_action: continue, monitor: 4s, max_failure_ratio: 0.2, order: start-first}
      restart_policy: {condition: on-failure, delay: 2s, max_attempts: 4, window: 5s}
      resources:
        limits: {cpus: "0.5", memory: 100m, pids: 50}
        reservations: {cpus: "0.1", memory: 5m, generic_resources: [{discrete_resource_spec: {kind: gpu, value: 2}}]}
      endpoint_mode: vip
    logging: {driver: json-file, options: {max-size: 1m}}
    ulimits: {nofile: {soft: 1000, hard: 2000}, nproc: 3000}
    sysctls: {net.core.somaxconn: 1024}
    init: true
    tty: true
    stdin_open: true
    hostname: host
    dns: [1.1.1.1]
    dns_search: [example.org]
    extra_hosts: ["far:1.2.3.4"]
    stop_grace_period: 3s
    stop_signal: SIGINT
    healthcheck: {test: [CMD, "true"], interval: 1s, timeout: 2s, retries: 3, start_period: 4s}
    cap_add: [NET_ADMIN]
    cap_drop: [MKNOD]
    isolation: default
    read_only: true
    user: "0"
    working_dir: /tmp
    environment: {COST: "5 $$"}
    labels: {of: container}
  agent:
    image: python:3.11-slim-bookworm
    command: ["sleep", "1000"]
    networks: [inside]
    deploy: {mode: global, endpoint_mode: dnsrr, placement: {constraints: [node.labels.disk==ssd]}}
networks:
  inside:
    driver: overlay
    driver_opts: {encrypted: ""}
    attachable: true
    internal: true
    ipam: {driver: default, config: [{subnet: 10.87.2.0/24}]}
    labels: {of: network}
volumes:
  data: {driver: local, driver_opts: {type: none, o: bind, device: /srv}, labels: {of: volume}}
configs:
  rules: {file: ./rules}
"""


@pytest.fixture
def name(swarming: Engine) -> Iterator[Callable[[str], str]]:
    """Names of stacks, which are removed afterwards."""
    made: list[str] = []

    def give(what: str) -> str:
        made.append(f"t{uuid.uuid4().hex[:8]}-{what}")
        return made[-1]

    yield give
    for one in made:
        swarm.remove(swarming, one)
        assert swarm.wait_gone(swarming, one, 300)
        swarm.sweep(swarming, one, frozenset())


def specs(engine: Engine, stack: str) -> dict[str, Any]:
    """The definitions of a stack's services, without what only its name makes different."""
    api: Any = engine.client.api
    found = api.services(filters={"label": f"com.docker.stack.namespace={stack}"})
    plain = {
        one["Spec"]["Name"].removeprefix(f"{stack}_"): json.dumps(one["Spec"]).replace(stack, "S") for one in found
    }
    for network in api.networks(filters={"label": f"com.docker.stack.namespace={stack}"}):
        plain = {key: text.replace(network["Id"], "N") for key, text in plain.items()}
    parsed = {key: json.loads(text) for key, text in plain.items()}
    for spec in parsed.values():
        content = spec["TaskTemplate"]["ContainerSpec"]
        # Of one config at two places either may come first.
        content["Configs"] = sorted(json.dumps(one["File"]) for one in content.get("Configs") or [])
    return parsed


def network_of(engine: Engine, stack: str) -> Any:
    [found] = engine.client.api.networks(filters={"label": f"com.docker.stack.namespace={stack}"})
    options = {key: value for key, value in found["Options"].items() if not key.endswith("vxlanid_list")}
    keys = ("Driver", "Internal", "Attachable", "IPAM")
    return {key: found[key] for key in keys}, options, sorted(found["Labels"])


def test_a_stack_is_what_docker_stack_deploy_makes_of_the_same_file(
    swarming: Engine, name: Callable[[str], str], tmp_path: Path
) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(COMPOSE)
    (tmp_path / "rules").write_text("costs 5 $ and more\n")
    theirs, ours = name("theirs"), name("ours")
    argv = ["docker", "stack", "deploy", "--resolve-image", "never", "--compose-file", str(file)]
    subprocess.run([*argv, theirs], check=True, capture_output=True, env=environment(swarming))
    said, network = specs(swarming, theirs), network_of(swarming, theirs)
    swarm.remove(swarming, theirs)  # two networks cannot have one subnet
    assert swarm.wait_gone(swarming, theirs, 300)

    rendered = json.loads(
        subprocess.run(
            ["docker", "compose", "--file", str(file), "--project-name", ours, "config", "--format", "json"],
            check=True, capture_output=True,
        ).stdout
    )  # fmt: skip
    document = with_configs(Configuration(ours, {}, (), (), rendered)).rendered
    sent = to_stack(Document(document), Deploy(), None)
    names = {key: swarm.provide(swarming, ours, "config", key, content) for key, content in sent.configs.items()}
    done = swarm.deploy(swarming, ours, sent.content(names), {}, lambda _: None)

    assert done.ok, done.stderr
    made = specs(swarming, ours)
    # Where the file is silent Conche starts the new task first, and rolls back.
    for key in ("UpdateConfig", "RollbackConfig"):
        said["agent"].pop(key, None), made["agent"].pop(key, None)
    for one in (said, made):
        one["agent"]["TaskTemplate"]["RestartPolicy"] = None
    assert made == said
    assert network_of(swarming, ours) == network
    api: Any = swarming.client.api
    [config] = api.configs(filters={"name": names["rules"]})
    assert config["Spec"]["Data"] == "Y29zdHMgNSAkIGFuZCBtb3JlCg=="


def environment(engine: Engine) -> dict[str, str]:
    return {**os.environ, "DOCKER_HOST": engine.address}


SLEEPING = {"image": "python:3.11-slim-bookworm", "command": ["sleep", "1000"], "init": True, "stop_grace_period": "1s"}


def deployed(engine: Engine, stack: str, services: dict[str, Any]) -> None:
    content = json.dumps({"version": "3.8", "services": services}).encode()
    assert swarm.deploy(engine, stack, content, {}, lambda _: None).ok


def until(engine: Engine, stack: str, holds: Callable[[swarm.Replicated], bool]) -> dict[str, swarm.Replicated]:
    """The services, once this holds for each."""
    end = time.monotonic() + 300
    while True:
        found = {one.name: one for one in swarm.services(engine, stack)}
        if found and all(map(holds, found.values())):
            return found
        assert time.monotonic() < end, found


def settled(engine: Engine, stack: str) -> dict[str, swarm.Replicated]:
    return until(engine, stack, lambda one: one.settled)


def test_what_was_there_is_put_back_and_only_what_came_since_goes(swarming: Engine, name: Callable[[str], str]) -> None:
    stack = name("hand")
    deployed(swarming, stack, {"one": SLEEPING, "two": SLEEPING})
    swarm.replicate(swarming, f"{stack}_one", 2)
    settled(swarming, stack)
    before, ids = stacks.standing(swarming, stack), set(tasks_of(swarming, stack))
    changed = {**SLEEPING, "environment": {"A": "b"}, "networks": ["new"]}
    content = json.dumps({"version": "3.8", "services": {"one": changed, "three": SLEEPING}, "networks": {"new": {}}})
    assert swarm.deploy(swarming, stack, content.encode(), {}, lambda _: None).ok
    swarm.provide(swarming, stack, "config", "rules", b"new")

    stacks.put_back(swarming, stack, before)
    end = time.monotonic() + 300
    while (left := stacks.missing(swarming, stack, before)) and time.monotonic() < end:
        continue
    stacks.sweep_since(swarming, stack, before, 30)

    after = stacks.standing(swarming, stack)
    assert left == []
    assert after == before
    assert settled(swarming, stack)["one"].running == 2
    assert len(set(tasks_of(swarming, stack))) >= len(ids)


def tasks_of(engine: Engine, stack: str) -> list[str]:
    api: Any = engine.client.api
    return [one["ID"] for one in api.tasks(filters={"label": f"com.docker.stack.namespace={stack}"})]


def test_a_task_that_has_ended_well_is_done(swarming: Engine, name: Callable[[str], str]) -> None:
    stack = name("once")
    once = {**SLEEPING, "command": ["true"], "deploy": {"restart_policy": {"condition": "none"}}}
    deployed(swarming, stack, {"once": once})

    [found] = until(swarming, stack, lambda one: one.done == 1).values()
    assert (found.settled, found.running, found.wanted) == (True, 0, 1)

    deployed(swarming, stack, {"once": {**once, "command": ["false"]}})
    [found] = until(swarming, stack, lambda one: one.broken).values()
    assert not found.settled
