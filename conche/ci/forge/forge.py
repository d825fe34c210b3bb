"""Ask a server of any kind and version; what its version lacks is refused with the address of a web page."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any
from urllib.parse import quote

from conche.ci.forge.client import Client
from conche.ci.forge.routes import ROUTES, Route, Server, find, first_versions
from conche.ci.forge.values import Run, ServerJob, ServerRunner, job_of, run_of, runner_of, runs_of_tasks
from conche.errors import ConcheError, KeyUnusable, NotFound, Refused, Unreachable
from conche.secret import Secret

__all__ = ["LARGEST_LOG", "Forge"]

LARGEST_LOG = 16 << 20
"""Bytes of a log that are read; of a larger one the end."""

MOST_ATTEMPTS = 5
"""How many attempts of a job are asked for one by one: Forgejo's API does not number them."""

WHAT = {
    "secret-put": "storing a secret",
    "secret-list": "the list of secrets",
    "registration-token": "a runner's registration token",
    "runner-list": "the list of runners",
    "runner-create": "registering a runner",
    "runner-remove": "removing a runner",
    "job-waiting": "the jobs that wait for a runner",
    "task-list": "the list of jobs",
    "run-list": "the list of runs",
    "run-jobs": "the jobs of a run",
    "job-log": "a job's log",
    "rerun": "running again",
    "rerun-failed": "running failed jobs again",
    "cancel": "cancelling",
    "dispatch": "starting a workflow",
}


