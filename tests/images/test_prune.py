"""images.prune: what goes, why the rest stays, and what is kept from it while it runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conche.engine import images, lock
from conche.engine.connection import Engine
from conche.engine.images import LocalImage
from conche.engine.state import State
from conche.images.prune import ImageDecision, decide
from conche.stack import Stack, parse
from conche.supply.inventory import Inventory, Kept, Running
from tests import warm
from tests.images.registries import PrivateRegistry, Shop, serving

STACK = """\
name: shop
registry: localhost:5000
images: {web: {dockerfile: x, repository: shop}}
environments:
  dev: {compose: [x.yaml], tag: develop}
  prod: {compose: [x.yaml], tag: production}
"""

ADDRESS = "unix:///var/run/docker.sock"


@pytest.fixture
def stack() -> Stack:
    return parse(STACK)


def kept(tag: str, digest: str, day: int) -> Kept:
    return Kept("shop", tag, digest, 1, f"2026-01-{day:02}T00:00:00Z", "")


def run(digest: str, environment: str = "dev") -> Running:
    return Running(environment, "web", "shop", f"id of {digest}", frozenset({digest}), "")


def observed(*tags: Kept, running: tuple[Running, ...] = (), local: tuple[LocalImage, ...] = ()) -> Inventory:
    return Inventory(tags, {ADDRESS: local}, running, (), {ADDRESS: ()}, {ADDRESS: {}})


def reasons(decisions: list[ImageDecision]) -> dict[str, str]:
    return {",".join(one.tags) or one.digest: one.stays for one in decisions}


def test_what_is_not_among_the_newest_goes(stack: Stack) -> None:
    seen = observed(kept("aaaaaaa", "1", 1), kept("bbbbbbb", "2", 2), kept("ccccccc", "3", 3))

    decisions = decide(stack, seen, {}, keep=2)

    assert reasons(decisions) == {"aaaaaaa": "", "bbbbbbb": "one of the 2 newest", "ccccccc": "one of the 2 newest"}
    [goes] = [one for one in decisions if one.goes]
    assert str(goes.step()) == "delete image shop:aaaaaaa (registry)"
    assert goes.step().cause == "not one of the 2 newest; no environment runs it"


def test_what_is_needed_stays_with_the_weightiest_reason(stack: Stack) -> None:
    seen = observed(
        kept("aaaaaaa", "1", 1),
        kept("bbbbbbb", "2", 2),
        kept("develop", "3", 3),
        kept("ccccccc", "3", 3),
        kept("v1.0", "4", 4),
        kept("ddddddd", "5", 5),
        kept("eeeeeee-dirty", "6", 6),
        running=(run("2"),),
    )

    assert reasons(decide(stack, seen, {"1": "release 7 of prod"}, keep=1)) == {
        "aaaaaaa": "release 7 of prod",
        "bbbbbbb": "runs in dev",
        "develop,ccccccc": "is what dev means",
        "v1.0": "tag v1.0 was given by hand",
        "ddddddd": "",
        "eeeeeee-dirty": "one of the 1 newest",
    }


def test_on_an_engine_an_image_is_judged_with_all_its_tags_and_users(stack: Stack) -> None:
    def found(number: int, *tags: str) -> LocalImage:
        names = tuple(f"localhost:5000/shop:{tag}" for tag in tags)
        return LocalImage(f"id{number}", tags=(*names, "elsewhere/shop:keep"), created=f"2026-01-{10 - number:02}")

    local = (found(1, "aaaaaaa"), found(2, "bbbbbbb", "develop"), found(3, "ccccccc"), found(4, "ddddddd"))
    seen = observed(local=local)
    seen = Inventory(seen.kept, seen.local, seen.running, (), seen.loose, {ADDRESS: {"id4": "a-container"}})

    assert reasons(decide(stack, seen, {}, keep=1)) == {
        "aaaaaaa": "one of the 1 newest",
        "bbbbbbb,develop": "is what dev means",
        "ccccccc": "",
        "ddddddd": "container a-container uses it",
    }


def test_without_a_registry_what_the_stack_has_built_is_judged_by_the_label_of_its_builds() -> None:
    stack = parse("name: shop\nenvironments: {dev: {compose: [x.yaml]}}\n")
    labels = {"io.conche.stack": "shop"}
    local = tuple(
        LocalImage(f"id{number}", labels, tags=(f"shop-web:{tag}",), created=f"2026-01-{10 - number:02}")
        for number, tag in enumerate(("latest", "aaaaaaa", "bbbbbbb", "mine"))
    )

    decisions = decide(stack, observed(local=(*local, LocalImage("other", tags=("redis:7",)))), {}, keep=1)

    assert reasons(decisions) == {
        "latest": "is what dev means",
        "aaaaaaa": "",
        "bbbbbbb": "",
        "mine": "tag mine was given by hand",
    }
    assert [(one.called, one.tags) for one in decisions if one.goes] == [
        ("shop-web", ("aaaaaaa",)),
        ("shop-web", ("bbbbbbb",)),
    ]


def test_what_a_rebuild_has_left_goes_unless_a_registry_or_a_container_knows_it(stack: Stack) -> None:
    loose = (LocalImage("id1"), LocalImage("id2", digests=("localhost:5000/shop@sha256:1",)), LocalImage("id3"))
    seen = Inventory((), {ADDRESS: ()}, (), (), {ADDRESS: loose}, {ADDRESS: {"id3": "trial"}})

    assert reasons(decide(stack, seen, {}, keep=1)) == {"id1": "", "id3": "container trial uses it"}


def test_what_nobody_can_date_stays_and_takes_no_place_of_the_newest(stack: Stack) -> None:
    tags = (kept("aaaaaaa", "1", 1), kept("bbbbbbb", "2", 2))
    broken = Kept("shop", "ccccccc", "3", 0, "", "", frozenset(), "the image for linux/amd64 cannot be read: gone.")
    local = (
        LocalImage("id1", tags=("localhost:5000/shop:ddddddd",), created="1970-01-01T00:00:00Z"),
        LocalImage("id2", tags=("localhost:5000/shop:eeeeeee",), created="2026-01-02T00:00:00Z"),
        LocalImage("id3", tags=("localhost:5000/shop:fffffff",), created="2026-01-01T00:00:00Z"),
    )

    assert reasons(decide(stack, observed(*tags, broken, local=local), {}, keep=1)) == {
        "aaaaaaa": "",
        "bbbbbbb": "one of the 1 newest",
        "ccccccc": "its age is not known: the image for linux/amd64 cannot be read: gone",
        "ddddddd": "its age is not known",
        "eeeeeee": "one of the 1 newest",
        "fffffff": "",
    }


def test_an_index_stays_where_one_of_its_images_is_needed(stack: Stack) -> None:
    whole = Kept("shop", "aaaaaaa", "1", 1, "2026-01-01T00:00:00Z", "", frozenset({"child"}))
    seen = observed(whole, kept("bbbbbbb", "2", 2), kept("ccccccc", "3", 3))

    assert reasons(decide(stack, seen, {"child": "release r7 of prod"}, keep=1)) == {
        "aaaaaaa": "release r7 of prod",
        "bbbbbbb": "",
        "ccccccc": "one of the 1 newest",
    }


PRUNE = ("images.prune", "--keep", "1", "--yes")


@pytest.fixture
def old(shop: Shop) -> Shop:
    """A stack with four releases for dev, the first of which was tagged by hand."""
    for day in range(1, 5):
        shop.layered(os.urandom(100), date=f"2026-01-0{day}T00:00:00Z")
        shop.release()
        if day == 1:
            shop.invoke("images.tag", "develop", "v1.0")
    shop.registry.wire.reset()
    return shop


def revisions(shop: Shop) -> list[str]:
    """The commits that were released, the oldest first."""
    return shop.git("log", "-4", "--format=%h").splitlines()[::-1]


def on_engine(shop: Shop, engine: Engine) -> set[str]:
    """The tags of the stack's images on the engine."""
    name = f"{shop.registry.host}/{shop.name}"
    found = images.of_repository(engine, name)
    return {tag.rpartition(":")[2] for image in found for tag in image.tags if tag.startswith(name)}


