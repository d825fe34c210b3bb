"""images.mirror: upstream images in the private registry, and back from there."""

from __future__ import annotations

import json
import signal
import subprocess
import uuid

import pytest

from conche.engine import images
from conche.engine.connection import Engine
from conche.images.mirror import upstream
from conche.stack import load
from conche.supply.fetch import mirrored
from conche.supply.reference import parse
from tests import warm
from tests.images.registries import Shop

pytestmark = pytest.mark.engine

DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def needing(shop: Shop, engine: Engine, base_image: str) -> tuple[Shop, str]:
    """A stack that needs one small image of somebody else, which only this engine has."""
    name = f"registry.invalid/{shop.name}/upstream:1"
    shop.write("docker/web.Dockerfile", f"FROM {name}\nCOPY server.py /server.py\n")
    for file in ("compose/dev.yaml", "compose/prod.yaml"):
        shop.write(file, f"services: {{web: {{image: '{shop.image}'}}, other: {{image: '{name}'}}}}\n")
    shop.write("upstream/Dockerfile", "FROM scratch\nCOPY content /content\n")
    shop.write("upstream/content", uuid.uuid4().hex)
    subprocess.run(["docker", "build", "--quiet", "--tag", name, shop.folder / "upstream"], check=True)
    return shop, name


def test_the_name_of_a_copy_tells_where_it_came_from(shop: Shop) -> None:
    stack = load(shop.folder)

    names = [str(mirrored(stack, parse(text))) for text in ("nginx:1.27", "Quay.io:8443/a/b:c", "[::1]:5000/x:y")]

    host = shop.registry.host
    assert names == [
        f"{host}/mirror/docker.io/library/nginx:1.27",
        f"{host}/mirror/quay.io-8443/a/b:c",
        f"{host}/mirror/1-5000/x:y",
    ]


def test_what_is_pinned_ours_or_named_by_a_variable_is_not_mirrored(shop: Shop) -> None:
    shop.write("docker/web.Dockerfile", f"FROM pinned@{DIGEST}\nFROM $OTHER\n")
    services = f"a: {{image: '{shop.image}'}}, b: {{image: '${{X:-y}}'}}, c: {{image: nginx}}, d: {{build: .}}"
    for file in ("compose/dev.yaml", "compose/prod.yaml"):
        shop.write(file, f"services: {{{services}}}\n")

    assert upstream(load(shop.folder), shop.folder) == (("nginx",), (f"pinned@{DIGEST}",))


def test_a_compose_file_that_is_no_yaml_is_said(shop: Shop) -> None:
    shop.write("compose/prod.yaml", "services: [\n")

    done = shop.invoke("images.mirror", "--dry-run")

    assert done.returncode == 2
    assert "error [compose-file-invalid]: prod.yaml" in done.stderr


def test_an_image_is_copied_once_and_comes_back_when_upstream_is_gone(
    needing: tuple[Shop, str], engine: Engine
) -> None:
    shop, name = needing
    before = images.find(engine, name)
    assert before is not None

    first = shop.json("images.mirror")
    second = shop.json("images.mirror")
    images.remove(engine, name)
    built = shop.invoke("images.build")

    after = images.find(engine, name)
    assert (first["changed"], second["changed"]) == (True, False)
    assert first["value"][name]["mirror"] == f"{shop.registry.host}/mirror/{name}"
    assert built.returncode == 0, built.stderr
    assert f"{name} came from the mirror in {shop.registry.host}" in built.stderr
    assert after is not None
    assert after.id == before.id
    assert not [tag for tag in after.tags if "/mirror/" in tag]


def test_the_name_that_a_killed_mirror_left_after_its_push_goes_with_the_next(
    needing: tuple[Shop, str], engine: Engine
) -> None:
    shop, name = needing
    assert shop.invoke("images.mirror").returncode == 0
    images.tag(engine, name, f"{shop.registry.host}/mirror/{name.rpartition(':')[0]}", "1")

    again = shop.json("images.mirror")

    found = images.find(engine, name)
    assert (again["changed"], found is not None and found.tags) == (False, (name,))


def test_what_cannot_be_copied_is_said_and_the_rest_is(needing: tuple[Shop, str]) -> None:
    shop, name = needing
    shop.write("compose/prod.yaml", "services: {web: {image: 'registry.invalid/nowhere:1'}}\n")

    done = shop.invoke("images.mirror", "--json")

    document = json.loads(done.stdout)
    assert (done.returncode, document["error"]["code"]) == (3, "mirror-incomplete")
    assert (document["changed"], list(document["value"]), len(document["plan"])) == (True, [name], 2)
    assert "error [mirror-incomplete]: 1 of 2 images were not copied" in done.stderr
    assert "registry.invalid/nowhere:1" in done.stderr
    assert shop.registry.client().tags(f"mirror/{name.rpartition(':')[0]}") == ("1",)


def test_a_dry_run_copies_nothing(needing: tuple[Shop, str]) -> None:
    shop, name = needing

    shown = shop.json("images.mirror", "--dry-run")

    assert [step["subject"] for step in shown["plan"]] == [f"image {name} to {shop.registry.host}/mirror/{name}"]
    assert shop.registry.client().tags(f"mirror/{name.rpartition(':')[0]}") == ()


@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "PUT"])
def test_after_a_kill_the_next_mirror_ends_it(needing: tuple[Shop, str], engine: Engine, method: str) -> None:
    shop, name = needing
    killed: list[subprocess.Popen[bytes]] = []

    def kill(said: str) -> None:
        if said.startswith(f"{method} /v2/mirror"):
            killed[0].send_signal(signal.SIGKILL)

    shop.registry.wire.watch = kill
    quiet = subprocess.DEVNULL
    with warm.Popen[bytes](
        shop.argv("images.mirror"), cwd=shop.folder, env=shop.environment(), stdout=quiet, stderr=quiet
    ) as process:
        killed.append(process)
    shop.registry.wire.reset()

    done = shop.invoke("images.mirror")

    found = images.find(engine, name)
    assert process.returncode == -signal.SIGKILL
    assert done.returncode == 0, done.stderr
    assert found is not None
    assert not [tag for tag in found.tags if "/mirror/" in tag]
    assert shop.registry.client().tags(f"mirror/{name.rpartition(':')[0]}") == ("1",)
