"""docs/how-to/pipeline.md on a real Forgejo and its runner: from a fresh clone to what serves, and what follows."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.real.road import ROOT, Failed, NotHere, Road, Walk, in_use, say

__all__ = ["ROAD"]

DEV, PROD = "http://localhost:8001", "http://localhost:8000"

SOMEBODY = {"user.name": "walk", "user.email": "walk@example.org", "commit.gpgsign": "false"}
"""Whoever has cloned it, in git's configuration."""

WORK = Path("/srv/chocolate-factory")
"""Where the runners work, as compose/git.yaml has it."""

HOSTS = Path("/etc/hosts")

OTHER_NAME = "git.tailnet.example"

LOG = 20_000
"""Characters of the logs of a failed run that are shown."""

PORTS = (2222, 3000, 5000, 8000, 8001)
"""What the documentation publishes; the road is walked under the names and ports that it has."""


def images() -> list[str]:
    """The servers of the git environment, and what the runners' image is made of."""
    written = yaml.safe_load((ROOT / "compose/git.yaml").read_text(encoding="utf-8"))["services"]
    text = (ROOT / "docker/runner.Dockerfile").read_text(encoding="utf-8")
    parts = [name for name in re.findall(r"^FROM (\S+)", text, re.MULTILINE) if "$" not in name]
    return [written["forgejo"]["image"], *parts]


def road(walk: Walk) -> None:
    """Every step; what was brought up is taken down, whatever happened."""
    _require_untaken()
    with _down_at_the_end(walk):
        for name, value in SOMEBODY.items():
            walk.run("git", "config", name, value)
        with walk.step("scripts/quickstart"):
            walk.run("scripts/quickstart")
        walk.timed("env.up", "--env", "git")
        walk.timed("ci.setup", "--dry-run")
        done = json.loads(walk.timed("ci.setup", "--json"))["value"]
        here = Pushed(walk, done["server"], done["repository"], done["remote"], done["branch"])
        here.nothing_of("main")
        here.as_the_contract_says()
        first = here.deployed("from the first push to deployed")
        second = here.pull_request()
        here.bad_release(second)
        here.rolled_back(first)
        with walk.part("production", _images("compose/prod.yaml", "nginx", "influxdb")) as can:
            if can:
                here.production()
        here.down_and_up()
        here.under_another_name()
        here.ten_pushes()


