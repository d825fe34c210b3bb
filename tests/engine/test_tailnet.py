"""What a sidecar says of itself, as its tailnet and `tailscale serve` know it."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from conche.engine.tailnet import IMAGE, Sidecar, read
from tests.stacks import SmallStack

HTTPS = {
    "TCP": {"443": {"HTTPS": True}},
    "Web": {"dev.net.ts.net:443": {"Handlers": {"/": {"Proxy": "http://app:8000"}}}},
}


def status(**other: Any) -> dict[str, Any]:
    own = {"HostName": "dev", "DNSName": "dev.net.ts.net.", "Online": True, **other.pop("own", {})}
    usual = {"BackendState": "Running", "TailscaleIPs": ["100.64.0.1"], "CertDomains": ["dev.net.ts.net"]}
    return {**usual, "Self": own, **other}


def test_one_that_is_reached_has_an_address_and_no_problem() -> None:
    node = read("tailscale", status(), HTTPS)

    assert node == Sidecar("tailscale", "dev.net.ts.net", ("100.64.0.1",), ("https://dev.net.ts.net",))
    assert str(node) == "https://dev.net.ts.net"


@pytest.mark.parametrize(
    ("said", "serving", "problems"),
    [
        (status(BackendState="NeedsLogin"), {}, ["is not logged in to a tailnet"]),
        (status(BackendState="NeedsMachineAuth"), {}, ["waits until an administrator of the tailnet approves it"]),
        (status(BackendState="Odd"), {}, ["is Odd"]),
        (status(own={"Online": False}), HTTPS, ["is not seen by the control server, so nobody can reach it"]),
        (
            status(own={"DNSName": "dev-1.net.ts.net."}),
            HTTPS,
            ["is called dev-1 on the tailnet: dev is the name of another node there"],
        ),
        (status(own={"HostName": "My Dev!", "DNSName": "my-dev.net.ts.net."}), HTTPS, []),
        (
            status(CertDomains=None),
            {},
            ["serves nothing: its tailnet has no certificates. Enable HTTPS there, or set TAILNET_HTTPS=no"],
        ),
        (status(), {}, ["serves nothing"]),
        (status(CertDomains=None), {"TCP": {"80": {"TCPForward": "app:8000"}}}, []),
    ],
)
def test_what_keeps_others_from_it_is_said(said: dict[str, Any], serving: dict[str, Any], problems: list[str]) -> None:
    assert list(read("tailscale", said, serving).problems) == problems


@pytest.mark.parametrize(
    ("port", "handler", "shown"),
    [
        ("443", {"HTTPS": True}, "https://dev.net.ts.net"),
        ("8443", {"HTTPS": True}, "https://dev.net.ts.net:8443"),
        ("80", {"HTTP": True}, "http://dev.net.ts.net"),
        ("80", {"TCPForward": "app:8000"}, "http://dev.net.ts.net"),
        ("2222", {"TCPForward": "forge:2222"}, "tcp dev.net.ts.net:2222"),
    ],
)
def test_what_it_serves_is_shown_as_it_is_typed(port: str, handler: dict[str, Any], shown: str) -> None:
    assert str(read("tailscale", status(), {"TCP": {port: handler}})) == shown


@pytest.mark.parametrize(
    ("image", "is_one"),
    [
        ("tailscale/tailscale:v1.98.9", True),
        ("ghcr.io/tailscale/tailscale", True),
        ("registry.example.org:5000/mirror/tailscale@sha256:ab", True),
        ("tailscale/k8s-operator:v1", False),
        ("example/tailscale-exporter:1", False),
    ],
)
def test_a_sidecar_is_known_by_its_image(image: str, is_one: bool) -> None:
    assert bool(IMAGE.search(image)) == is_one


BESIDE = """\
services:
  side:
    image: NAME/tailscale/tailscale:1
    command: [sleep, infinity]
    init: true
    stop_grace_period: 1s
    volumes: ["../side:/usr/local/sbin:ro"]
    healthcheck: {test: [CMD, "true"], interval: 1s}
"""

TAILSCALE = """\
#!/bin/sh
here=/usr/local/sbin
case "$*" in
  *" serve status --json") cat "$here/serving" ;;
  *" status --json --peers=false") cat "$here/status" ;;
esac
"""

NC = """\
#!/bin/sh
case "$*" in "-w 3 web 22") ;; *) exit 1 ;; esac
"""

WGET = """\
#!/bin/sh
for address; do :; done
case $address in
  http://web:8000) echo "wget: server returned error: HTTP/1.1 404 Not Found"; exit 1 ;;
  *) echo "wget: bad address"; exit 1 ;;
esac
"""


@pytest.fixture
def beside(small: SmallStack, base_image: str) -> SmallStack:
    """The small stack with a sidecar whose programs say what a test lets them say."""
    small.replace("compose/dev.yaml", "services:\n", BESIDE.replace("NAME", small.name))
    for name, program in {"tailscale": TAILSCALE, "wget": WGET, "nc": NC}.items():
        small.write(f"side/{name}", program)
        (small.folder / "side" / name).chmod(0o755)
    subprocess.run(["docker", "tag", base_image, f"{small.name}/tailscale/tailscale:1"], check=True)
    say(small, status(), behind("http://web:8000"))
    return small


def behind(target: str) -> dict[str, Any]:
    return {**HTTPS, "Web": {"dev.net.ts.net:443": {"Handlers": {"/": {"Proxy": target}}}}}


def forwarded(target: str) -> dict[str, Any]:
    return {"TCP": {"22": {"TCPForward": target}}}


def say(stack: SmallStack, said: dict[str, Any], serving: dict[str, Any]) -> None:
    stack.write("side/status", json.dumps(said))
    stack.write("side/serving", json.dumps(serving))


@pytest.mark.engine
def test_an_environment_is_well_only_if_people_on_the_tailnet_reach_it(beside: SmallStack) -> None:
    up = beside.json("env.up")
    assert (up["warnings"], up["value"]["healthy"]) == ([], True)
    assert up["value"]["tailnet"][0]["serves"] == ["https://dev.net.ts.net"]
    assert doctor(beside) == ("ok", "https://dev.net.ts.net")

    say(beside, status(), forwarded("web:22"))
    assert beside.json("env.status", "--env", "dev")["value"][0]["healthy"]

    ways: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        (status(own={"DNSName": "dev-1.net.ts.net."}), HTTPS, "side is called dev-1 on the tailnet"),
        (status(), behind("http://gone:8000"), "side serves http://gone:8000, where nothing answers"),
        (status(), forwarded("gone:22"), "side serves tcp://gone:22, where nothing answers"),
        (status(), {"Web": "odd"}, "side does not say who it is"),
    ]
    for said, serving, words in ways:
        say(beside, said, serving)
        shown, again = beside.invoke("env.status", "--env", "dev"), beside.invoke("env.up")

        assert shown.returncode == 1
        assert words in shown.stdout
        assert (again.returncode, "Nothing to do" in again.stdout) == (0, True), again.stderr
        assert f"warning: {words}" in again.stderr
    assert doctor(beside)[0] == "missing"


def doctor(stack: SmallStack) -> tuple[str, str]:
    [found] = [one for one in stack.json("doctor")["value"] if one["name"] == "side of dev"]
    return found["state"], found["found"]
