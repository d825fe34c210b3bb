"""A stand-in for the image tailscale/tailscale, and for headscale as its control server, without a network of its own.

Keys, names, logging in and out, what is served, what is logged and when a start program gives up follow Tailscale 1.98
and headscale 0.29; no packet is ever sent from node to node. The suite tests/contract/test_tailnet.py checks that; with
CONCHE_TEST_TAILSCALE_IMAGE and CONCHE_TEST_HEADSCALE_IMAGE it runs against real images.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["CONTEXT", "DOCKERFILE"]

CONTEXT = Path(__file__).parent
DOCKERFILE = CONTEXT / "Dockerfile"