def test_old_images_go_in_the_registry_and_on_the_engine(old: Shop, engine: Engine) -> None:
    first, second, third, fourth = revisions(old)

    shown = old.invoke(*PRUNE, "--dry-run")
    before = old.tags()
    done = old.json(*PRUNE)
    again = old.json(*PRUNE)

    assert shown.returncode == 0, shown.stderr
    assert f"image {old.name}:{second} (registry)" in shown.stdout
    assert "tag v1.0 was given by hand" in shown.stdout
    assert set(before) == {"develop", "v1.0", first, second, third, fourth}
    assert set(old.tags()) == {"develop", "v1.0", first, fourth}
    assert on_engine(old, engine) == {"develop", fourth}
    deleted = {(one["where"] == "registry", *one["tags"]) for one in done["value"]["deleted"]}
    assert deleted == {(True, second), (True, third), (False, first), (False, second), (False, third)}
    assert (done["changed"], again["changed"], again["plan"]) == (True, False, [])


def test_what_a_container_runs_stays_in_the_registry(shop: Shop) -> None:
    shop.commit("runs", date="2026-01-01T00:00:00Z")
    proven = shop.release()
    assert shop.invoke("env.up").returncode == 0
    for day in (2, 3):
        shop.write("docker/server.py", (shop.folder / "docker/server.py").read_text() + "# newer\n")
        shop.commit("newer", date=f"2026-01-0{day}T00:00:00Z")
        shop.release()

    done = shop.json(*PRUNE)

    reasons = {one["digest"]: one["stays"] for one in done["value"]["kept"] if one["where"] == "registry"}
    assert reasons[proven.rpartition("@")[2]] == "runs in dev"
    assert len(reasons) == 2
    assert len([one for one in done["value"]["deleted"] if one["where"] == "registry"]) == 1