@dataclass(frozen=True)
class Pushed:
    """The clone beside its repository on the server."""

    walk: Walk
    server: str
    repository: str
    remote: str
    branch: str

    @property
    def _token(self) -> str:
        return (self.walk.folder / ".sops/forge-token").read_text(encoding="utf-8").splitlines()[1]

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """What the documentation leaves to the server's pages, by its API and with the token that was kept."""
        address = f"{self.server}/api/v1/repos/{self.repository}{path}"
        answer = httpx.request(
            method, address, json=body, headers={"Authorization": f"token {self._token}"}, timeout=60
        )
        if not answer.is_success:
            raise Failed(f"{method} {path}: {answer.status_code} {answer.text[:500]}")
        return answer.json() if answer.content else None

    def nothing_of(self, branch: str) -> None:
        """A branch has started nothing yet."""
        started = [run for run in self.ask("GET", "/actions/runs")["workflow_runs"] if run["prettyref"] == branch]
        if started:
            raise Failed(f"ci.setup has started runs of {branch}: {[run['index_in_repo'] for run in started]}")

    def as_the_contract_says(self) -> None:
        """The suite that the stand-in is held to, in repositories of its own."""
        suite = (sys.executable, "-m", "pytest", "-q", "-n0", "tests/contract/test_forge.py", "-k", "real")
        with self.walk.step("the contract suite of the forge"):
            variables = {"CONCHE_TEST_FORGE": self.server, "CONCHE_TEST_FORGE_TOKEN": self._token}
            self.walk.run(*suite, variables=variables)

    def watched(self, *words: str, fails: bool = False) -> None:
        """Wait for a run; of one that was to work and did not, also what its jobs wrote."""
        try:
            self.walk.invoke("ci.watch", *words, fails=fails)
        except Failed as failed:
            logs = self.walk.invoke("ci.logs", *([] if "--commit" in words else words), fails=None)
            raise Failed(f"{failed}\n{logs[-LOG:]}") from failed

    def deployed(self, name: str, *, fails: bool = False) -> str:
        """Push what is committed and wait for its run; the commit, which then serves unless it was to fail."""
        with self.walk.step(name):
            self.walk.run("git", "push", "--quiet", self.remote, self.branch)
            self.watched(fails=fails)
        commit = self.walk.run("git", "rev-parse", "HEAD").strip()
        if not fails:
            _require_serving(DEV, commit)
        return commit

    def pull_request(self) -> str:
        """A branch, its checks, its merge, and the deployment that follows; the commit that serves."""
        walk = self.walk
        walk.run("git", "switch", "--quiet", "--create", "feature/walk")
        self._edit('"""Liveness: the process answers.', '"""Liveness: the process answers, and that is all.')
        walk.run("git", "push", "--quiet", self.remote, "feature/walk")
        pull = self._pull("feature/walk", self.branch)
        with walk.step("checks of a pull request"):
            self.watched()
        walk.invoke("ci.status", "--branch", "feature/walk")
        walk.run("git", "switch", "--quiet", self.branch)
        self._merge(pull)
        walk.run("git", "pull", "--quiet", self.remote, self.branch)
        return self.deployed("from a merge to deployed")

    def bad_release(self, before: str) -> None:
        """One whose tests are green and which is ill once it is deployed: what served before goes on serving."""
        broken = '"healthy" if services.settings.conche_release == "unknown" else str(1 // 0)'
        self._edit('"status": "healthy"', f'"status": {broken}')
        self.deployed("a bad release, taken back", fails=True)
        if not self.walk.timed("ci.logs", "--branch", self.branch).strip():
            raise Failed("ci.logs shows nothing of the deployment that failed")
        _require_serving(DEV, before)
        self.walk.run("git", "revert", "--no-edit", "HEAD")
        self.deployed("from its repair to deployed")

    def rolled_back(self, first: str) -> None:
        """By a dispatch: what served before the last release serves again."""
        walk = self.walk
        with walk.step("a rollback by dispatch"):
            words = ("ci.dispatch", "rollback", "--ref", self.branch, "--inputs", "environment=dev", "--json")
            number = json.loads(walk.invoke(*words))["value"]["url"].rpartition("/")[2]
            self.watched("--run", number)
        now = version(DEV)["git_revision"]
        if any(one.startswith(now) for one in (first, walk.run("git", "rev-parse", "HEAD").strip())):
            raise Failed(f"after the rollback {now} serves")

    def production(self) -> None:
        """By a pull request to the protected branch."""
        walk = self.walk
        self._merge(self._pull(self.branch, "main"))
        walk.run("git", "fetch", "--quiet", self.remote, "main")
        commit = walk.run("git", "rev-parse", "FETCH_HEAD").strip()
        with walk.step("from a merge to production"):
            self.watched("--commit", commit)
        _require_serving(PROD, commit)

    def down_and_up(self) -> None:
        """The runners belong to the environment: they are back with it, and take jobs."""
        walk = self.walk
        walk.timed("env.down", "--env", "git")
        walk.timed("env.up", "--env", "git")
        self._dispatched("quick-test")

    def _dispatched(self, workflow: str, *inputs: str) -> None:
        """A run by hand, which runners take that have just come up."""
        with self.walk.step(f"{workflow} after that"):
            words = ("ci.dispatch", workflow, "--ref", self.branch, *inputs, "--json")
            number = json.loads(self.walk.invoke(*words))["value"]["url"].rpartition("/")[2]
            self.watched("--run", number)

    def under_another_name(self) -> None:
        """As on a tailnet that this host is not on: runners fetch from a name that means this host to it alone."""
        if not os.access(HOSTS, os.W_OK):
            self.walk.left_out.append(f"another name for the server: {HOSTS} cannot be written")
            return
        with _known_here(OTHER_NAME):
            told = self.walk.folder / ".env"
            told.write_text(f"FORGEJO_URL=http://{OTHER_NAME}:3000/\nFORGEJO_NAME={OTHER_NAME}\n", encoding="utf-8")
            told.chmod(0o600)
            self.walk.timed("env.up", "--env", "git")
            self.walk.timed("ci.runner.up")
            self._dispatched("quick-test")
            self._dispatched("ci-cd-dual", "--inputs", "until=release")
            told.unlink()
            self.walk.timed("env.up", "--env", "git")

    def ten_pushes(self) -> None:
        """In quick succession, with the server restarted, a runner killed and a run cancelled among them."""
        walk, commits = self.walk, []
        disturb = {3: self._restart_server, 5: self._kill_runner, 7: self._cancel}
        for number in range(1, 11):
            with walk.step(f"push {number} of ten"):
                self._add_line(f"# Push {number} of ten.")
                walk.run("git", "push", "--quiet", self.remote, self.branch)
                commits.append(walk.run("git", "rev-parse", "HEAD").strip())
            if number in disturb:
                with walk.step(disturb[number].__name__.strip("_").replace("_", " ")):
                    disturb[number]()
        with walk.step("the last of ten deployed"):
            self.watched("--commit", commits[-1])
        _require_serving(DEV, commits[-1])
        listed = json.loads(walk.invoke("ci.status", "--limit", "50", "--json", fails=None))["value"]
        fates = {run["commit"]: run["state"] for run in listed}
        for commit in commits:
            fate = next((state for known, state in fates.items() if commit.startswith(known)), "overtaken")
            if fate not in ("success", "failure", "cancelled", "overtaken"):
                raise Failed(f"{commit[:10]} is said to be {fate}")
            told = json.loads(walk.invoke("ci.watch", "--commit", commit, "--json", fails=fate != "success"))
            if fate == "overtaken" and told["error"]["code"] != "commit-overtaken":
                raise Failed(f"{commit[:10]} has no run: {told['error']['message']}")
            say(f"           {commit[:10]}  {fate}")
        for environment in ("dev", "git"):
            walk.invoke("env.status", "--env", environment)

    def _restart_server(self) -> None:
        self.walk.run("docker", "restart", "chocolate_factory_forgejo")
        self.walk.invoke("env.up", "--env", "git")

    def _kill_runner(self) -> None:
        self.walk.run("docker", "kill", "chocolate_factory_runner_dev")
        self.walk.invoke("env.up", "--env", "git")

    def _cancel(self) -> None:
        """As a person does on this version: on the page of the run, signed in."""
        name, password = (self.walk.folder / ".sops/forge-password").read_text(encoding="utf-8").split()
        number = self._going("ci-cd-dual.yml")
        with httpx.Client(base_url=self.server, timeout=60) as browser:
            browser.post("/user/login", data={"user_name": name, "password": password})
            answer = browser.post(f"/{self.repository}/actions/runs/{number}/cancel")
        if not answer.is_success:
            raise Failed(f"run {number} cannot be cancelled on its page: {answer.status_code}")

    def _going(self, workflow: str) -> int:
        """The newest run of a workflow that goes on; the server makes it a few seconds after the push."""
        for _ in range(60):
            for run in json.loads(self.walk.invoke("ci.status", "--json", fails=None))["value"]:
                if run["workflow"] == workflow and run["state"] in ("running", "waiting"):
                    return int(run["number"])
            time.sleep(1)
        raise Failed(f"no run of {workflow} goes on")

    def _add_line(self, line: str) -> None:
        file = self.walk.folder / "src/fastapi-app/app/api.py"
        file.write_text(file.read_text(encoding="utf-8") + f"{line}\n", encoding="utf-8")
        self.walk.run("git", "commit", "--quiet", "--all", "--message", "A change")

    def _edit(self, old: str, new: str) -> None:
        file = self.walk.folder / "src/fastapi-app/app/api.py"
        text = file.read_text(encoding="utf-8")
        if old not in text:
            raise Failed(f"{file.name} has no {old}")
        file.write_text(text.replace(old, new, 1), encoding="utf-8")
        self.walk.run("git", "commit", "--quiet", "--all", "--message", "A change")

    def _pull(self, head: str, base: str) -> int:
        return int(self.ask("POST", "/pulls", {"head": head, "base": base, "title": f"{head} to {base}"})["number"])

    def _merge(self, pull: int) -> None:
        """The server needs a moment to see whether it can be merged."""
        for _ in range(60):
            if self.ask("GET", f"/pulls/{pull}")["mergeable"]:
                break
            time.sleep(1)
        self.ask("POST", f"/pulls/{pull}/merge", {"Do": "merge"})


