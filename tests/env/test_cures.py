"""What to type after failures whose reason alone does not say it."""

from __future__ import annotations

import pytest

from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.env.cures import cure

SIDECAR, KEY = "tailscale/tailscale:v1", "/srv/shop/docker/secrets/tailscale_authkey_dev.txt"
ANEW = "invoke secrets.set tailscale_authkey_dev"


@pytest.mark.parametrize(
    ("image", "binds", "reason", "said"),
    [
        (SIDECAR, (KEY,), "backend error: authkey already used", ANEW),
        (SIDECAR, (KEY,), "backend error: authkey expired", ANEW),
        (SIDECAR, ("/dev/null", KEY), "backend error: invalid pre auth key", ANEW),
        (SIDECAR, (KEY,), "Received error: handling register with auth key: invalid auth key: crypto", ANEW),
        (SIDECAR, (), "backend error: authkey expired", ""),
        (SIDECAR, (KEY, "/a.txt"), "backend error: authkey expired", ""),
        (SIDECAR, (KEY,), "x509: certificate signed by unknown authority", "write CA_BUNDLE=FILE into .env"),
        (SIDECAR, (KEY,), "oauth authkeys require --advertise-tags", "write TAILNET_ARGS=--advertise-tags=tag:NAME"),
        (SIDECAR, (KEY,), "connection refused", ""),
        ("example/shop:1", (KEY,), "error: authkey expired", ""),
    ],
)  # fmt: skip
def test_a_sidecar_that_cannot_join_is_told_what_to_change(
    image: str, binds: tuple[str, ...], reason: str, said: str
) -> None:
    sidecar = Container("1", "p-side-1", "p", "side", "running", "starting", image, "i", "h", binds=binds)

    found = cure(Engine(), sidecar, reason)

    assert found.startswith(said)
    assert bool(found) == bool(said)
