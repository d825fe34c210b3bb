"""The API calls of a stand-in server, in the JSON of each kind of server."""

from __future__ import annotations

import re
import secrets
import uuid
from typing import Any, Protocol
from urllib.parse import unquote

from conche.testing.forge.git import branches, make
from conche.testing.forge.state import PROFILES, FakeForge, FakeJob, FakeRelease, FakeRun, version_of

__all__ = ["TASKS", "Calls", "Sends"]

TASKS = 1000
"""How much larger a task's id is than that of its job."""


class Sends(Protocol):
    """Sends an answer to the client."""

    forge: FakeForge

    def send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None: ...

    def send_text(self, status: int, text: str | bytes, kind: str, headers: dict[str, str] | None = None) -> None: ...


class Calls:
    """One method for each call."""

    def __init__(self, handler: Sends) -> None:
        self.send, self.text = handler.send, handler.send_text
        self.forge = handler.forge
        self.gitea = self.forge.kind == "gitea"

    def answer(self, call: str, given: dict[str, str], query: dict[str, list[str]], body: dict[str, Any]) -> None:
        getattr(self, call)(given, query, body)

    def version(self, *_: Any) -> None:
        self.send(200, {"version": PROFILES[self.forge.profile]})

    def repository(self, *_: Any) -> None:
        """Describe the repository. Rights are the account's, even if the token may only read."""
        rights = {"admin": True, "push": True, "pull": True}
        empty = self.forge.git is not None and not branches(self.forge)
        said = {"full_name": self.forge.repository, "permissions": rights, "empty": empty, **self.forge.settings}
        self.send(200, said)

    def user(self, *_: Any) -> None:
        self.send(200, {"login": self.forge.user})

    def create(self, given: dict[str, str], _: Any, body: dict[str, Any]) -> None:
        owner = given.get("organisation", self.forge.user)
        if owner != self.forge.user and owner not in self.forge.organisations:
            self.send(404, {"message": "The target couldn't be found."})
            return
        name = f"{owner}/{body['name']}"
        if name == self.forge.repository:
            self.send(409, {"message": "The repository with the same name already exists."})
            return
        self.forge.repository = name
        make(self.forge)
        self.send(201, {"full_name": name})

    def change(self, _: Any, __: Any, body: dict[str, Any]) -> None:
        self.forge.settings |= body
        self.repository()

    def protections(self, *_: Any) -> None:
        self.send(200, list(self.forge.protected.values()))

    def protect(self, _: Any, __: Any, body: dict[str, Any]) -> None:
        self.forge.protected[body["rule_name"]] = body
        self.send(201, body)

    def feeds(self, *_: Any) -> None:
        self.send(200, self.forge.feed[::-1])

    def pull(self, given: dict[str, str], *_: Any) -> None:
        found = [run for run in self.forge.runs if run.pull == int(given["number"])]
        self.send(200 if found else 404, {"head": {"ref": found[0].branch}} if found else {"message": "none"})

    def put_secret(self, given: dict[str, str], _: Any, body: dict[str, Any]) -> None:
        name = given["secret"].upper()
        if re.fullmatch(r"(?!GITEA_|GITHUB_)[A-Z_][A-Z0-9_]*", name) is None:
            self.send(400, {"message": "invalid secret name"})
            return
        if not body["data"]:
            self.send(422, {"message": "[Data]: Required"})
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
            entries = [{**one, "labels": [{"name": label} for label in one["labels"] or ()]} for one in listed]
            self.send(200, {"runners": entries, "total_count": len(entries)})
        else:
            self.send(200, listed)

    def make_runner(self, _: Any, __: Any, body: dict[str, Any]) -> None:
        """Register a runner; the same name again makes another. It has no labels until it connects and reports them."""
        number = max((int(one["id"]) for one in self.forge.runners), default=0) + 1
        runner = {
            "id": number, "uuid": str(uuid.uuid4()), "name": body["name"], "status": "offline", "labels": None,
            "owner_id": 0, "repo_id": 1,
        }  # fmt: skip
        self.forge.runners.append(runner)
        self.send(201, {"id": number, "uuid": runner["uuid"], "token": secrets.token_hex(20)})

    def remove_runner(self, given: dict[str, str], *_: Any) -> None:
        kept = [one for one in self.forge.runners if one["id"] != int(given["runner"])]
        there, self.forge.runners[:] = len(kept) < len(self.forge.runners), kept
        self.send(204 if there else 404, {})

    def pending(self, _: Any, query: dict[str, list[str]], *__: Any) -> None:
        """List the jobs that wait; those being worked on are listed too."""
        asked = set(",".join(query.get("labels", [])).split(","))
        said: list[dict[str, Any]] = [
            {"id": job.id, "name": job.name, "runs_on": job.labels, "status": job.states[0]}
            for run in self.forge.runs for job in run.jobs if job.states[0] in ("waiting", "running")
        ]  # fmt: skip
        self.send(200, [one for one in said if set(one["runs_on"]) <= asked] or None)

    def tasks(self, *_: Any) -> None:
        """List the tasks: a job becomes a task, with an id of its own, once a runner has taken it."""
        listed = [(run, job, job.next_state()) for run in self.forge.runs if run.shown() for job in run.jobs]
        entries = [
            {
                "id": TASKS + job.id, "name": job.name, "head_branch": self._pretty(run), "head_sha": run.sha,
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
            for run in self.forge.runs if run.sha.startswith(given["sha"]) and run.event in ("push", "pull_request")
            for number, job in enumerate(run.jobs)
            if job.id not in self.forge.of_attempts_before
        ]  # fmt: skip
        self.send(200, {"statuses": states, "total_count": len(states)})

    def runs(self, *_: Any) -> None:
        entries = [self._run(run) for run in self.forge.runs if run.shown()]
        self.send(200, {"total_count": len(entries), "workflow_runs": entries})

    def _run(self, run: FakeRun) -> dict[str, Any]:
        states = [job.next_state() for job in run.jobs]
        state = next((one for one in ("failure", "cancelled", "running", "waiting") if one in states), "success")
        page = f"{self.forge.address}/{self.forge.repository}/actions/runs/{run.number}"
        if not self.gitea:
            return {
                "id": run.id, "index_in_repo": run.number, "title": run.title, "prettyref": self._pretty(run),
                "commit_sha": run.sha, "event": "" if run.event == "workflow_dispatch" else run.event,
                "trigger_event": run.event, "status": state, "workflow_id": run.workflow,
                "html_url": page, "started": "2026-01-01T00:00:00Z",
            }  # fmt: skip
        return {
            "id": run.id, "run_number": run.number, "display_title": run.title, "head_branch": run.branch,
            "head_sha": run.sha, "event": run.event, "path": f"{run.workflow}@refs/heads/{run.branch}",
            "html_url": page, "started_at": "2026-01-01T00:00:00Z", **_gitea(state),
        }  # fmt: skip

    def _pretty(self, run: FakeRun) -> str:
        return f"#{run.pull}" if run.pull else run.branch

    def jobs(self, given: dict[str, str], *_: Any) -> None:
        run = self._find(given["run"])
        if run is not None:
            entries = [
                {"id": job.id, "name": job.name, "runs_on": job.labels, **self._state(job.states[0])}
                for job in run.jobs
            ]
            self.send(200, {"jobs": entries, "total_count": len(entries)} if self.gitea else entries)

    def _state(self, state: str) -> dict[str, str]:
        return _gitea(state) if self.gitea else {"status": state}

    def log_page(self, given: dict[str, str], *_: Any) -> None:
        """Hand out a log as the web page does, which knows no tokens: of a public repository alone."""
        job = self._job_at(int(given["run"]), int(given["place"]))
        if self.forge.settings["private"] or job is None:
            self.text(404, "<html><title>Not found</title></html>", "text/html; charset=utf-8")
        elif given["attempt"] != "1":
            self.text(500, "<html><title>Error</title></html>", "text/html; charset=utf-8")
        else:
            name = {"Content-Disposition": f"attachment; filename=ci-{job.name}-{TASKS + job.id}.log"}
            self.text(200, job.log, "text/plain; charset=utf-8", name)

    def _job_at(self, number: int, place: int) -> FakeJob | None:
        jobs = next((run.jobs for run in self.forge.runs if run.number == number), [])
        return jobs[place] if place < len(jobs) else None

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
        """Start a workflow. Forgejo reports a missing ref or workflow as an internal error, without saying why."""
        lacks = 404 if self.gitea else 500
        if body["ref"].removeprefix("refs/heads/") not in self._branches():
            self.send(lacks, {"message": f"reference does not exist [ref: {body['ref']}]" if self.gitea else ""})
            return
        if given["workflow"] not in {run.workflow for run in self.forge.runs} | {"ci-cd-dual.yml"}:
            self.send(lacks, {"message": "workflow not found" if self.gitea else ""})
            return
        self.forge.dispatched.append({"workflow": given["workflow"], **body})
        run = self._dispatched(given["workflow"], body["ref"].removeprefix("refs/heads/"))
        page = f"{self.forge.address}/{self.forge.repository}/actions/runs/{run.number}"
        if self.gitea and query.get("return_run_details") == ["true"] and version_of(self.forge.profile) >= 1.26:
            self.send(200, {"workflow_run_id": run.id, "html_url": page})
        elif not self.gitea and body.get("return_run_info") and version_of(self.forge.profile) >= 11:
            self.send(201, {"id": run.id, "run_number": run.number, "jobs": [job.name for job in run.jobs]})
        else:
            self.send(204, {})

    def tag(self, given: dict[str, str], *_: Any) -> None:
        commit = self.forge.tags.get(unquote(given["tag"]))
        self.send(200 if commit else 404, {"name": given["tag"], "commit": {"sha": commit}} if commit else {})

    def releases(self, *_: Any) -> None:
        """List the newest fifty, as a server does."""
        self.send(200, [self._release(one) for one in self.forge.releases[:-51:-1]])

    def release_of_tag(self, given: dict[str, str], *_: Any) -> None:
        found = next((one for one in self.forge.releases if one.tag == unquote(given["tag"]) and not one.draft), None)
        self.send(200 if found else 404, self._release(found) if found else {})

    def make_release(self, _: Any, __: Any, body: dict[str, Any]) -> None:
        release = FakeRelease(len(self.forge.releases) + 1, body["tag_name"], body.get("body", ""), body["draft"])
        self.forge.releases.append(release)
        self.send(201, self._release(release))

    def change_release(self, given: dict[str, str], _: Any, body: dict[str, Any]) -> None:
        release = self.forge.releases[int(given["release"]) - 1]
        release.draft, release.notes = body["draft"], body.get("body", release.notes)
        self.send(200, self._release(release))

    def attach(self, given: dict[str, str], query: dict[str, list[str]], body: dict[str, Any]) -> None:
        """Attach a file, beside another of its name if there is one."""
        release = self.forge.releases[int(given["release"]) - 1]
        number = max((one for each in self.forge.releases for one in each.files), default=0) + 1
        release.files[number] = (query["name"][0], body["attachment"])
        self.send(201, {"id": number, "name": query["name"][0], "size": len(body["attachment"])})

    def detach(self, given: dict[str, str], *_: Any) -> None:
        gone = self.forge.releases[int(given["release"]) - 1].files.pop(int(given["asset"]), None)
        self.send(204 if gone else 404, {})

    def download(self, given: dict[str, str], *_: Any) -> None:
        """Hand out a file by its name; of several, the oldest."""
        tag, name = unquote(given["tag"]), unquote(given["file"])
        files = [one for release in self.forge.releases if release.tag == tag for one in release.files.values()]
        found = next((content for called, content in files if called == name), None)
        self.text(200 if found is not None else 404, found or b"", "application/octet-stream")

    def _release(self, release: FakeRelease) -> dict[str, Any]:
        files = [{"id": id_, "name": name, "size": len(content)} for id_, (name, content) in release.files.items()]
        page = f"{self.forge.address}/{self.forge.repository}/releases/tag/{release.tag}"
        return {
            "id": release.id, "tag_name": release.tag, "name": release.tag, "body": release.notes,
            "draft": release.draft, "html_url": page, "assets": files,
        }  # fmt: skip

    def _dispatched(self, workflow: str, branch: str) -> FakeRun:
        """Make the run of a dispatch, which no runner takes."""
        number = max((run.number for run in self.forge.runs), default=0) + 1
        jobs = [FakeJob(100 * number, "one", ["waiting"])]
        run = FakeRun(1000 + number, number, jobs, branch=branch, workflow=workflow, event="workflow_dispatch")
        self.forge.runs.append(run)
        return run

    def _branches(self) -> set[str]:
        return self.forge.refs | set(branches(self.forge))

    def branch(self, given: dict[str, str], *_: Any) -> None:
        name, heads = unquote(given["branch"]), branches(self.forge)
        newest = {run.branch: run.sha for run in self.forge.runs}
        if name not in self._branches() | newest.keys():
            self.send(404, {"message": "not found"})
        else:
            self.send(200, {"name": name, "commit": {"id": heads.get(name) or newest.get(name, "")}})

    def _find(self, number: str) -> FakeRun | None:
        run = next((run for run in self.forge.runs if run.id == int(number)), None)
        if run is None:
            self.send(404, {"message": "run not found"})
        return run


def _gitea(state: str) -> dict[str, str]:
    over = state in ("success", "failure", "cancelled", "skipped")
    running = {"running": "in_progress", "waiting": "queued"}
    return {"status": "completed", "conclusion": state} if over else {"status": running.get(state, state)}