def _require_serving(address: str, commit: str) -> None:
    said = version(address)
    if not commit.startswith(said["git_revision"]):
        raise Failed(f"{address}/version says {said}, and {commit} was to serve")


def _images(file: str, *of: str) -> list[str]:
    """The images of these services of a Compose file: those that are pulled, by the beginning of their names."""
    written = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))["services"].values()
    return sorted({one["image"] for one in written if str(one["image"]).startswith(of)})


def version(address: str) -> dict[str, Any]:
    """What serves."""
    said: dict[str, Any] = httpx.get(f"{address}/version", timeout=30).json()
    return said


@contextmanager
def _known_here(name: str) -> Iterator[None]:
    """A name that this host takes for itself."""
    line = f"127.0.0.1 {name}\n"
    with HOSTS.open("a", encoding="utf-8") as file:
        file.write(line)
    try:
        yield
    finally:
        HOSTS.write_text(HOSTS.read_text(encoding="utf-8").replace(line, ""), encoding="utf-8")


def _require_untaken() -> None:
    found = in_use(PORTS) + ([f"folder {WORK}"] if WORK.exists() else [])
    if found:
        raise NotHere(f"the names of the documentation are in use here: {', '.join(found)}")


@contextmanager
def _down_at_the_end(walk: Walk) -> Iterator[None]:
    """The environments with their data, and the folder of the runners; one that never came up has nothing to delete."""
    failed = True
    try:
        yield
        failed = False
    finally:
        if failed and walk.keep:
            say(f"real: kept for looking at it: {walk.folder}, {WORK}, the environments prod, dev and git")
        elif (walk.folder / ".venv/bin/python").exists():
            walk.invoke("env.down", "--env", "prod", "--volumes", "--yes", "--confirm", "prod")
            for environment in ("dev", "git"):
                walk.invoke("env.down", "--env", environment, "--volumes", "--yes")
            shutil.rmtree(WORK, ignore_errors=True)


ROAD = Road("forgejo", images, road)
