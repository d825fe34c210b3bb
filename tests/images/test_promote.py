"""images.promote and images.tag: the very image that runs, by a manifest put in the registry alone."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable

import pytest

from conche.engine import containers
from conche.engine.connection import Engine
from tests import warm
from tests.images.registries import Shop

pytestmark = pytest.mark.engine

PROMOTE = ("images.promote", "--from", "dev", "--to", "prod")


def up(shop: Shop, engine: Engine, *words: str) -> None:
    """Bring dev up, and wait until the engine says healthy: env.up asks the container itself, earlier than that."""
    done = shop.invoke("env.up", *words)
    assert done.returncode == 0, done.stderr
    seen = containers.read(engine, f"{shop.name}-web")
    assert seen is not None
    assert seen.started_at is not None
    # Since its start: what it reported before this looks is told too.
    events = engine.client.api.events(
        decode=True, since=int(seen.started_at.timestamp()), filters={"container": seen.id}
    )
    next(event for event in events if event["Action"] == "health_status: healthy")
    events.close()


@pytest.fixture
def runs(shop: Shop, engine: Engine) -> Shop:
    """A stack whose released image runs in dev."""
    shop.release()
    up(shop, engine)
    shop.registry.wire.reset()
    return shop


def on_request(shop: Shop, wanted: str, action: Callable[[], object], *, number: int = 1) -> list[str]:
    """Do something once, when the registry is asked this for the nth time, before it hears of it."""
    seen: list[str] = []
    lock = threading.Lock()  # each connection is carried by a thread of its own

    def watch(said: str) -> None:
        if said == wanted:
            with lock:
                seen.append(said)
                mine = len(seen)
            if mine == number:
                action()

    shop.registry.wire.watch = watch
    return seen


def test_the_image_that_runs_is_promoted_and_no_layer_moves(runs: Shop) -> None:
    done = runs.invoke(*PROMOTE)

    wire = runs.registry.wire
    assert done.returncode == 0, done.stderr
    assert runs.digest("production") == runs.digest("develop")
    assert "Next: invoke env.deploy --env prod" in done.stdout
    assert {said.split("/manifests/")[0] for said in wire.requests} == {
        f"GET /v2/{runs.name}",
        f"PUT /v2/{runs.name}",
    }
    # Manifests of two layers, a few times; the image has 170 MB.
    assert wire.sent + wire.came < 20_000


def test_a_second_promotion_finds_nothing_to_do(runs: Shop) -> None:
    runs.invoke(*PROMOTE)
    runs.registry.wire.reset()

    again = runs.json(*PROMOTE)

    assert (again["changed"], again["plan"]) == (False, [])
    assert not [said for said in runs.registry.wire.requests if said.startswith("PUT")]


def test_a_dry_run_shows_what_would_mean_what_and_how_to_take_it_back(runs: Shop) -> None:
    shown = runs.json(*PROMOTE, "--dry-run")

    [step] = shown["plan"]
    assert step["subject"] == f"image {runs.registry.host}/{runs.name}@{runs.digest('develop')} as production"
    assert step["cause"] == "runs in dev as web"
    assert "production" not in runs.tags()


def test_what_runs_is_promoted_and_not_what_its_tag_means_by_now(runs: Shop) -> None:
    proven = runs.digest("develop")
    runs.write("docker/server.py", (runs.folder / "docker/server.py").read_text() + "# newer\n")
    runs.commit("newer")
    runs.release()

    done = runs.invoke(*PROMOTE)

    assert done.returncode == 0, done.stderr
    assert runs.digest("develop") != proven
    assert runs.digest("production") == proven


def test_where_nothing_runs_nothing_is_promoted(shop: Shop) -> None:
    shop.layered(b"one")
    shop.release()

    done = shop.invoke(*PROMOTE)

    assert done.returncode == 2
    assert "error [nothing-runs]" in done.stderr
    assert "invoke images.tag develop production    # without proof" in done.stderr


def test_what_does_not_work_is_not_promoted(runs: Shop, engine: Engine) -> None:
    engine.client.api.stop(f"{runs.name}-web")

    done = runs.invoke(*PROMOTE)

    assert done.returncode == 2
    assert "error [not-healthy]" in done.stderr
    assert "looked at: web: exited" in done.stderr
    assert "production" not in runs.tags()


def test_what_was_never_pushed_is_not_promoted(shop: Shop, engine: Engine) -> None:
    up(shop, engine, "--build")

    refused = shop.invoke(*PROMOTE)

    assert refused.returncode == 2
    assert "error [image-not-pushed]" in refused.stderr
    assert "Next: invoke images.push --env dev" in refused.stderr


def test_what_is_no_commit_is_promoted_only_when_that_is_said(shop: Shop, engine: Engine) -> None:
    shop.write("docker/server.py", (shop.folder / "docker/server.py").read_text() + "# not committed\n")
    shop.release()
    up(shop, engine)

    refused = shop.invoke(*PROMOTE)
    allowed = shop.invoke(*PROMOTE, "--allow-dirty")

    assert refused.returncode == 2
    assert "error [tree-dirty]" in refused.stderr
    assert allowed.returncode == 0, allowed.stderr
    assert shop.digest("production") == shop.digest("develop")


@pytest.mark.parametrize(("source", "destination", "code"), [("dev", "dev", 2), ("dev", "prd", 6), ("def", "prod", 6)])
def test_environments_that_make_no_sense_are_refused(shop: Shop, source: str, destination: str, code: int) -> None:
    done = shop.invoke("images.promote", "--from", source, "--to", destination)

    assert done.returncode == code
    assert shop.registry.wire.requests == []


@pytest.mark.parametrize("number", [2, 3], ids=["before the first step", "just before it is put"])
def test_a_tag_that_somebody_moves_meanwhile_is_left_to_them(runs: Shop, number: int) -> None:
    registry = runs.registry.client()
    old = registry.manifest(runs.name, "develop")
    runs.write("docker/server.py", (runs.folder / "docker/server.py").read_text() + "# theirs\n")
    runs.commit("theirs")
    runs.release()
    theirs = registry.manifest(runs.name, "develop")
    runs.registry.wire.reset()
    seen = on_request(
        runs,
        f"GET /v2/{runs.name}/manifests/production",
        lambda: registry.put(runs.name, "production", theirs),
        number=number,
    )

    done = runs.invoke(*PROMOTE)

    assert len(seen) == number
    assert done.returncode == 2, done.stderr
    assert "error [tag-moved]" in done.stderr
    assert f"now {theirs.digest}" in done.stderr
    assert registry.digest(runs.name, "production") == theirs.digest != old.digest


STEPS = [
    ("GET", "sha256", 1),
    ("GET", "production", 1),
    ("GET", "production", 2),
    ("GET", "production", 3),
    ("PUT", "production", 1),
    ("GET", "production", 4),
]


@pytest.mark.parametrize(("method", "wanted", "number"), STEPS)
def test_after_a_kill_at_any_step_the_next_promotion_ends_it(runs: Shop, method: str, wanted: str, number: int) -> None:
    digest = runs.digest("develop")
    path = digest if wanted == "sha256" else wanted
    killed: list[subprocess.Popen[bytes]] = []
    seen = on_request(
        runs, f"{method} /v2/{runs.name}/manifests/{path}", lambda: killed[0].send_signal(signal.SIGKILL), number=number
    )
    with warm.Popen[bytes](
        runs.argv(*PROMOTE),
        cwd=runs.folder,
        env=runs.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        killed.append(process)
    between = runs.digest("production")
    runs.registry.wire.reset()

    done = runs.invoke(*PROMOTE)

    assert len(seen) == number
    assert process.returncode == -signal.SIGKILL
    assert between in (None, digest)
    assert done.returncode == 0, done.stderr
    assert runs.digest("production") == digest


@pytest.fixture
def pushed(shop: Shop) -> Shop:
    shop.layered(os.urandom(100))
    shop.release()
    return shop


def test_a_tag_or_digest_in_the_registry_gets_another_tag(pushed: Shop) -> None:
    digest = pushed.digest("develop")

    by_tag = pushed.json("images.tag", "develop", "v1.0")
    by_digest = pushed.json("images.tag", str(digest), "v1.1")
    again = pushed.json("images.tag", "develop", "v1.0")

    assert [one["changed"] for one in (by_tag, by_digest, again)] == [True, True, False]
    assert pushed.digest("v1.0") == pushed.digest("v1.1") == digest


def test_an_unknown_tag_is_answered_with_those_there_are(pushed: Shop) -> None:
    done = pushed.invoke("images.tag", "develp", "v1")

    assert done.returncode == 6
    assert "Did you mean 'develop'?" in done.stderr
    assert "tags: " in done.stderr


@pytest.mark.parametrize(
    ("source", "new"), [("../../x", "v1"), ("develop", "a/b"), ("$(id)", "v1"), ("develop", "a b"), ("develop", "V;1")]
)
def test_what_is_no_tag_is_refused_before_anybody_is_asked(pushed: Shop, source: str, new: str) -> None:
    pushed.registry.wire.reset()

    done = pushed.invoke("images.tag", source, new)

    assert done.returncode == 2
    assert "error [reference-invalid]" in done.stderr
    assert pushed.registry.wire.requests == []