def test_what_a_rollback_may_need_stays(old: Shop, engine: Engine, base_image: str) -> None:
    _, second, third, _ = revisions(old)
    image = f"{old.registry.host}/{old.name}@{old.digest(second)}"
    state = State(engine, f"{old.name}-prod", [base_image])
    record = {"content": {"number": 7, "services": {"web": {"image": image, "image_id": ""}}}}
    state.write({"releases/r7/record.json": json.dumps(record).encode()})

    done = old.json(*PRUNE)

    stays = {tuple(one["tags"]): one["stays"] for one in done["value"]["kept"] if one["where"] == "registry"}
    assert stays[(second,)] == "release r7 of prod"
    assert (second in old.tags(), third in old.tags()) == (True, False)


def test_nobody_asked_means_nothing_deleted(old: Shop) -> None:
    before = old.tags()

    done = old.invoke("images.prune", "--keep", "1")

    assert done.returncode == 2
    assert "error [confirmation-needed]" in done.stderr
    assert old.tags() == before


def test_to_keep_nothing_is_refused(old: Shop) -> None:
    done = old.invoke("images.prune", "--keep", "0", "--yes")

    assert done.returncode == 2
    assert "error [keep-too-few]" in done.stderr


def test_what_a_container_of_somebody_else_uses_stays_on_the_engine(old: Shop, engine: Engine) -> None:
    first = f"{old.registry.host}/{old.name}:{revisions(old)[0]}"
    engine.client.api.create_container(first, command=["none"], name=f"{old.name}-somebody")

    done = old.json(*PRUNE)

    stays = {one["stays"] for one in done["value"]["kept"]}
    assert f"container {old.name}-somebody uses it" in stays
    assert images.find(engine, first) is not None


