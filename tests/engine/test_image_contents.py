"""What is in an image, as a value: what a build says of itself does not count, everything else does."""

from __future__ import annotations

from typing import Any

import pytest

from conche.engine.images import contents

IMAGE: dict[str, Any] = {
    "Id": "sha256:1",
    "Os": "linux",
    "Architecture": "amd64",
    "RootFS": {"Type": "layers", "Layers": ["sha256:a", "sha256:b"]},
    "Config": {
        "Env": ["PATH=/usr/bin"],
        "Cmd": ["serve"],
        "Entrypoint": None,
        "User": "",
        "Labels": {"org.opencontainers.image.revision": "one", "tier": "store"},
    },
}


def image(identity: str = "sha256:2", layers: list[str] | None = None, **config: Any) -> dict[str, Any]:
    kept = IMAGE["RootFS"]["Layers"] if layers is None else layers
    return {**IMAGE, "Id": identity, "RootFS": {"Layers": kept}, "Config": {**IMAGE["Config"], **config}}


@pytest.mark.parametrize(
    "labels",
    [
        {"org.opencontainers.image.revision": "two"},
        {"org.opencontainers.image.version": "2"},
        {"org.opencontainers.image.created": "2026-01-01T00:00:00Z"},
        {"io.conche.stack": "shop"},
        {"com.docker.compose.version": "2.26.1"},
        {},
    ],
)
def test_what_a_build_says_of_itself_changes_nothing(labels: dict[str, str]) -> None:
    assert contents(image(Labels={"tier": "store", **labels})) == contents(IMAGE)


@pytest.mark.parametrize(
    "said",
    [
        {"Entrypoint": []},
        {"Volumes": {}, "OnBuild": None, "Tty": False},
        {"Hostname": "4f2a", "Image": "sha256:0", "ArgsEscaped": True},
    ],
)
def test_builders_write_what_is_not_set_in_several_ways(said: dict[str, Any]) -> None:
    assert contents(image(**said)) == contents(IMAGE)


@pytest.mark.parametrize(
    "said",
    [
        {"Cmd": ["serve", "--fast"]},
        {"Entrypoint": ["/start"]},
        {"Env": ["PATH=/usr/bin", "MODE=fast"]},
        {"User": "1000"},
        {"WorkingDir": "/srv"},
        {"ExposedPorts": {"80/tcp": {}}},
        {"Volumes": {"/data": {}}},
        {"StopSignal": "SIGQUIT"},
        {"Healthcheck": {"Test": ["CMD", "true"]}},
        {"Labels": {"tier": "web"}},
        {"Labels": None},
    ],
)
def test_whatever_a_container_would_notice_changes_it(said: dict[str, Any]) -> None:
    assert contents(image(**said)) != contents(IMAGE)


@pytest.mark.parametrize("layers", [["sha256:a"], ["sha256:b", "sha256:a"], ["sha256:a", "sha256:c"]])
def test_other_layers_change_it(layers: list[str]) -> None:
    assert contents(image(layers=layers)) != contents(IMAGE)


def test_another_platform_changes_it() -> None:
    assert contents({**IMAGE, "Architecture": "arm64"}) != contents(IMAGE)


def test_an_image_without_known_layers_is_only_the_same_as_itself() -> None:
    assert contents(image("sha256:3", layers=[])) == "sha256:3"
