"""A stand-in for one version of Gitea or Forgejo, limited to Actions: a real HTTP server with that version's routes.

What the version lacks is answered with 404, as by the real one. `tests/contract/test_forge.py` runs the same suite on
every profile, and on a real server if one is named.
Source: `templates/swagger/v1_json.tmpl` of each server at its tag.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import threading
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from conche.testing.forge.calls import Calls
from conche.testing.forge.git import go_on, serve_git
from conche.testing.forge.state import PROFILES, FakeForge, version_of

__all__ = ["serve"]

_R = r"/repos/(?P<owner>[^/]+)/(?P<name>[^/]+)"
_A = _R + "/actions"
_ALWAYS, _NEVER = 0.0, 1000.0

_LOG_PAGE = r"/[^/]+/[^/]+/actions/runs/(?P<run>\d+)/jobs/(?P<place>\d+)/attempt/(?P<attempt>\d+)/logs"
"""Of Forgejo 15."""

_DOWNLOAD = r"/(?P<owner>[^/]+)/(?P<name>[^/]+)/releases/download/(?P<tag>[^/]+)/(?P<file>[^/]+)"

# call, method, path, Gitea from, Gitea until, Forgejo from, Forgejo until
_ROUTES = (
    ("version", "GET", "/version", _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("repository", "GET", _R, _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("user", "GET", "/user", _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("create", "POST", "/user/repos", _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("create", "POST", r"/orgs/(?P<organisation>[^/]+)/repos", _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("change", "PATCH", _R, _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("protections", "GET", _R + "/branch_protections", _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("protect", "POST", _R + "/branch_protections", _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("branch", "GET", _R + "/branches/(?P<branch>.+)", _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("feeds", "GET", _R + "/activities/feeds", _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("pull", "GET", _R + r"/pulls/(?P<number>\d+)", _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("put_secret", "PUT", _A + r"/secrets/(?P<secret>[^/]+)", 1.21, _NEVER, 1.21, _NEVER),
    ("secrets", "GET", _A + "/secrets", 1.22, _NEVER, 8, _NEVER),
    ("token", "GET", _A + "/runners/registration-token", 1.22, 1.26, 9, _NEVER),
    ("token", "POST", _A + "/runners/registration-token", 1.24, _NEVER, _NEVER, _NEVER),
    ("token", "GET", _R + "/runners/registration-token", _NEVER, _NEVER, 7, 9),
    ("runners", "GET", _A + "/runners", 1.24, _NEVER, 15, _NEVER),
    ("make_runner", "POST", _A + "/runners", _NEVER, _NEVER, 15, _NEVER),
    ("remove_runner", "DELETE", _A + r"/runners/(?P<runner>\d+)", 1.24, _NEVER, 15, _NEVER),
    ("pending", "GET", _A + "/runners/jobs", _NEVER, _NEVER, 11, _NEVER),
    ("tasks", "GET", _A + "/tasks", 1.23, _NEVER, 8, _NEVER),
    ("runs", "GET", _A + "/runs", 1.25, _NEVER, 12, _NEVER),
    ("jobs", "GET", _A + r"/runs/(?P<run>\d+)/jobs", 1.25, _NEVER, 16, _NEVER),
    ("statuses", "GET", _R + r"/commits/(?P<sha>\w+)/status", _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("log", "GET", _A + r"/jobs/(?P<job>\d+)/logs", 1.24, _NEVER, 16, _NEVER),
    ("rerun", "POST", _A + r"/runs/(?P<run>\d+)/rerun", 1.26, _NEVER, _NEVER, _NEVER),
    ("rerun_failed", "POST", _A + r"/runs/(?P<run>\d+)/rerun-failed-jobs", 1.26, _NEVER, _NEVER, _NEVER),
    ("cancel", "POST", _A + r"/runs/(?P<run>\d+)/cancel", _NEVER, _NEVER, 16, _NEVER),
    ("tag", "GET", _R + "/tags/(?P<tag>.+)", _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("releases", "GET", _R + "/releases", _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("release_of_tag", "GET", _R + "/releases/tags/(?P<tag>.+)", _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("make_release", "POST", _R + "/releases", _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("change_release", "PATCH", _R + r"/releases/(?P<release>\d+)", _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("attach", "POST", _R + r"/releases/(?P<release>\d+)/assets", _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("detach", "DELETE", _R + r"/releases/(?P<release>\d+)/assets/(?P<asset>\d+)", _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("dispatch", "POST", _A + r"/workflows/(?P<workflow>[^/]+)/dispatches", 1.24, _NEVER, 8, _NEVER),
)


@contextlib.contextmanager
def serve(profile: str) -> Iterator[FakeForge]:
    """Run a server of that profile on a free port of this machine."""
    forge = FakeForge(profile)
    handler = type("Handler", (_Handler,), {"forge": forge})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    forge.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield forge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _attached(headers: Message, sent: bytes) -> bytes:
    """Return the one file of a form."""
    kind = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode()
    parts = message_from_bytes(kind + sent, policy=HTTP).iter_parts()
    return next(bytes(part.get_payload(decode=True)) for part in parts)


class _Handler(BaseHTTPRequestHandler):
    forge: FakeForge
    protocol_version = "HTTP/1.1"
    # Headers and body in one packet: after the first of two, the other end acknowledges only after a pause.
    wbufsize = -1

    def log_message(self, *_: object) -> None:
        """Log nothing: requests are in `forge.asked`."""

    def do_GET(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PATCH(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        forge, parts = self.forge, urlsplit(self.path)
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        forge.asked.append(f"{self.command} {self.path}")
        if ".git/" in parts.path and not forge.fault:
            self._git(sent)
            return
        form = self.headers.get("Content-Type", "").startswith("multipart/form-data")
        body = {"attachment": _attached(self.headers, sent)} if form else json.loads(sent or b"{}")
        if forge.fault:
            self._fault(forge.fault)
        elif parts.path == "/api/forgejo/v1/version":
            known = forge.kind == "forgejo"
            self.send(
                200 if known else 404, {"version": PROFILES[forge.profile]} if known else {"message": "Not Found"}
            )
        elif (page := re.fullmatch(_LOG_PAGE, parts.path)) and forge.kind == "forgejo":
            Calls(self).answer("log_page", page.groupdict(), {}, body)
        elif file := re.fullmatch(_DOWNLOAD, parts.path):
            self._checked("download", file.groupdict(), {}, body)
        else:
            self._route(parts.path.removeprefix("/api/v1"), parse_qs(parts.query), body)

    def _fault(self, fault: str) -> None:
        if fault == "html":
            self.send_text(200, "<html><title>Sign in to the proxy</title></html>", "text/html; charset=utf-8")
        elif fault == "429":
            self.send(429, {"message": "too many requests"}, {"Retry-After": "7"})
        elif fault == "redirect":
            self.send(302, {}, {"Location": "https://elsewhere.example.org/"})
        elif fault == "other":
            self.send(200, ["another product"])
        elif fault == "endless":
            self._blanks()
        else:
            self.send(int(fault), {"message": "as the test wanted"})

    def _blanks(self) -> None:
        """Send what may stand before a JSON value, until whoever asked has gone."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.close_connection = True
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b" " * 65536)

    def _route(self, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> None:
        forge = self.forge
        version, gitea = version_of(forge.profile), forge.kind == "gitea"
        for call, method, pattern, gitea_from, gitea_until, forgejo_from, forgejo_until in _ROUTES:
            since, until = (gitea_from, gitea_until) if gitea else (forgejo_from, forgejo_until)
            match = re.fullmatch(pattern, path)
            if match and method == self.command and since <= version < until:
                self._checked(call, match.groupdict(), query, body)
                return
        self.send(404, {"message": "Not Found"})

    def _checked(self, call: str, given: dict[str, str], query: dict[str, list[str]], body: dict[str, Any]) -> None:
        token = self.headers.get("Authorization", "").removeprefix("token ")
        scope = self.forge.tokens.get(token)
        if token and scope is None:
            self.send(401, {"message": "invalid username, password or token"})
        elif call != "version" and scope is None:
            self.send(404 if call == "repository" else 401, {"message": "token is required"})
        elif self.command != "GET" and "write:repository" not in str(scope).split(","):
            text = "token does not have at least one of required scope(s), required=[write:repository], "
            text += f"token scope={scope}"
            self.send(403, {"message": text})
        elif "owner" in given and f"{given['owner']}/{given['name']}" != self.forge.repository:
            self.send(404, {"message": "The target couldn't be found."})
        elif "/actions/" in self.path and not self.forge.settings["has_actions"]:
            self.send(404, {"message": "Not Found"})
        else:
            go_on(self.forge)
            Calls(self).answer(call, given, query, body)

    def _git(self, sent: bytes) -> None:
        basic = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic "))
        if basic.decode().rpartition(":")[2] not in self.forge.tokens:
            self.send_text(401, "who asks?", "text/plain", {"WWW-Authenticate": 'Basic realm="git"'})
            return
        answer = serve_git(self.forge, self.command, self.path, dict(self.headers), sent)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self.send_text(status, json.dumps(body), "application/json;charset=utf-8", headers)

    def send_text(self, status: int, text: str | bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        content = b"" if status == 204 else text.encode() if isinstance(text, str) else text
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)
