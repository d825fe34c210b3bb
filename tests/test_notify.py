"""Pings and notifications to a real server on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from conche.notify import notify, ping
from conche.secret import Secret


class Listening(ThreadingHTTPServer):
    """Records what it is sent; answers 500 below /sick."""

    heard: list[tuple[str, str]]


@pytest.fixture
def server() -> Iterator[Listening]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            assert isinstance(self.server, Listening)
            self.server.heard.append((self.path, self.rfile.read(length).decode()))
            self.send_response(500 if self.path.startswith("/sick") else 200)
            self.end_headers()

        do_POST = do_GET  # noqa: N815 - the name is the protocol

        def log_message(self, *_: object) -> None:
            return

    with Listening(("127.0.0.1", 0), Handler) as listening:
        listening.heard = []
        Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
        yield listening
        listening.shutdown()


def address(server: Listening, path: str, scheme: str = "http") -> Secret:
    return Secret(f"{scheme}://127.0.0.1:{server.server_address[1]}{path}")


def test_a_ping_tells_start_success_and_failure(server: Listening) -> None:
    said = [ping(address(server, "/uuid"), event) for event in ("start", "success", "fail")]

    assert said == ["", "", ""]
    assert [path for path, _ in server.heard] == ["/uuid/start", "/uuid", "/uuid/fail"]


def test_what_goes_wrong_is_said_without_the_address(server: Listening) -> None:
    sick = ping(address(server, "/sick-canary"), "start")
    gone = ping(Secret("http://127.0.0.1:9/canary"), "fail")
    nonsense = ping(Secret("canary"), "success")

    assert "500" in sick
    assert all("canary" not in words for words in (sick, gone, nonsense))
    assert gone
    assert nonsense


def test_a_notification_reaches_every_address(server: Listening) -> None:
    said = notify([address(server, "/one", "json"), address(server, "/two", "json")], "a title", "a body", failure=True)

    assert said == ""
    assert sorted(path for path, _ in server.heard) == ["/one", "/two"]
    message = json.loads(server.heard[0][1])
    assert (message["title"], message["message"], message["type"]) == ("a title", "a body", "failure")


def test_one_that_does_not_arrive_and_one_that_is_none_are_said(server: Listening) -> None:
    assert notify([], "t", "b", failure=False) == ""
    assert notify([address(server, "/sick", "json")], "t", "b", failure=False) == "a notification could not be sent"
    unknown = notify([Secret("nonsense://canary"), address(server, "/one", "json")], "t", "b", failure=False)
    assert unknown == "1 of 2 notification addresses are not known to Apprise"
    assert server.heard[-1][0] == "/one"