def test_while_a_deploy_runs_nothing_is_pruned(old: Shop, engine: Engine, base_image: str) -> None:
    before = old.tags()
    with lock.hold(engine, f"{old.name}-prod", "invoke env.deploy --env prod", [base_image]):
        refused = old.invoke(*PRUNE)
        after = old.tags()
    allowed = old.invoke(*PRUNE)

    assert refused.returncode == 7
    assert "error [environment-locked]" in refused.stderr
    assert "invoke env.deploy --env prod" in refused.stderr
    assert f"process {os.getpid()}" in refused.stderr
    assert after == before
    assert allowed.returncode == 0, allowed.stderr


def test_while_this_machine_changes_an_environment_nothing_is_pruned(old: Shop) -> None:
    old.write("docker/web.Dockerfile", "FROM python:3.11-slim-bookworm\nRUN sleep 60\n")
    argv = old.argv("env.up", "--build")
    with warm.Popen[str](argv, cwd=old.folder, env=old.environment(), stderr=subprocess.PIPE, text=True) as up:
        assert up.stderr is not None
        next(line for line in up.stderr if line.startswith("building"))
        refused = old.invoke(*PRUNE)
        up.send_signal(signal.SIGTERM)

    assert refused.returncode == 7
    assert f"process {up.pid}: invoke env.up --env dev" in refused.stderr


def on_request(shop: Shop, begin: str, action: Callable[[], object], *, number: int = 1) -> list[str]:
    """Do something once, when the registry is asked so for the nth time, before it hears of it."""
    seen: list[str] = []
    guard = threading.Lock()  # each connection is carried by a thread of its own

    def watch(said: str) -> None:
        if said.startswith(begin):
            with guard:
                seen.append(said)
                mine = len(seen)
            if mine == number:
                action()

    shop.registry.wire.watch = watch
    return seen


def test_what_gets_a_tag_meanwhile_stays_and_the_others_go(old: Shop) -> None:
    _, second, third, _ = revisions(old)
    registry = old.registry.client()
    manifest = registry.manifest(old.name, second)
    # The first listing is the plan's; the next is the look before the first deletion.
    on_request(old, f"GET /v2/{old.name}/tags/list", lambda: registry.put(old.name, "hotfix", manifest), number=2)

    done = old.invoke(*PRUNE, "--json")

    document = json.loads(done.stdout)
    gone = [one["tags"] for one in document["value"]["deleted"] if one["where"] == "registry"]
    assert (done.returncode, document["error"]["exit_code"], document["changed"]) == (3, 3, True), done.stderr
    assert ([third] in gone, [second] in gone, bool(document["plan"])) == (True, False, True)
    assert "error [prune-incomplete]" in done.stderr
    assert "got the tag hotfix meanwhile" in done.stderr
    assert {second, "hotfix"} <= set(old.tags())
    assert third not in old.tags()


def test_a_registry_that_does_not_answer_keeps_everything(old: Shop, engine: Engine) -> None:
    before = on_engine(old, engine)
    old.replace("stack.yaml", old.registry.host, f"127.0.0.1:{old.port}")

    done = old.invoke(*PRUNE)

    assert done.returncode == 9
    assert on_engine(old, engine) == before


