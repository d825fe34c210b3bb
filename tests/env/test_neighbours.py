"""A sidecar that does not come up beside an application and a database that do, on the real engine.

The sidecar starts as one of a private network does: it logs many lines, of which one in the middle says why it gives
up, is started again by the engine, and takes a key once.
"""

from __future__ import annotations

import subprocess

import pytest

from conche.engine.connection import Engine
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine

STARTS = """\
rm -f /tmp/joined
say() { for number in $(seq 45); do echo "wgengine: line $number, no error"; done; }
say
case $(cat /side/key) in
  good) touch /tmp/joined; exec sleep 600 ;;
  away) exec sleep 600 ;;
  *) echo "backend error: authkey already used"; say; echo "boot: failed to auth: exit status 1"; exit 1 ;;
esac
"""

BESIDE = """\
services:
  db:
    image: python:3.11-slim-bookworm
    command: [sleep, infinity]
    init: true
    stop_grace_period: 1s
    healthcheck: {test: [CMD, "true"], interval: 1s}
  side:
    image: python:3.11-slim-bookworm
    command: [sh, /side/starts]
    init: true
    stop_grace_period: 1s
    volumes: ["../side:/side:ro"]
    healthcheck: {test: [CMD, test, -e, /tmp/joined], interval: 1s, timeout: 5s, retries: 2, start_period: 2s}
    restart: always
"""

SIDES = "restart: always"


@pytest.fixture
def beside(small: SmallStack) -> SmallStack:
    """The small stack with a database and a sidecar whose key is used up."""
    small.replace("compose/dev.yaml", "services:\n", BESIDE)
    small.write("side/starts", STARTS)
    key(small, "used")
    return small


def key(stack: SmallStack, which: str) -> None:
    stack.write("side/key", which)


def working(stack: SmallStack, engine: Engine) -> dict[str, str]:
    """Service -> id of its container, of those that run."""
    return {one.service: one.id for one in stack.containers(engine) if one.state == "running"}


def first_lines(said: str) -> str:
    """The first five lines of an error."""
    return "\n".join(said[said.index("error [") :].splitlines()[:5])


@pytest.mark.parametrize(
    ("which", "policy", "why"),
    [
        pytest.param("used", '"no"', "side exited with 1: backend error: authkey already used", marks=pytest.mark.long),
        ("used", "always", "backend error: authkey already used"),
        pytest.param("away", "always", "side is unhealthy", marks=pytest.mark.long),
    ],
    ids=["exits", "loops", "is unhealthy"],
)
def test_a_sidecar_that_fails_is_taken_back_alone_and_says_why(
    beside: SmallStack, engine: Engine, which: str, policy: str, why: str
) -> None:
    key(beside, which)
    beside.replace("compose/dev.yaml", SIDES, SIDES.replace("always", policy))

    cold = beside.invoke("env.up")

    up = working(beside, engine)
    assert (cold.returncode, set(up)) == (3, {"web", "db"}), cold.stderr
    assert f"dev is up on http://127.0.0.1:{beside.port}/, but for side." in cold.stderr
    assert why in first_lines(cold.stderr)

    warm = beside.invoke("env.up")

    assert (warm.returncode, working(beside, engine)) == (3, up), warm.stderr
    assert why in first_lines(warm.stderr)
    assert "--build" not in warm.stderr

    key(beside, "good")
    healed = beside.invoke("env.up")

    assert (healed.returncode, set(working(beside, engine))) == (0, {"web", "db", "side"}), healed.stderr
    assert up.items() <= working(beside, engine).items()


def test_a_sidecar_that_is_restarted_for_ever_is_red_and_judged_by_the_start_that_is_ordered(
    beside: SmallStack, engine: Engine
) -> None:
    key(beside, "good")
    beside.up()
    before = working(beside, engine)
    key(beside, "used")
    engine.client.api.restart(before["side"], timeout=0)
    events = engine.client.api.events(decode=True, filters={"container": before["side"], "event": "die"})
    next(events)
    next(events)
    events.close()

    status = beside.invoke("env.status", "--env", "dev")
    failed = beside.invoke("env.up")
    key(beside, "good")
    healed = beside.invoke("env.up")

    assert status.returncode == 1
    assert (failed.returncode, "authkey already used" in first_lines(failed.stderr)) == (3, True), failed.stderr
    assert healed.returncode == 0, healed.stderr
    after = working(beside, engine)
    assert (after["web"], after["db"]) == (before["web"], before["db"])
    assert beside.invoke("env.status", "--env", "dev").returncode == 0


def test_what_needs_the_sidecar_falls_with_it(beside: SmallStack, engine: Engine) -> None:
    beside.replace(
        "compose/dev.yaml",
        "services:\n",
        "services:\n  inside:\n    image: python:3.11-slim-bookworm\n    command: [sleep, infinity]\n"
        "    init: true\n    network_mode: service:side\n",
    )

    failed = beside.invoke("env.up")

    assert (failed.returncode, set(working(beside, engine))) == (3, {"web", "db"}), failed.stderr
    assert "not up: inside, which needs side" in failed.stderr


def test_what_is_in_the_network_of_the_sidecar_stays_in_it_when_that_restarts(
    beside: SmallStack, engine: Engine
) -> None:
    """As with `docker compose restart`; a restart of the sidecar alone would leave the other without a network."""
    key(beside, "good")
    beside.replace(
        "compose/dev.yaml",
        "services:\n",
        "services:\n  inside:\n    image: python:3.11-slim-bookworm\n    command: [sleep, infinity]\n"
        "    init: true\n    stop_grace_period: 1s\n    network_mode: service:side\n",
    )
    beside.up()

    def routes(service: str) -> str:
        (one,) = (found.id for found in beside.containers(engine) if found.service == service)
        argv = ["docker", "exec", one, "cat", "/proc/net/route"]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    restarted = beside.json("env.restart", "--service", "side")
    there = routes("inside")
    (side,) = (found for found in beside.containers(engine) if found.service == "side")
    engine.client.api.stop(side.id, timeout=1)
    started = beside.json("env.up")

    follows = ("restart", "service inside", "follows side, which starts anew")
    assert [(one["action"], one["subject"]) for one in restarted["plan"]] == [
        ("restart", "service side"), ("restart", "service inside"),
    ]  # fmt: skip
    assert follows in [(one["action"], one["subject"], one["cause"]) for one in started["plan"]]
    assert there == routes("inside") == routes("side")
    assert len(there.splitlines()) > 1
