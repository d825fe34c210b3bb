"""Which URL of an environment should answer, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from conche.init.compose import Rendered
from conche.init.facts import Health, health


def port(target: int, published: str, **more: Any) -> dict[str, Any]:
    return {"target": target, "published": published, "protocol": "tcp", **more}


def asking(url: str, **more: Any) -> dict[str, Any]:
    return {"image": "a", "healthcheck": {"test": ["CMD-SHELL", f"curl -fsk {url} || exit 1"]}, **more}


BEHIND_VPN = {
    "vpn": {"image": "v", "ports": [port(8989, "9090")]},
    "downloader": asking("http://localhost:8989/ping", network_mode="service:vpn"),
}

FRONT_LAST = {
    "analytics": asking("http://localhost:4000/health", ports=[port(4000, "14000")]),
    "front": asking("http://localhost:8000/status", ports=[port(8000, "18000")], depends_on={"analytics": {}}),
}


@pytest.mark.parametrize(
    ("services", "expected"),
    [
        (
            {"web": asking("http://127.0.0.1:8000/health", ports=[port(8000, "8090")])},
            Health("http://localhost:8090/health", "the healthcheck of web", sure=True),
        ),
        # A proxy answers 404, a login page 302: nobody knows before they have asked.
        (
            {"proxy": {"image": "traefik:3", "ports": [port(80, "80")]}},
            Health("http://localhost/", "port 80 of proxy"),
        ),
        (
            {"web": asking("https://localhost:9443/up", ports=[port(9443, "19443"), port(9000, "19000")])},
            Health("https://localhost:19443/up", "the healthcheck of web"),
        ),
        (
            {"web": asking("https://localhost/up", ports=[port(443, "443", host_ip="::1")])},
            Health("https://[::1]/up", "the healthcheck of web"),
        ),
        (BEHIND_VPN, Health("http://localhost:9090/ping", "the healthcheck of downloader", sure=True)),
        (
            {"home": asking("http://localhost:8123/api", network_mode="host")},
            Health("http://localhost:8123/api", "the healthcheck of home", sure=True),
        ),
        (FRONT_LAST, Health("http://localhost:18000/status", "the healthcheck of front", sure=True)),
        ({"db": {"image": "postgres:16", "ports": [port(5432, "5432")]}}, None),
        ({"web": asking("http://localhost:8000/health")}, None),
    ],
    ids=[
        "told",
        "a port",
        "https",
        "its usual port",
        "another's network",
        "the host's network",
        "front",
        "none",
        "closed",
    ],
)
def test_only_what_a_healthcheck_asks_over_plain_http_is_sure(
    services: Mapping[str, Any], expected: Health | None
) -> None:
    assert health(Rendered({"name": "shop", "services": services}, frozenset(services))) == expected