@pytest.mark.parametrize(
    ("begin", "number"),
    [("GET", 1), ("GET", 9), ("DELETE", 1), ("DELETE", 2)],
    ids=["first look", "a later look", "first deletion", "second deletion"],
)
def test_after_a_kill_the_next_prune_ends_it(old: Shop, engine: Engine, begin: str, number: int) -> None:
    first, *_, fourth = revisions(old)
    killed: list[subprocess.Popen[bytes]] = []
    seen = on_request(old, begin, lambda: killed[0].send_signal(signal.SIGKILL), number=number)
    argv, quiet = old.argv(*PRUNE), subprocess.DEVNULL
    with warm.Popen[bytes](argv, cwd=old.folder, env=old.environment(), stdout=quiet, stderr=quiet) as process:
        killed.append(process)
    between = old.tags()
    old.registry.wire.reset()

    done = old.invoke(*PRUNE)

    assert len(seen) >= number
    assert process.returncode == -signal.SIGKILL
    assert {"develop", "v1.0", first, fourth} <= set(between)
    assert done.returncode == 0, done.stderr
    assert set(old.tags()) == {"develop", "v1.0", first, fourth}
    assert on_engine(old, engine) == {"develop", fourth}


@pytest.fixture
def own(engine: Engine, registry_image: str, tmp_path: Path) -> Iterator[PrivateRegistry]:
    """A registry that may be stopped, asked without a wire, which is not its container's port."""
    with serving(engine, registry_image, tmp_path / "own") as registry:
        registry.wire.port, port = registry.wire.upstream, registry.wire.port
        yield registry
        registry.wire.port = port


@pytest.fixture
def garbage(tmp_path: Path, own: PrivateRegistry, engine: Engine) -> Iterator[Shop]:
    """A stack with three releases, of which two may go, in a registry of its own."""
    shop = Shop.open(tmp_path / "garbage", own, Path(os.environ["XDG_STATE_HOME"]))
    for day in range(1, 4):
        shop.layered(os.urandom(1 << 20), date=f"2026-01-0{day}T00:00:00Z")
        shop.release()
    yield shop
    shop.remove_all(engine)


def kept_bytes(engine: Engine, registry: PrivateRegistry) -> int:
    """Of the layers on the registry's disk."""
    done = subprocess.run(
        ["docker", "exec", registry.container, "du", "-sb", "/var/lib/registry"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout.split()[0])


def test_collecting_frees_the_registrys_disk_and_leaves_it_running(garbage: Shop, engine: Engine) -> None:
    before = kept_bytes(engine, garbage.registry)

    done = garbage.invoke(*PRUNE, "--collect")

    assert done.returncode == 0, done.stderr
    assert before > 3 << 20
    assert kept_bytes(engine, garbage.registry) < 2 << 20
    assert garbage.invoke("images.pull").returncode == 0
    assert collectors(engine, garbage.registry) == []


@pytest.mark.parametrize("moment", ["create", "start", "die"])
def test_a_registry_whose_collection_was_killed_comes_up_with_the_next_prune(
    garbage: Shop, engine: Engine, moment: str
) -> None:
    wanted = {"label": "io.conche.collects", "event": moment}
    happens = engine.client.api.events(decode=True, filters=wanted)
    argv, quiet = garbage.argv(*PRUNE, "--collect"), subprocess.DEVNULL
    with warm.Popen[bytes](argv, cwd=garbage.folder, env=garbage.environment(), stdout=quiet, stderr=quiet) as process:
        next(happens)
        process.kill()
    happens.close()

    done = garbage.invoke(*PRUNE, "--collect")

    assert process.returncode == -signal.SIGKILL
    assert done.returncode == 0, done.stderr
    assert kept_bytes(engine, garbage.registry) < 2 << 20
    assert collectors(engine, garbage.registry) == []


def collectors(engine: Engine, registry: PrivateRegistry) -> list[str]:
    """Containers that a collection of this registry has left."""
    collected = engine.client.api.inspect_container(registry.container)["Id"]
    found = engine.client.api.containers(all=True, filters={"label": f"io.conche.collects={collected}"})
    return [json.dumps(one["Names"]) for one in found]


def test_only_a_registry_of_this_engine_is_collected(old: Shop) -> None:
    before = old.tags()

    done = old.invoke(*PRUNE, "--collect")

    # The wire's port is published by no container.
    assert done.returncode == 2
    assert "error [registry-not-here]" in done.stderr
    assert old.tags() == before
