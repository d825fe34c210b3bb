"""Lost requests: `env.deploy` against the ways people replace containers by hand, under the same load in the same run.

20 deploys, every fourth of them of a version that does not work, under 200 requests a second against the edge's port:
no request may fail, and none that is sent after a switch may be answered by another version. From the start of the
command to the switch a deploy may take 3 s longer than the new container alone takes to be healthy.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from conche.engine import containers
from conche.engine.connection import Engine
from conche.stack import load
from conche.supply.base import provide
from tests.edged import EdgedStack, built
from tests.load import Load
from tests.stacks import free_port

RATE = 200.0
BAD = ("crash", "wrong", "sick", "sick-through-edge")
BEYOND = 3.0
"""Seconds that a switch may come later than the new container alone is healthy."""


def say(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def own_time(stack: EdgedStack, engine: Engine, image: str) -> float:
    """Seconds that a container of it alone takes from its making until its healthcheck passes."""
    begun = time.monotonic()
    test = "python3 -c \"import urllib.request as r; r.urlopen('http://127.0.0.1:8000/')\""
    argv = ["docker", "run", "--detach", "--rm", "--name", f"{stack.name}-alone", "--health-cmd", test]
    made = subprocess.run([*argv, image], check=True, capture_output=True, text=True).stdout.strip()
    try:
        while not ((found := containers.read(engine, made)) and containers.passes_healthcheck(engine, found)):
            time.sleep(0.05)
        return time.monotonic() - begun
    finally:
        engine.client.api.remove_container(made, force=True)


def ours(stack: EdgedStack, engine: Engine, count: int) -> bool:
    """The deploys; whether nothing was missed."""
    alone, switched, codes, wrong = [], [], Counter[int](), 0
    with Load(stack.port, rate=RATE) as users:
        for turn in range(count):
            bad = BAD[turn // 4 % len(BAD)] if turn % 4 == 3 else ""
            image = stack.version("bad", bad) if bad else stack.version(f"v{turn % 2}")
            if not bad:
                alone.append(own_time(stack, engine, image))
            done = stack.deploy(image, "--json", "--force")
            codes[done.returncode] += 1
            if done.returncode != (4 if bad else 0):
                say(done.stderr)
            if not bad and done.returncode == 0:
                value = json.loads(done.stdout)["value"]
                switched.append(value["switched_after"])
                # The command has ended, so that it has switched is long past.
                ended, release = time.monotonic(), value["release"]
                users.until(lambda seen, since=ended: len(seen.releases(since)) > 0)  # type: ignore[misc]
                wrong += users.releases(ended) != {release}
            else:
                wrong += users.answers[-1][2] != stack.page()["release"]
    beyond = statistics.median(switched) - statistics.median(alone)
    met = (not users.failures, not wrong, beyond <= BEYOND, set(codes) <= {0, 4} and codes[4] == count // 4)
    say(
        f"env.deploy: {count} deploys ({codes[0]} good, {codes[4]} taken back) under {RATE:g} requests a second: "
        f"{len(users.failures)} of {users.asked} failed (at most 0), {wrong} answered by a wrong version (at most 0) "
        f"{'ok' if all(met[:2]) and met[3] else 'MISSED'}"
    )
    say(
        f"from the start to the switch: {statistics.median(switched):.1f} s, "
        f"{beyond:.1f} s beyond the container's own {statistics.median(alone):.1f} s (at most {BEYOND:g} s) "
        f"{'ok' if met[2] else 'MISSED'}"
    )
    for moment, why in users.failures[:5]:
        say(f"  {moment:.2f}: {why}")
    return all(met)


def rival(stack: EdgedStack, name: str, count: int, *, stop_first: bool) -> None:
    """The same number of replacements by hand, of a service that publishes the port itself."""
    project = f"{stack.name}-rival"
    port = free_port()
    compose = f"""\
services:
  web:
    image: ${{IMAGE}}
    ports: ["127.0.0.1:{port}:8000"]
    stop_grace_period: 3s
    environment: {{CONCHE_RELEASE: by-hand}}
"""
    stack.write("rival.yaml", compose)
    argv = ["docker", "compose", "--file", "rival.yaml", "--project-name", project]

    def call(image: str, *words: str) -> None:
        environment = {**os.environ, "IMAGE": image}
        subprocess.run([*argv, *words], cwd=stack.folder, env=environment, check=True, capture_output=True)

    call(stack.version("v0"), "up", "--detach")
    with Load(port, rate=RATE) as users:
        users.until(lambda seen: len(seen.answers) > 10)
        users.failures.clear()
        before = users.asked
        for turn in range(count):
            image = stack.version(f"v{(turn + 1) % 2}")
            if stop_first:
                call(image, "down")
            call(image, "up", "--detach")
            seen = len(users.answers)
            users.until(lambda load, seen=seen: len(load.answers) > seen + 20)  # type: ignore[misc]
    lost, asked = len(users.failures), users.asked - before
    say(f"{name}: {count} good replacements: {lost} of {asked} failed, {lost / count:.0f} each time")
    call(stack.version("v0"), "down", "--timeout", "1")


def main(count: int) -> bool:
    """Run all of it; whether what must be reached was."""
    engine = Engine()
    with tempfile.TemporaryDirectory() as folder:
        stack = EdgedStack.create(Path(folder) / "checkout", free_port())
        for base in ("python:3.11-slim-bookworm", "nginx:1.27"):
            provide(engine, load(stack.folder).bases, base, lambda _: None)
        made = [(f"v{number}", "well") for number in (0, 1)] + [("bad", how) for how in BAD]
        try:
            for version, how in made:
                stack.version(version, how)
            first = stack.deploy(stack.version("v1"))
            if first.returncode:
                say(first.stderr)
                return False
            met = ours(stack, engine, count)
            rival(stack, "docker compose up --detach, which recreates", count, stop_first=False)
            rival(stack, "docker compose down, then up", count, stop_first=True)
        finally:
            stack.remove_all(engine)
            for version, how in made:
                subprocess.run(["docker", "rmi", built(version, how)], capture_output=True, check=False)
    return met
