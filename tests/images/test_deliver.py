"""images.build, push, pull, release, against a real registry."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time

import pytest

from conche.engine import images
from conche.engine.connection import Engine
from tests import warm
from tests.images.registries import Shop

pytestmark = pytest.mark.engine


def test_a_release_is_pushed_under_its_revision_and_its_environments_tag(shop: Shop) -> None:
    shop.layered(os.urandom(1 << 16))
    revision = shop.git("log", "-1", "--format=%h")

    reference = shop.release()

    assert reference == f"{shop.registry.host}/{shop.name}@{shop.digest('develop')}"
    assert shop.tags() == tuple(sorted((revision, "develop")))
    assert shop.digest(revision) == shop.digest("develop")


def test_a_second_release_of_the_same_commit_changes_nothing(shop: Shop) -> None:
    shop.layered(os.urandom(1 << 16))
    first = shop.json("images.release")

    second = shop.json("images.release")

    assert (first["changed"], second["changed"]) == (True, False)
    assert second["value"]["layers_moved"] == 0
    assert second["value"]["digest"] == first["value"]["digest"]


def test_a_change_of_one_layer_moves_that_layer_alone(shop: Shop) -> None:
    shop.layered(os.urandom(1 << 16))
    shop.release()
    (shop.folder / "docker/large").write_bytes(os.urandom(1 << 16))
    shop.commit("two")
    shop.registry.wire.reset()

    document = shop.json("images.release")

    assert (document["value"]["layers_moved"], document["value"]["layers_there"]) == (1, 1)
    # A layer and the image's configuration, each begun once.
    uploads = [said for said in shop.registry.wire.requests if said.startswith("POST")]
    assert len(uploads) == 2


def test_build_and_push_do_what_release_does(shop: Shop) -> None:
    shop.layered(os.urandom(1 << 16))

    built = shop.json("images.build")
    again = shop.json("images.build")
    pushed = shop.json("images.push")
    same = shop.json("images.push")

    assert [one["changed"] for one in (built, again, pushed, same)] == [True, False, True, False]
    assert pushed["value"]["web"]["image"] == f"{shop.registry.host}/{shop.name}@{shop.digest('develop')}"
    assert pushed["value"]["web"]["layers_moved"] == 2
    assert shop.release().endswith(str(shop.digest("develop")))


def test_a_tree_that_is_no_commit_is_said_and_tagged_so(shop: Shop) -> None:
    shop.layered(b"one")
    shop.write("docker/small", "changed")

    done = shop.invoke("images.build")

    revision = shop.git("log", "-1", "--format=%h")
    assert done.returncode == 0, done.stderr
    assert f"warning: the working tree has uncommitted changes: tagged {revision}-dirty" in done.stderr
    assert f"{revision}-dirty" in done.stdout


def test_a_protected_environment_is_not_released_to_from_a_tree_that_is_no_commit(shop: Shop) -> None:
    shop.layered(b"one")
    shop.write("docker/small", "changed")

    refused = shop.invoke("images.release", "--env", "prod")
    allowed = shop.invoke("images.release", "--env", "prod", "--allow-dirty")

    assert refused.returncode == 2
    assert "error [tree-dirty]" in refused.stderr
    assert allowed.returncode == 0, allowed.stderr
    assert "production" in shop.tags()


def test_without_git_there_is_no_revisions_tag(shop: Shop) -> None:
    shop.layered(b"one")
    (shop.folder / ".git").rename(shop.folder / "no-git")

    done = shop.invoke("images.release")

    assert done.returncode == 0, done.stderr
    assert "warning: git does not say which commit this is" in done.stderr
    assert shop.tags() == ("develop",)


def test_a_dry_run_builds_and_pushes_nothing(shop: Shop, engine: Engine) -> None:
    shop.layered(b"one")

    document = shop.json("images.release", "--dry-run")

    revision = shop.git("log", "-1", "--format=%h")
    name = f"{shop.registry.host}/{shop.name}"
    assert [f"{step['action']} {step['subject']}" for step in document["plan"]] == [
        f"build image {name}:develop",
        f"push image {name}:{revision}",
        f"push image {name}:develop",
    ]
    assert images.find(engine, shop.image) is None
    assert shop.registry.wire.requests == []


def test_what_was_pushed_is_pulled_and_the_second_time_nothing_changes(shop: Shop, engine: Engine) -> None:
    shop.layered(os.urandom(1 << 16))
    shop.release()
    built = images.find(engine, shop.image)
    assert built is not None
    for reference in (*built.tags, *built.digests):
        images.remove(engine, reference)

    first = shop.json("images.pull")
    second = shop.json("images.pull")

    pulled = images.find(engine, shop.image)
    assert (first["changed"], second["changed"]) == (True, False)
    assert pulled is not None
    assert pulled.id == built.id


def test_a_tag_that_is_not_there_is_answered_with_those_that_are(shop: Shop) -> None:
    shop.layered(b"one")
    shop.release()

    done = shop.invoke("images.pull", "--env", "prod")

    revision = shop.git("log", "-1", "--format=%h")
    assert done.returncode == 6
    assert f"error [no-such-image]: {shop.registry.host} has no" in done.stderr
    assert f"tags: {', '.join(sorted((revision, 'develop')))}" in done.stderr
    assert "Next: invoke images.list\n      invoke images.release --env prod " in done.stderr


def test_what_is_not_built_is_not_pushed(shop: Shop) -> None:
    done = shop.invoke("images.push")

    assert done.returncode == 6
    assert f"The engine does not have {shop.image}" in done.stderr
    assert "Next: invoke images.build --env dev" in done.stderr


def test_an_image_that_stack_yaml_does_not_have_is_answered_with_those_it_has(shop: Shop) -> None:
    done = shop.invoke("images.build", "--image", "wep")

    assert done.returncode == 6
    assert "Did you mean 'web'?" in done.stderr


def test_a_failing_dockerfile_ends_with_its_failing_step_and_not_with_a_wall(shop: Shop) -> None:
    wall = "RUN python3 -c \"[print('noise', n) for n in range(3000)]\"\n"
    failing = "RUN echo why it fails && exit 3\n"
    shop.write("docker/web.Dockerfile", f"FROM python:3.11-slim-bookworm\n{wall}{failing}")

    done = shop.invoke("images.release")

    lines = done.stderr.splitlines()
    begun = next(number for number, line in enumerate(lines) if line.startswith("error [build-failed]"))
    told = "\n".join(lines[begun:])
    assert done.returncode == 2
    assert "RUN echo why it fails && exit 3" in told
    assert re.search(r"\| #\d+ [0-9.]+ why it fails", told)
    assert "noise" not in told
    assert len(lines) < 30
    assert shop.tags() == ()


def test_a_missing_context_file_is_named(shop: Shop) -> None:
    shop.write("docker/web.Dockerfile", "FROM scratch\nCOPY not-there.txt /x\n")

    done = shop.invoke("images.build")

    assert done.returncode == 2
    assert "error [build-failed]" in done.stderr
    assert "not-there.txt" in done.stderr.split("error [build-failed]")[1]
    assert len(done.stderr.splitlines()) < 30


def test_a_dockerfile_of_no_sense_is_said(shop: Shop) -> None:
    shop.write("docker/web.Dockerfile", "FROM scratch\nCOPPY x /x\n")

    done = shop.invoke("images.build")

    assert done.returncode == 2
    assert "COPPY" in done.stderr.split("error [build-failed]")[1]


def test_a_base_that_can_neither_be_pulled_nor_made_is_said(shop: Shop) -> None:
    shop.write("docker/web.Dockerfile", "FROM registry.invalid/base:1\n")

    done = shop.invoke("images.build")

    assert done.returncode == 9
    assert "error [base-unavailable]: registry.invalid/base:1" in done.stderr
    assert "under `bases`" in done.stderr


def settled(shop: Shop, tag: str) -> str:
    """What a tag means that is listed: the registry makes its folder first, and then writes what it means."""
    end = time.monotonic() + 300
    while (digest := shop.digest(tag)) is None:
        assert time.monotonic() < end, tag
    return digest


@pytest.mark.parametrize(
    "step", ["POST", "PATCH", "PUT /v2/{name}/blobs", "PUT /v2/{name}/manifests/{revision}", "PUT {develop}"]
)
def test_after_a_kill_no_tag_is_half_and_the_next_release_ends_it(shop: Shop, step: str) -> None:
    revision = shop.layered(os.urandom(1 << 16))
    develop = f"/v2/{shop.name}/manifests/develop"
    begin = step.format(name=shop.name, revision=revision, develop=develop)
    killed: list[subprocess.Popen[bytes]] = []

    def kill(said: str) -> None:
        if said.startswith(begin):
            killed[0].send_signal(signal.SIGKILL)

    shop.registry.wire.watch = kill
    argv, quiet = shop.argv("images.release"), subprocess.DEVNULL
    with warm.Popen[bytes](argv, cwd=shop.folder, env=shop.environment(), stdout=quiet, stderr=quiet) as process:
        killed.append(process)
    between = {tag: settled(shop, tag) for tag in shop.tags()}
    shop.registry.wire.reset()

    reference = shop.release()

    assert process.returncode == -signal.SIGKILL
    # The engine may have ended what it was told; what it has not, is not there.
    assert set(between.values()) <= {reference.rpartition("@")[2]}
    assert shop.tags() == tuple(sorted((revision, "develop")))
    assert shop.invoke("images.pull").returncode == 0


def test_an_interrupted_push_says_so_and_leaves_no_tag(shop: Shop) -> None:
    shop.layered(os.urandom(1 << 16))
    running: list[subprocess.Popen[str]] = []
    sent: list[str] = []

    def interrupt(said: str) -> None:
        # Once: a second one may come when the command has unwound already, and is then anybody's.
        if said.startswith("POST") and not sent:
            sent.append(said)
            running[0].send_signal(signal.SIGINT)

    shop.registry.wire.watch = interrupt
    argv, piped = shop.argv("images.release"), subprocess.PIPE
    with warm.Popen[str](
        argv, cwd=shop.folder, env=shop.environment(), stderr=piped, stdout=piped, text=True
    ) as process:
        running.append(process)
        said = process.communicate()[1]

    assert process.returncode == 130
    assert "Interrupted by SIGINT" in said
    assert "Traceback" not in said
    assert "develop" not in shop.tags()
