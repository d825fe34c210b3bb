"""images.list, images.inspect and images.check: what is where, and whether it is fit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conche.engine.connection import Engine
from tests import warm
from tests.images.registries import Shop

pytestmark = pytest.mark.engine

FIT = "FROM python:3.11-slim-bookworm\nUSER 1000:1000\nCOPY server.py /srv/server.py\n"
FIT += 'CMD ["python3", "/srv/server.py"]\n'


def test_the_list_has_what_is_where_and_what_runs_it(shop: Shop) -> None:
    shop.release()
    shop.invoke("env.up")
    revision = shop.git("log", "-1", "--format=%h")
    shop.write("docker/server.py", (shop.folder / "docker/server.py").read_text() + "# not committed\n")
    shop.invoke("images.build", "--env", "prod")

    entries = shop.json("images.list")["value"]
    shown = shop.invoke("images.list")

    found = {one["tag"]: one for one in entries}
    assert set(found) == {"develop", revision, "production", f"{revision}-dirty"}
    assert found["develop"]["where"] == ["registry", "engine"]
    assert found["develop"]["runs_in"] == ["dev"]
    assert found["develop"]["digest"] == shop.digest("develop")
    assert found["develop"]["revision"] == revision
    assert found["production"]["where"] == ["engine"]
    assert "not pushed" in shown.stdout


def test_before_the_first_release_the_list_says_what_to_type(shop: Shop) -> None:
    done = shop.invoke("images.list")

    assert done.returncode == 0
    assert "There are no images yet. Next: invoke images.release --env dev" in done.stdout


def test_an_image_is_described_wherever_it_is(shop: Shop, engine: Engine) -> None:
    shop.layered(os.urandom(1 << 16))
    reference = shop.release()
    local = shop.json("images.inspect")["value"]
    shop.remove_all(engine)

    remote = shop.json("images.inspect")["value"]

    assert local["labels"]["org.opencontainers.image.revision"] == shop.git("log", "-1", "--format=%h")
    assert {name: local[name] for name in ("id", "labels", "layers", "user")} == {
        name: remote[name] for name in ("id", "labels", "layers", "user")
    }
    assert remote["digests"] == [reference]
    assert "image store" in remote["reproducible"]


def test_what_is_nowhere_is_said(shop: Shop) -> None:
    ours = shop.invoke("images.inspect")
    theirs = shop.invoke("images.inspect", "--reference", "registry.invalid/x:1")

    assert ours.returncode == theirs.returncode == 6
    assert "invoke images.list" in ours.stderr


def findings(shop: Shop, *words: str, **extra: str) -> dict[str, str]:
    """Check -> state of what images.check finds; the bases together."""
    [found] = shop.json("images.check", *words, **extra)["value"].values()
    return {one["check"]: one["state"] for one in found}


@pytest.fixture
def new_base(shop: Shop, engine: Engine, base_image: str) -> str:
    """The base again, made just now: the one that the engine has may have become too old to be fit."""
    api, name = engine.client.api, f"localhost/{shop.name}-base"
    container = api.create_container(base_image)
    api.commit(container, repository=name, tag="1")
    api.remove_container(container)
    return f"{name}:1"


def test_a_fit_image_passes_and_one_that_runs_as_root_does_not(shop: Shop, new_base: str) -> None:
    shop.invoke("images.build")
    root = shop.invoke("images.check")
    shop.write("docker/web.Dockerfile", FIT.replace("python:3.11-slim-bookworm", new_base))
    shop.commit("fit")
    shop.invoke("images.build")

    fit = shop.invoke("images.check")

    assert root.returncode == 1
    assert "runs as root" in root.stdout
    assert fit.returncode == 0, fit.stdout
    assert findings(shop) == {"labels": "ok", "user": "ok", "secrets": "unknown", "size": "ok", "base": "ok"}


def test_a_secret_in_a_layer_is_found_and_not_shown(shop: Shop, canary: str) -> None:
    assert shop.invoke("secrets.init").returncode == 0
    warm.run(
        shop.argv("secrets.set", "registry_password"),
        cwd=shop.folder,
        env=shop.environment(),
        input=canary,
        text=True,
        check=True,
        capture_output=True,
    )
    (shop.folder / "docker/server.py").write_text(f"# {canary}\n")
    shop.write("docker/web.Dockerfile", FIT)
    shop.invoke("images.build")

    done = shop.invoke("images.check")

    assert done.returncode == 1
    assert "registry_password in" in done.stdout
    assert canary not in done.stdout + done.stderr


def test_an_image_that_has_grown_much_is_a_finding(shop: Shop) -> None:
    shop.layered(os.urandom(1 << 20), date="2026-01-01T00:00:00Z")
    shop.invoke("images.build")
    alone = findings(shop)
    shop.layered(os.urandom(2 << 20), date="2026-01-02T00:00:00Z")
    shop.invoke("images.build")

    assert (alone["size"], findings(shop)["size"]) == ("unknown", "failed")


def test_what_is_not_built_cannot_be_checked(shop: Shop, tmp_path: Path) -> None:
    done = shop.invoke("images.check", "--env", "prod")

    assert done.returncode == 6
    assert "invoke images.build --env prod" in done.stderr
