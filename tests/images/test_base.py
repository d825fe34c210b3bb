"""images.base: present, pulled, or made; never instead of what a registry has."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from conche.engine import images
from conche.engine.connection import Engine
from conche.errors import Refused, Unreachable
from conche.images.base import base
from conche.stack import Base, parse
from conche.supply.base import LABEL, Origin, bootstrap_argv, import_argv, provide

WANTED = Base(suite="bookworm", packages=("ca-certificates",))
NOWHERE = f"registry.invalid/conche-{uuid.uuid4().hex[:10]}:1"


@pytest.fixture
def clean(engine: Engine) -> Iterator[Engine]:
    yield engine
    if images.find(engine, NOWHERE):
        engine.client.images.remove(NOWHERE, force=True)


@pytest.fixture
def empty_registry() -> Iterator[str]:
    """A registry that answers, and has nothing."""

    class Nothing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/v2/"
            body = b"{}" if found else b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'
            self.send_response(200 if found else 404)
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the name is the protocol

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_the_argv_makes_a_small_tree_of_the_suite() -> None:
    argv = bootstrap_argv(Base(suite="bookworm", packages=("python3", "curl")), Path("/a b/tree.tar"))

    assert argv[0] == "mmdebstrap"
    assert "--include=python3,curl" in argv
    assert argv[-2:] == ("bookworm", "/a b/tree.tar")


def test_the_import_labels_the_image_as_made_here() -> None:
    argv = import_argv("python:3.11", WANTED, Path("/tree.tar"))

    assert f"LABEL {LABEL}=debian-bookworm" in argv
    assert argv[-2:] == ("/tree.tar", "python:3.11")


@pytest.mark.long
@pytest.mark.engine
def test_where_no_registry_answers_the_image_is_made_and_says_so(clean: Engine) -> None:
    said: list[str] = []

    first = provide(clean, {NOWHERE: WANTED}, NOWHERE, said.append)
    second = provide(clean, {NOWHERE: WANTED}, NOWHERE, said.append)

    found = images.find(clean, NOWHERE)
    assert (first, second) == (Origin.MADE, Origin.PRESENT)
    assert found is not None
    assert found.labels == {LABEL: "debian-bookworm"}
    assert [line for line in said if "making it from Debian's packages" in line]


@pytest.mark.engine
def test_a_registry_that_says_no_is_believed(engine: Engine, empty_registry: str) -> None:
    reference = f"{empty_registry}/nothing:1"

    with pytest.raises(Refused) as refused:
        provide(engine, {reference: WANTED}, reference, lambda _: None)

    assert refused.value.code == "image-not-pulled"
    assert images.find(engine, reference) is None


@pytest.mark.engine
def test_what_can_neither_be_pulled_nor_made_is_said(engine: Engine) -> None:
    with pytest.raises(Unreachable, match=r"registry\.invalid/other:1") as refused:
        provide(engine, {}, "registry.invalid/other:1", lambda _: None)

    assert (refused.value.code, refused.value.status) == ("base-unavailable", 9)
    assert "bases" in refused.value.next_command


@pytest.mark.engine
def test_a_dry_run_pulls_and_makes_nothing(engine: Engine) -> None:
    stack = parse(
        f"name: a\nregistry: localhost:5000\nbases: {{'{NOWHERE}': {{suite: bookworm, packages: []}}}}\n"
        "environments: {dev: {compose: [x.yaml]}}"
    )

    outcome = base(stack, engine, lambda _: None, dry_run=True)

    assert [str(step) for step in outcome.plan] == [f"pull image {NOWHERE}"]
    assert (outcome.changed, images.find(engine, NOWHERE)) == (False, None)
