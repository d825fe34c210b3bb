"""What the contract suite is run on: a stand-in of one version, or a repository of its own on a real server."""

from __future__ import annotations

import base64
import re
import secrets
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx

from conche.ci.forge import Forge
from conche.ci.forge.client import Client
from conche.ci.forge.routes import ROUTES
from conche.secret import Secret
from conche.testing.forge import FakeForge, FakeJob, FakeRun
from conche.testing.forge.git import make

__all__ = ["JOBS", "LOG", "WORKFLOW", "RealSite", "Site", "StandIn"]

JOBS = ("test-all", "deploy-dev")
WORKFLOW = "ci-cd-dual.yml"
LOG = "all passed"
"""What every job here writes."""

BRANCH = "develop"
MOMENT = "2026-01-01T00:00:00Z"
LOOKS = 600
"""Looks for what a real server does after it has answered: at most a minute."""

Found = TypeVar("Found")


class Site(ABC):
    """One repository on one server.

    Attributes:
        fake: the state of a stand-in; None for a real server.
        can: the operations that the version has, by its own description of its API.
        label: the label that jobs wait for.
        pause: seconds between two looks.
    """

    forge: Forge
    fake: FakeForge | None
    can: set[str]
    label: str
    pause: float

    @abstractmethod
    def run(self, *states: str) -> int:
        """Make a run whose jobs are in these states; its number."""

    @abstractmethod
    def runner(self, name: str) -> None:
        """Register a runner and let it connect, with the label."""

    @abstractmethod
    def knows(self, identity: str, token: Secret) -> bool:
        """Whether a runner could connect with this."""

    @abstractmethod
    def tag(self, name: str) -> None:
        """Give a commit this tag on the server."""

    @abstractmethod
    def remote(self, folder: Path) -> str:
        """An address that git can push to."""

    def push(self, folder: Path) -> str:
        """Commit the workflow in a new folder and push it; the commit."""
        said = base64.b64encode(f"token:{self._token}".encode()).decode()
        variables = {
            "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "http.extraHeader",
            "GIT_CONFIG_VALUE_0": f"Authorization: Basic {said}", "GIT_CONFIG_GLOBAL": "/dev/null",
            "PATH": "/usr/local/bin:/usr/bin:/bin",
        }  # fmt: skip
        checkout = folder / "checkout"
        (checkout / ".gitea/workflows").mkdir(parents=True)
        (checkout / ".gitea/workflows" / WORKFLOW).write_text(self._workflow())

        def git(*words: str) -> str:
            argv = ["git", "-C", str(checkout), "-c", "user.name=n", "-c", "user.email=e@example.org", *words]
            return subprocess.run(argv, env=variables, check=True, capture_output=True, text=True).stdout.strip()

        git("init", "--quiet", "--initial-branch", BRANCH)
        git("add", ".")
        git("commit", "--quiet", "--message", "A workflow")
        git("push", "--quiet", self.remote(folder), BRANCH)
        return git("rev-parse", "HEAD")

    def until(self, look: Callable[[], Found | None]) -> Found:
        """What a look gives as soon as it gives something."""
        for _ in range(LOOKS):
            found = look()
            if found:
                return found
            time.sleep(self.pause)
        raise AssertionError("the server has not done it within a minute")

    @property
    @abstractmethod
    def _token(self) -> str: ...

    def _workflow(self) -> str:
        jobs = "".join(f"  {name}: {{runs-on: {self.label}, steps: [{{run: make}}]}}\n" for name in JOBS)
        return f"on: {{push: , workflow_dispatch: {{inputs: {{a: {{type: string}}}}}}}}\njobs:\n{jobs}"


class StandIn(Site):
    """A stand-in of one version."""

    pause = 0.0
    label = "dev"

    def __init__(self, fake: FakeForge, can: set[str]) -> None:
        self.forge = Forge(Client(fake.address, Secret(self._token)), fake.repository)
        self.fake, self.can = fake, can
        self._made = fake

    @property
    def _token(self) -> str:
        return "good-token-of-tests"

    def run(self, *states: str) -> int:
        number = 7 + len(self._made.runs)
        jobs = [
            FakeJob(10 * number + place, name, [state], f"{LOG}\n", labels=[self.label])
            for place, (name, state) in enumerate(zip(JOBS, states, strict=True))
        ]
        self._made.runs.append(FakeRun(40 + number, number, jobs))
        return number

    def runner(self, name: str) -> None:
        state = "online" if self._made.kind == "gitea" else "idle"
        number = len(self._made.runners) + 1
        self._made.runners.append({"id": number, "name": name, "status": state, "busy": False, "labels": [self.label]})

    def knows(self, identity: str, token: Secret) -> bool:
        return any(one.get("uuid") == identity for one in self._made.runners)

    def tag(self, name: str) -> None:
        self._made.tags[name] = "c" * 40

    def remote(self, folder: Path) -> str:
        self._made.git = folder / "srv"
        make(self._made)
        return f"{self.forge.web}.git"


