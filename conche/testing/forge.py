"""A Gitea or Forgejo of one version, as far as Actions go: a real HTTP server with that version's routes.

What the version lacks is answered with 404, as the real one does. `tests/contract/test_forge.py` holds every profile to
one suite, and a real server too where one is named.
Source: `templates/swagger/v1_json.tmpl` of each server at its tag.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

__all__ = ["PROFILES", "FakeForge", "FakeJob", "FakeRun", "serve"]

PROFILES = {
    "gitea-1.22": "1.22.6",
    "gitea-1.24": "1.24.7",
    "gitea-1.25": "1.25.4",
    "gitea-1.26": "1.26.1",
    "forgejo-1.21": "1.21.11-1",
    "forgejo-7": "7.0.16+gitea-1.21.11",
    "forgejo-11": "11.0.8+gitea-1.22.0",
    "forgejo-15": "15.0.7+gitea-1.22.0",
    "forgejo-16": "16.0.0+gitea-1.22.0",
}
"""Servers by name, with the version that each tells."""

_R = r"/repos/(?P<owner>[^/]+)/(?P<name>[^/]+)"
_A = _R + "/actions"
_ALWAYS, _NEVER = 0.0, 1000.0

# call, method, path, Gitea from, Gitea until, Forgejo from, Forgejo until
_ROUTES = (
    ("version", "GET", "/version", _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("repository", "GET", _R, _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("put_secret", "PUT", _A + r"/secrets/(?P<secret>[^/]+)", 1.21, _NEVER, 1.21, _NEVER),
    ("secrets", "GET", _A + "/secrets", 1.22, _NEVER, 8, _NEVER),
    ("token", "GET", _A + "/runners/registration-token", 1.22, 1.26, 9, _NEVER),
    ("token", "POST", _A + "/runners/registration-token", 1.24, _NEVER, _NEVER, _NEVER),
    ("token", "GET", _R + "/runners/registration-token", _NEVER, _NEVER, 7, 9),
    ("runners", "GET", _A + "/runners", 1.24, _NEVER, 15, _NEVER),
    ("tasks", "GET", _A + "/tasks", 1.23, _NEVER, 8, _NEVER),
    ("runs", "GET", _A + "/runs", 1.25, _NEVER, 12, _NEVER),
    ("jobs", "GET", _A + r"/runs/(?P<run>\d+)/jobs", 1.25, _NEVER, 16, _NEVER),
    ("statuses", "GET", _R + r"/commits/(?P<sha>\w+)/status", _ALWAYS, _NEVER, _ALWAYS, _NEVER),
    ("log", "GET", _A + r"/jobs/(?P<job>\d+)/logs", 1.24, _NEVER, 16, _NEVER),
    ("rerun", "POST", _A + r"/runs/(?P<run>\d+)/rerun", 1.26, _NEVER, _NEVER, _NEVER),
    ("rerun_failed", "POST", _A + r"/runs/(?P<run>\d+)/rerun-failed-jobs", 1.26, _NEVER, _NEVER, _NEVER),
    ("cancel", "POST", _A + r"/runs/(?P<run>\d+)/cancel", _NEVER, _NEVER, 16, _NEVER),
    ("dispatch", "POST", _A + r"/workflows/(?P<workflow>[^/]+)/dispatches", 1.24, _NEVER, 8, _NEVER),
)


@dataclass
class FakeJob:
    """A job; each time somebody asks for it, it goes on to its next state, and stays in the last."""

    id: int
    name: str
    states: list[str]
    log: str = ""

    def next_state(self) -> str:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


@dataclass
class FakeRun:
    """A run of a workflow."""

    id: int
    number: int
    jobs: list[FakeJob]
    title: str = "A commit"
    branch: str = "develop"
    event: str = "push"
    workflow: str = "ci-cd-dual.yml"
    sha: str = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeForge:
    """The state of one server, which tests set up and look at.

    Attributes:
        tokens: the scopes of each token; one with `write:repository` may everything here.
        of_attempts_before: numbers of jobs that were run again; the list of jobs has them, the commit's status has not.
        of_the_server: names of runners that serve every repository, and are not of this one.
        fault: what the next answers are instead: 429, 500, html, redirect; empty for none.
    """

    profile: str
    address: str = ""
    repository: str = "team/app"
    tokens: dict[str, str] = field(default_factory=lambda: {"good-token-of-tests": "write:repository"})
    secrets: dict[str, str] = field(default_factory=dict)
    runs: list[FakeRun] = field(default_factory=list)
    runners: list[dict[str, Any]] = field(default_factory=list)
    of_the_server: set[str] = field(default_factory=set)
    of_attempts_before: set[int] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    dispatched: list[dict[str, Any]] = field(default_factory=list)
    reruns: list[str] = field(default_factory=list)
    fault: str = ""

    @property
    def kind(self) -> str:
        return self.profile.partition("-")[0]


def _version(profile: str) -> float:
    """1.26 and 15 as numbers that compare: no Gitea 1.x has reached three digits."""
    major, minor = (int(part) for part in re.findall(r"\d+", PROFILES[profile])[:2])
    return major + minor / 100 if major == 1 else float(major)


@contextlib.contextmanager
def serve(profile: str) -> Iterator[FakeForge]:
    """A server of that profile on a free port of this machine."""
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


class _Handler(BaseHTTPRequestHandler):
    forge: FakeForge
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Requests are in `forge.asked`."""

    def do_GET(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        forge, parts = self.forge, urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        forge.asked.append(f"{self.command} {self.path}")
        if forge.fault:
            self._fault(forge.fault)
        elif parts.path == "/api/forgejo/v1/version":
            known = forge.kind == "forgejo"
            self._send(
                200 if known else 404, {"version": PROFILES[forge.profile]} if known else {"message": "Not Found"}
            )
        else:
            self._route(parts.path.removeprefix("/api/v1"), parse_qs(parts.query), body)

    def _fault(self, fault: str) -> None:
        if fault == "html":
            self._send_text(200, "<html><title>Sign in to the proxy</title></html>", "text/html; charset=utf-8")
        elif fault == "429":
            self._send(429, {"message": "too many requests"}, {"Retry-After": "7"})
        elif fault == "redirect":
            self._send(302, {}, {"Location": "https://elsewhere.example.org/"})
        else:
            self._send(int(fault), {"message": "as the test wanted"})

    def _route(self, path: str, query: dict[str, list[str]], body: dict[str, Any]) -> None:
        forge = self.forge
        version, gitea = _version(forge.profile), forge.kind == "gitea"
        for call, method, pattern, gitea_from, gitea_until, forgejo_from, forgejo_until in _ROUTES:
            since, until = (gitea_from, gitea_until) if gitea else (forgejo_from, forgejo_until)
            match = re.fullmatch(pattern, path)
            if match and method == self.command and since <= version < until:
                self._checked(call, match.groupdict(), query, body)
                return
        self._send(404, {"message": "Not Found"})

    def _checked(self, call: str, given: dict[str, str], query: dict[str, list[str]], body: dict[str, Any]) -> None:
        token = self.headers.get("Authorization", "").removeprefix("token ")
        scope = self.forge.tokens.get(token)
        if token and scope is None:
            self._send(401, {"message": "invalid username, password or token"})
        elif call != "version" and scope is None:
            self._send(404 if call == "repository" else 401, {"message": "token is required"})
        elif call not in ("version", "repository") and scope != "write:repository" and self._writes(call):
            text = "token does not have at least one of required scope(s), required=[write:repository], "
            text += f"token scope={scope}"
            self._send(403, {"message": text})
        elif "owner" in given and f"{given['owner']}/{given['name']}" != self.forge.repository:
            self._send(404, {"message": "The target couldn't be found."})
        else:
            _Calls(self).answer(call, given, query, body)

    def _writes(self, call: str) -> bool:
        return self.command != "GET" or call in ("secrets", "token", "runners")

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self._send_text(status, json.dumps(body), "application/json;charset=utf-8", headers)

    def _send_text(self, status: int, text: str, kind: str, headers: dict[str, str] | None = None) -> None:
        content = b"" if status == 204 else text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


class _Calls:
    """The calls, in the shapes of each kind of server."""

    def __init__(self, handler: _Handler) -> None:
        self.send, self.text = handler._send, handler._send_text
        self.forge = handler.forge
        self.gitea = self.forge.kind == "gitea"

    def answer(self, call: str, given: dict[str, str], query: dict[str, list[str]], body: dict[str, Any]) -> None:
        getattr(self, call)(given, query, body)

    def version(self, *_: Any) -> None:
        self.send(200, {"version": PROFILES[self.forge.profile]})

    def repository(self, *_: Any) -> None:
        rights = {"admin": True, "push": True, "pull": True}
        self.send(200, {"full_name": self.forge.repository, "has_actions": True, "permissions": rights})

    def put_secret(self, given: dict[str, str], _: Any, body: dict[str, Any]) -> None:
        name = given["secret"].upper()
        if re.fullmatch(r"(?!GITEA_|GITHUB_)[A-Z_][A-Z0-9_]*", name) is None:
            self.send(400, {"message": "invalid secret name"})
            return
        new = name not in self.forge.secrets
        self.forge.secrets[name] = body["data"]
        self.send(201 if new else 204, {})

    def secrets(self, *_: Any) -> None:
        self.send(200, [{"name": name, "created_at": "2026-01-01T00:00:00Z"} for name in self.forge.secrets])

    def token(self, *_: Any) -> None:
        self.send(200, {"token": "registration-token-of-tests"})

    def runners(self, _: Any, query: dict[str, list[str]], *__: Any) -> None:
        visible = not self.gitea and query.get("visible") == ["true"]
        listed = [one for one in self.forge.runners if visible or one["name"] not in self.forge.of_the_server]
        if self.gitea:
            entries = [{**one, "labels": [{"name": label} for label in one["labels"]]} for one in listed]
            self.send(200, {"runners": entries, "total_count": len(entries)})
        else:
            self.send(200, listed)

    def tasks(self, *_: Any) -> None:
        """A job becomes a task, with a number of its own, once a runner has it."""
        listed = [(run, job, job.next_state()) for run in self.forge.runs for job in run.jobs]
        entries = [
            {
                "id": 1000 + job.id, "name": job.name, "head_branch": run.branch, "head_sha": run.sha,
                "run_number": run.number, "event": run.event, "display_title": run.title,
                "status": state, "workflow_id": run.workflow,
                "url": f"{self.forge.address}/{self.forge.repository}/actions/runs/{run.number}",
                "run_started_at": "2026-01-01T00:00:00Z",
            }
            for run, job, state in listed if state not in ("waiting", "blocked")
        ]  # fmt: skip
        self.send(200, {"total_count": len(entries), "workflow_runs": entries})

    def statuses(self, given: dict[str, str], *_: Any) -> None:
        states = [
            {
                "context": f"{run.workflow} / {job.name} ({run.event})",
                "status": job.states[0] if job.states[0] in ("success", "failure") else "pending",
                "target_url": f"/{self.forge.repository}/actions/runs/{run.number}/jobs/{number}",
            }
            for run in self.forge.runs if run.sha.startswith(given["sha"]) for number, job in enumerate(run.jobs)
            if job.id not in self.forge.of_attempts_before
        ]  # fmt: skip
        self.send(200, {"statuses": states, "total_count": len(states)})

    def runs(self, *_: Any) -> None:
        entries = [self._run(run) for run in self.forge.runs]
        self.send(200, {"total_count": len(entries), "workflow_runs": entries})

    def _run(self, run: FakeRun) -> dict[str, Any]:
        states = [job.next_state() for job in run.jobs]
        state = next((one for one in ("failure", "cancelled", "running", "waiting") if one in states), "success")
        page = f"{self.forge.address}/{self.forge.repository}/actions/runs/{run.number}"
        if not self.gitea:
            return {
                "id": run.id, "index_in_repo": run.number, "title": run.title, "prettyref": run.branch,
                "commit_sha": run.sha, "event": run.event, "status": state, "workflow_id": run.workflow,
                "html_url": page, "started": "2026-01-01T00:00:00Z",
            }  # fmt: skip
        return {
            "id": run.id, "run_number": run.number, "display_title": run.title, "head_branch": run.branch,
            "head_sha": run.sha, "event": run.event, "path": f"{run.workflow}@refs/heads/{run.branch}",
            "html_url": page, "started_at": "2026-01-01T00:00:00Z", **_gitea(state),
        }  # fmt: skip

    def jobs(self, given: dict[str, str], *_: Any) -> None:
        run = self._find(given["run"])
        if run is not None:
            entries = [{"id": job.id, "name": job.name, **self._state(job.states[0])} for job in run.jobs]
            self.send(200, {"jobs": entries, "total_count": len(entries)} if self.gitea else entries)

    def _state(self, state: str) -> dict[str, str]:
        return _gitea(state) if self.gitea else {"status": state}

    def log(self, given: dict[str, str], *_: Any) -> None:
        jobs = [job for run in self.forge.runs for job in run.jobs if job.id == int(given["job"])]
        if jobs:
            self.text(200, jobs[0].log, "text/plain; charset=utf-8")
        else:
            self.send(404, {"message": "job not found"})

    def rerun(self, given: dict[str, str], *_: Any) -> None:
        if self._find(given["run"]) is not None:
            self.forge.reruns.append(given["run"])
            self.send(201, {})

    def rerun_failed(self, given: dict[str, str], *_: Any) -> None:
        if self._find(given["run"]) is not None:
            self.forge.reruns.append(f"{given['run']} failed")
            self.send(201, {})

    def cancel(self, given: dict[str, str], *_: Any) -> None:
        run = self._find(given["run"])
        if run is not None:
            for job in run.jobs:
                job.states = ["cancelled"]
            self.send(204, {})

    def dispatch(self, given: dict[str, str], query: dict[str, list[str]], body: dict[str, Any]) -> None:
        if given["workflow"] not in {run.workflow for run in self.forge.runs} | {"ci-cd-dual.yml"}:
            self.send(404, {"message": "workflow not found"})
            return
        self.forge.dispatched.append({"workflow": given["workflow"], **body})
        page = f"{self.forge.address}/{self.forge.repository}/actions/runs/9"
        if self.gitea and query.get("return_run_details") == ["true"] and _version(self.forge.profile) >= 1.26:
            self.send(200, {"workflow_run_id": 90, "html_url": page})
        elif not self.gitea and body.get("return_run_info") and _version(self.forge.profile) >= 11:
            self.send(201, {"id": 90, "run_number": 9, "jobs": ["one"]})
        else:
            self.send(204, {})

    def _find(self, number: str) -> FakeRun | None:
        run = next((run for run in self.forge.runs if run.id == int(number)), None)
        if run is None:
            self.send(404, {"message": "run not found"})
        return run


def _gitea(state: str) -> dict[str, str]:
    over = state in ("success", "failure", "cancelled", "skipped")
    running = {"running": "in_progress", "waiting": "queued"}
    return {"status": "completed", "conclusion": state} if over else {"status": running.get(state, state)}