class Forge:
    """One repository on one server."""

    def __init__(self, client: Client, repository: str) -> None:
        self.client = client
        self.repository = repository
        self._heads: dict[str, str] = {}

    @cached_property
    def server(self) -> Server:
        return self.client.server()

    @property
    def web(self) -> str:
        """The repository's page."""
        return f"{self.client.address}/{self.repository}"

    def can(self, operation: str) -> bool:
        """Return whether this server's version has an operation."""
        return find(self.server, operation) is not None

    def operations(self) -> dict[str, bool]:
        """Return every operation, and whether this server has it."""
        return {operation: self.can(operation) for operation in dict.fromkeys(route.operation for route in ROUTES)}

    def described(self) -> Mapping[str, Any]:
        """Return the server's description of the repository: permissions, whether Actions are on."""
        try:
            said: Mapping[str, Any] = self.client.json("GET", f"/repos/{self.repository}")
        except NotFound as error:
            raise self._no_repository(error) from error
        return said

    def exists(self) -> bool:
        """Return whether the server has the repository, as far as the token may see."""
        try:
            self.described()
        except NotFound:
            return False
        return True

    def user(self) -> str:
        """Return the account that the token belongs to."""
        return str(self.client.json("GET", "/user")["login"])

    def create(self) -> None:
        """Create the repository, private and empty."""
        owner, _, name = self.repository.partition("/")
        path = "/user/repos" if owner == self.user() else f"/orgs/{quote(owner)}/repos"
        self.client.json("POST", path, {"name": name, "private": True, "auto_init": False, "default_branch": "main"})

    def switch_actions(self, *, on: bool) -> None:
        """Turn Actions on or off: whether pushes start workflows."""
        self.client.json("PATCH", f"/repos/{self.repository}", {"has_actions": on})

    def tells_push(self, branch: str, commit: str) -> bool:
        """Return whether the repository's feed shows a push: the server handles it from a queue after git has ended."""
        told = self._entries(self.client.json("GET", f"/repos/{self.repository}/activities/feeds?limit=50") or [])
        of_branch = (one for one in told if str(one.get("ref_name")).removeprefix("refs/heads/") == branch)
        return any(commit in str(one.get("content")) for one in of_branch)

    def protected(self) -> set[str]:
        """Return the branches, or patterns of branches, that have protection rules."""
        said = self._entries(self.client.json("GET", f"/repos/{self.repository}/branch_protections") or [])
        return {str(one.get("rule_name") or one.get("branch_name")) for one in said}

    def protect(self, branch: str) -> None:
        """Forbid pushes to a branch: it changes through pull requests only."""
        rule = {"rule_name": branch, "branch_name": branch, "enable_push": False}
        self.client.json("POST", f"/repos/{self.repository}/branch_protections", rule)

    def runs(self, limit: int, branch: str = "") -> list[Run]:
        """Return the newest runs, newest first."""
        return [self.settled(run) for run in self.listed(limit, branch)]

    def listed(self, limit: int, branch: str) -> list[Run]:
        """Return the newest runs in the states that the server lists, newest first."""
        if self.can("run-list"):
            said = self._entries(self._json("run-list", query={"limit": 50}))
            runs = [run_of(one) for one in said]
        else:
            runs = runs_of_tasks(self._entries(self._json("task-list", query={"limit": 50})))
        found = [run for run in runs if not branch or self._is_of(run, branch)]
        return sorted(found, key=lambda run: run.number, reverse=True)[:limit]

    def branch_of(self, run: Run) -> str:
        """Return the branch of a run, of a pull request's that which is to be merged; empty if it is not known."""
        name = run.branch.removeprefix("refs/heads/")
        return self._head_of(name[1:]) if name.startswith("#") else name

    def _is_of(self, run: Run, branch: str) -> bool:
        """Return whether a run is of a branch, or of a pull request named by its number or source branch."""
        name = run.branch.removeprefix("refs/heads/")
        if not name.startswith("#"):
            return name == branch
        return branch.removeprefix("#") == name[1:] or self._head_of(name[1:]) == branch

    def _head_of(self, pull: str) -> str:
        if pull not in self._heads:
            try:
                said = self.client.json("GET", f"/repos/{self.repository}/pulls/{quote(pull)}")
                self._heads[pull] = str((said.get("head") or {}).get("ref") or "")
            except NotFound:
                self._heads[pull] = ""
        return self._heads[pull]

    def runs_of(self, commit: str) -> list[Run]:
        """Return the runs of a commit, newest first; none while the server has created none."""
        return [run for run in self.listed(50, "") if run.commit and commit.startswith(run.commit)]

    def run(self, number: int | None, branch: str = "") -> Run:
        """Return the run of that number, or the newest.

        Raises:
            NotFound: there is none among the newest fifty.
        """
        runs = self.listed(50, branch)
        chosen = [run for run in runs if number is None or run.number == number]
        if not chosen:
            known = ", ".join(str(run.number) for run in runs[:10]) or "none"
            raise NotFound(
                "no-such-run",
                f"{self.repository} has no run {number if number is not None else 'yet'}.",
                looked_at=[f"runs: {known}"],
                next_command="invoke ci.status",
            )
        return self.settled(chosen[0])

    def settled(self, run: Run) -> Run:
        """Return the run, still running if it seems to have succeeded but some of its jobs are pending.

        That can happen to a run that is known only by its listed jobs. When a run begins, servers write a commit
        status for every job.
        """
        if run.id is not None or run.state != "success":
            return run
        try:
            said = self.client.json("GET", f"/repos/{self.repository}/commits/{quote(run.commit)}/status?limit=50")
        except NotFound:
            return run
        pages = [str(one.get("target_url")) for one in said.get("statuses") or () if one.get("status") == "pending"]
        pending = any(f"/actions/runs/{run.number}/" in page for page in pages)
        return replace(run, state="running") if pending else run

    def jobs(self, run: Run) -> tuple[ServerJob, ...]:
        """Return the jobs of a run: from the run itself or the list of jobs, or none if the server has neither."""
        if run.id is not None and self.can("run-jobs"):
            return tuple(job_of(one) for one in self._entries(self._json("run-jobs", run=run.id)))
        if run.jobs or not self.can("task-list"):
            return run.jobs
        listed = runs_of_tasks(self._entries(self._json("task-list", query={"limit": 50})))
        return next((one.jobs for one in listed if one.number == run.number), ())

    def log(self, job: ServerJob, page: str = "") -> str:
        """Return the log of a job.

        Args:
            page: of its run, where a person can read the log.
        """
        route = self._route("job-log", page)
        return self.client.text(f"/api/v1{self._path(route, job=job.id)}", LARGEST_LOG)

    def public_log(self, run: Run, job: ServerJob) -> str:
        """Return the log of a job from its page, which Forgejo hands out without a session if the repository is public.

        Args:
            job: from the list of tasks, whose ids the page's name for the file ends with.

        Raises:
            NotFound: the server does not hand it out, or does not tell which of the run's jobs it is.
        """
        said = self.client.json("GET", f"/repos/{self.repository}/commits/{quote(run.commit)}/status?limit=50")
        pages = {str(one.get("target_url")): str(one.get("context")) for one in said.get("statuses") or ()}
        wanted = re.compile(rf"/actions/runs/{run.number}/jobs/(\d+)$")
        of_job = [
            found[1] for page, name in pages.items() if f"/ {job.name} (" in name and (found := wanted.search(page))
        ]
        for place, attempt in itertools.product(of_job, range(1, MOST_ATTEMPTS + 1)):
            page = f"/{self.repository}/actions/runs/{run.number}/jobs/{place}/attempt/{attempt}/logs"
            # Forgejo answers an attempt that there was not with an internal error.
            with contextlib.suppress(NotFound, Unreachable):
                return self.client.text(page, LARGEST_LOG, f"-{job.id}.log")
        raise NotFound("server-has-no-such-thing", f"{self.client.address} hands out no log of {job.name}.")

    def dispatch(self, workflow: str, ref: str, inputs: Mapping[str, str]) -> str:
        """Start a workflow; return the page of its run, or of all runs if the server does not say which.

        Raises:
            NotFound: the server has no such branch or tag.
        """
        body = {"ref": ref, "inputs": dict(inputs), "return_run_info": True}
        query = {"return_run_details": "true"} if self.server.kind == "gitea" else {}
        try:
            said = self._json("dispatch", body, query=query, workflow=workflow)
        except (NotFound, Unreachable) as error:
            # Forgejo reports a missing ref as an internal error, and tells only administrators why.
            if error.code in ("server-failed", "server-has-no-such-thing"):
                self._require_ref(ref, error)
            raise
        number = said.get("run_number")
        return str(said.get("html_url") or (f"{self.web}/actions/runs/{number}" if number else f"{self.web}/actions"))

    def head(self, branch: str) -> str:
        """Return the commit of a branch on the server; an empty text if there is none."""
        try:
            said = self.client.json("GET", f"/repos/{self.repository}/branches/{quote(branch)}")
        except NotFound:
            return ""
        return str((said.get("commit") or {}).get("id") or "")

    def _require_ref(self, ref: str, error: ConcheError) -> None:
        if re.fullmatch(r"[0-9a-f]{7,64}", ref):
            return
        name = quote(ref.removeprefix("refs/heads/").removeprefix("refs/tags/"))
        for kind in ("branches", "tags"):
            try:
                self.client.json("GET", f"/repos/{self.repository}/{kind}/{name}")
            except NotFound:
                continue
            return
        raise NotFound(
            "no-such-ref",
            f"{self.repository} has no branch or tag {ref} on the server.",
            looked_at=error.looked_at,
            evidence=error.evidence,
            next_command=f"git push REMOTE {ref}    # or another --ref",
        ) from error

    def rerun(self, run: Run, *, failed: bool) -> None:
        """Run all jobs of a run again, or only those that failed."""
        self._route("rerun-failed" if failed else "rerun", run.url)
        self._json("rerun-failed" if failed else "rerun", {}, run=run.id)

    def cancel(self, run: Run) -> None:
        """Cancel a run."""
        self._route("cancel", run.url)
        self._json("cancel", {}, run=run.id)

    def put_secret(self, name: str, value: Secret) -> bool:
        """Put an Actions secret; return whether it is new."""
        route = self._route("secret-put")
        answer = self.client.call(route.method, self._path(route, name=name), {"data": value.reveal()})
        return answer.status_code == 201

    def secret_names(self) -> list[str]:
        """Return the names of the Actions secrets; servers never tell the values."""
        return sorted(str(one["name"]) for one in self._entries(self._json("secret-list")))

    def runners(self, *, own: bool = False) -> list[ServerRunner]:
        """Return the repository's runners; on Forgejo also those of the whole server that serve it, unless `own`."""
        query = {"visible": "true"} if self.server.kind == "forgejo" and not own else {}
        return [runner_of(one) for one in self._entries(self._json("runner-list", query=query))]

    def create_runner(self, name: str) -> tuple[str, Secret]:
        """Register a runner for this repository only; return the uuid and the token with which it is to connect."""
        said = self._json("runner-create", {"name": name, "ephemeral": False})
        return str(said["uuid"]), Secret(str(said["token"]))

    def remove_runner(self, runner: ServerRunner) -> None:
        """Remove a registration: its token is refused from then on."""
        self._json("runner-remove", runner=runner.id)

    def waiting(self, labels: Iterable[str]) -> list[ServerJob]:
        """Return the jobs that wait for a runner with some or all of these labels.

        Forgejo's list also contains those that a runner is working on.
        """
        said = self._json("job-waiting", query={"labels": quote(",".join(sorted(labels)))})
        jobs = [job_of(one) for one in self._entries(said or [])]
        return [job for job in jobs if job.state == "waiting"]

    def may_write(self) -> bool:
        """Return whether the token may change this repository, by asking for a change that no server carries out.

        No secret's name may begin with GITHUB_, but a token that may not write is refused before the name is checked.
        """
        route = self._route("secret-put")
        try:
            self.client.call(route.method, self._path(route, name="GITHUB_"), {"data": "x"})
        except KeyUnusable:
            return False
        except ConcheError:
            return True
        return True

    def registration_token(self) -> Secret:
        """Return the token with which a runner registers itself."""
        return Secret(str(self._json("registration-token")["token"]))

    def _json(
        self, operation: str, body: Mapping[str, Any] | None = None, *, query: Mapping[str, Any] | None = None,
        **parts: object,
    ) -> Any:  # fmt: skip
        route = self._route(operation)
        asked = self._path(route, **parts) + ("?" + "&".join(f"{k}={v}" for k, v in query.items()) if query else "")
        try:
            return self.client.json(route.method, asked, body if route.method != "GET" else None)
        except NotFound as error:
            self.described()
            if parts:
                raise
            raise self._lacking(operation) from error

    def require(self, operation: str, page: str) -> None:
        """Refuse, with a page to open instead, if this server's version lacks an operation."""
        self._route(operation, page)

    def _route(self, operation: str, page: str = "") -> Route:
        route = find(self.server, operation)
        if route is None:
            raise self._lacking(operation, page)
        return route

    def _path(self, route: Route, **parts: object) -> str:
        return route.path.format(repository=self.repository, **{k: quote(str(v), safe="") for k, v in parts.items()})

    def _lacking(self, operation: str, page: str = "") -> Refused:
        return Refused(
            "server-lacks-this",
            f"{self.server} has no API for {WHAT[operation]}.",
            looked_at=[f"it is there in {first_versions(operation)}"],
            next_command=f"open {page or self._page(operation)}",
        )

    def _page(self, operation: str) -> str:
        """Return the page where a person does by hand what the API cannot do."""
        if operation.startswith("secret"):
            return f"{self.web}/settings/actions/secrets"
        if operation.startswith(("runner", "registration")):
            return f"{self.web}/settings/actions/runners"
        return f"{self.web}/actions"

    def _no_repository(self, error: NotFound) -> NotFound:
        return NotFound(
            "no-such-repository",
            f"{self.client.address} has no repository {self.repository}, or the token cannot see it.",
            looked_at=error.looked_at,
            next_command="correct ci.repository in stack.yaml, or git's origin\ninvoke ci.doctor",
        )

    @staticmethod
    def _entries(said: Any) -> Iterable[Mapping[str, Any]]:
        """Return the list in an answer: Gitea wraps it in an object with a count, Forgejo mostly does not."""
        if isinstance(said, list):
            return said
        return next((value for value in said.values() if isinstance(value, list)), [])