class RealSite(Site):
    """A repository that is made on a real server, and thrown away."""

    fake = None
    pause = 0.1

    def __init__(self, address: str, token: str) -> None:
        self._secret = token
        client = Client(address, Secret(token))
        self.forge = Forge(client, f"{Forge(client, '').user()}/conche-{secrets.token_hex(6)}")
        self.can = _described(client)
        self.label = f"label-{secrets.token_hex(6)}"
        self._worker: _Worker | None = None
        self._ready = False
        self.forge.create()

    def close(self) -> None:
        """Throw the repository away, with its runners and runs."""
        self.forge.client.call("DELETE", f"/repos/{self.forge.repository}")

    @property
    def _token(self) -> str:
        return self._secret

    def run(self, *states: str) -> int:
        file = f"/repos/{self.forge.repository}/contents/.gitea/workflows/{WORKFLOW}"
        content = base64.b64encode(self._workflow().encode()).decode()
        body = {"content": content, "message": "A workflow", "branch": BRANCH, "new_branch": BRANCH}
        said = self.forge.client.json("POST", file, body)
        [run] = self.until(lambda: self.forge.runs_of(said["commit"]["sha"]))
        if any(state != "waiting" for state in states):
            self.runner("worker")
        assert self._worker is not None or not any(state != "waiting" for state in states)
        for state in states:
            if self._worker is not None and state != "waiting":
                self._worker.work(state)
        return run.number

    def runner(self, name: str) -> None:
        identity, token = self.forge.create_runner(name)
        self._worker = _Worker(self.forge.client.address, identity, token)
        self._worker.connect(self.label)

    def knows(self, identity: str, token: Secret) -> bool:
        return _Worker(self.forge.client.address, identity, token).ask("Declare", labels=[]).is_success

    def tag(self, name: str) -> None:
        body = {"content": "", "message": "A file", "branch": "main", "new_branch": "main"}
        self.forge.client.json("POST", f"/repos/{self.forge.repository}/contents/file", body)
        self.forge.client.json("POST", f"/repos/{self.forge.repository}/tags", {"tag_name": name, "target": "main"})

    def remote(self, folder: Path) -> str:
        return f"{self.forge.web}.git"


class _Worker:
    """A runner's side of the protocol, so that none has to be installed: Connect with JSON.

    Source: https://code.forgejo.org/forgejo/actions-proto, runner/v1.
    """

    def __init__(self, address: str, identity: str, token: Secret) -> None:
        self._base = f"{address}/api/actions/runner.v1.RunnerService"
        self._headers = {"x-runner-uuid": identity, "x-runner-token": token.reveal()}

    def ask(self, call: str, **body: Any) -> httpx.Response:
        return httpx.post(f"{self._base}/{call}", json=body, headers=self._headers, timeout=20)

    def connect(self, label: str) -> None:
        self.ask("Declare", version="tests", labels=[label]).raise_for_status()

    def work(self, state: str) -> None:
        """Take the next job, write its log and bring it into this state."""
        task = self.ask("FetchTask", tasksVersion="0").raise_for_status().json()["task"]["id"]
        rows, ends = [{"time": MOMENT, "content": LOG}], state != "running"
        self.ask("UpdateLog", taskId=task, index="0", rows=rows, noMore=ends).raise_for_status()
        said = {"id": task, "startedAt": MOMENT}
        if ends:
            said |= {"result": f"RESULT_{state.upper()}", "stoppedAt": MOMENT}
        self.ask("UpdateTask", state=said).raise_for_status()


def _described(client: Client) -> set[str]:
    """The operations whose call the server's own description of its API contains."""
    described = httpx.get(f"{client.address}/swagger.v1.json", timeout=60).raise_for_status().json()["paths"]
    there = {(method.upper(), _shape(path)) for path, methods in described.items() for method in methods}
    kind = client.server().kind
    return {one.operation for one in ROUTES if one.kind == kind and (one.method, _shape(one.path)) in there}


def _shape(path: str) -> str:
    """A path without the names of its parameters."""
    return re.sub(r"\{\w+\}", "{}", path.replace("{repository}", "{}/{}"))
