"""What Compose is given to build: every key of a service's `build:`, and what is added to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conche.engine.builds import ServiceBuild, base_images, built_outside
from conche.engine.rendered import understood

BUILD: dict[str, Any] = {
    "context": "/shop/web",
    "dockerfile": "docker/web.Dockerfile",
    "target": "run",
    "args": {"LEVEL": "1", "REVISION": "mine"},
    "labels": {"org.example.a": "b"},
    "tags": ["shop:also"],
    "ssh": ["default"],
    "secrets": [{"source": "token"}],
    "cache_from": ["shop:cache"],
    "additional_contexts": {"assets": "/shop/assets"},
    "extra_hosts": ["a=127.0.0.1"],
    "network": "host",
    "shm_size": "67108864",
    "some_key_of_tomorrow": True,
}


def rendered(**changes: Any) -> dict[str, Any]:
    service = {"image": "shop-web", "build": {**BUILD, **changes}, "ports": [], "platform": "linux/amd64"}
    secrets = {"token": {"name": "shop_token", "environment": "TOKEN"}}
    return {"name": "shop", "services": {"web": service, "db": {"image": "db:1"}}, "secrets": secrets}


WANTED = ServiceBuild(
    "web",
    "shop-web",
    tags=("shop-web:abc1234",),
    labels={"io.conche.stack": "shop"},
    arguments={"REVISION": "abc1234", "VERSION": "a$b"},
    secrets={"ca": Path("/ca.crt"), "token": Path("/not/this")},
)


def test_only_a_build_context_outside_the_repository_is_warned_about() -> None:
    assert not [*built_outside(rendered(), Path("/shop"))]

    [said] = built_outside(rendered(), Path("/shop/api"))

    assert said.startswith("web is built from /shop/web, outside this repository")


def test_every_key_of_a_build_is_handed_on_and_goes_before_what_is_added() -> None:
    document = WANTED.document(rendered())

    assert document == {
        "name": "shop",
        "services": {
            "web": {
                "image": "shop-web",
                "build": {
                    **BUILD,
                    "args": {"REVISION": "mine", "VERSION": "a$$b", "LEVEL": "1"},
                    "labels": {"org.example.a": "b", "io.conche.stack": "shop"},
                    "tags": ["shop:also", "shop-web:abc1234"],
                    "secrets": [{"source": "token"}, {"source": "ca"}],
                },
            }
        },
        "secrets": {"token": {"name": "shop_token", "environment": "TOKEN"}, "ca": {"file": "/ca.crt"}},
    }


@pytest.mark.parametrize(
    ("platforms", "built"),
    [(["linux/arm64"], ["linux/arm64"]), (["linux/amd64", "linux/arm64"], ["linux/amd64"])],
)
def test_an_engine_builds_for_one_platform_as_compose_up_does(platforms: list[str], built: list[str]) -> None:
    document = WANTED.document(rendered(platforms=platforms))

    assert document["services"]["web"]["build"]["platforms"] == built


def test_the_bases_of_a_build_are_those_of_its_target(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("ARG V=1\nFROM a:$V AS run\nFROM assets\nFROM b:2\n")

    found = base_images(rendered(context=str(tmp_path), dockerfile="Dockerfile", args={"V": "3"}), "web")

    assert found == ("a:3",)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dockerfile_inline": "FROM c:4\n", "target": None}, ("c:4",)),
        ({"dockerfile_inline": "FROM assets\n", "target": None}, ()),
        ({"dockerfile_inline": "FROM $UNKNOWN\n", "target": None}, ()),
        ({"context": "https://git.example.org/shop.git#main"}, ()),
    ],
)
def test_a_base_that_is_no_image_to_fetch_is_left_to_compose(changes: Any, expected: tuple[str, ...]) -> None:
    assert base_images(rendered(**changes), "web") == expected


def test_a_service_that_is_built_has_the_name_that_compose_gives_its_image() -> None:
    named = understood({"services": {"web": {"build": {}}, "api": {"build": {}, "image": "mine:1"}}}, "shop")

    assert {name: one["image"] for name, one in named["services"].items()} == {"web": "shop-web", "api": "mine:1"}
