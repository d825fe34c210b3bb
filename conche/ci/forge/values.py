"""Runs, jobs and runners in one form, whichever words a kind of server has for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Run", "ServerJob", "ServerRunner", "ended", "job_of", "run_of", "runner_of", "runs_of_tasks"]

_STATES = {
    "completed": "success", "in_progress": "running", "queued": "waiting", "pending": "waiting", "requested": "waiting",
    "canceled": "cancelled",
}  # fmt: skip
_DECIDES = ("running", "waiting", "blocked", "failure", "cancelled", "success", "skipped", "unknown")
"""The first of these states that one of its jobs is in is the state of a run: it goes on until all jobs have ended."""


@dataclass(frozen=True)
class ServerJob:
    """One job of a run; `state` is waiting, blocked, running, success, failure, cancelled, skipped or unknown."""

    id: int
    name: str
    state: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """One run of a workflow.

    Attributes:
        id: its id in the API; None if the server lists only its jobs.
        number: what people and web pages call it.
        jobs: filled if the server lists them along with the run.
    """

    id: int | None
    number: int
    title: str
    workflow: str
    branch: str
    commit: str
    event: str
    state: str
    began: str = ""
    url: str = ""
    jobs: tuple[ServerJob, ...] = ()


@dataclass(frozen=True)
class ServerRunner:
    """A runner that the server knows; `state` is the server's own word: online, offline, idle, active.

    Attributes:
        id: the API's id of this registration.
        uuid: what the runner identifies itself by; empty if the server does not tell. Two may share a name.
    """

    name: str
    state: str
    labels: tuple[str, ...]
    id: int = 0
    uuid: str = ""


def ended(state: str) -> bool:
    """Return whether nothing more will happen to a run or job."""
    return state in ("success", "failure", "cancelled", "skipped")


def _state(said: Mapping[str, Any]) -> str:
    """Return our word for a state: Gitea has separate fields for its end and its result, Forgejo has one."""
    word = str(said.get("conclusion") or said.get("status") or "unknown").lower()
    return _STATES.get(word, word)


def run_of(said: Mapping[str, Any]) -> Run:
    """Return the run in Gitea's or Forgejo's JSON."""
    workflow = str(said.get("workflow_id") or said.get("path") or "").partition("@")[0].rpartition("/")[2]
    branch = str(said.get("head_branch") or said.get("prettyref") or "")
    return Run(
        id=said["id"],
        number=int(said.get("run_number") or said.get("index_in_repo") or said["id"]),
        title=str(said.get("display_title") or said.get("title") or "").partition("\n")[0],
        workflow=workflow,
        branch=branch,
        commit=str(said.get("head_sha") or said.get("commit_sha") or "")[:10],
        # Forgejo leaves the event of a dispatched run empty.
        event=str(said.get("event") or said.get("trigger_event") or ""),
        state=_state(said),
        began=_time(said.get("started_at") or said.get("started")),
        url=str(said.get("html_url") or ""),
    )


def _time(said: Any) -> str:
    """Return a time; empty for the year 1 or 1970, which servers give for what has not begun."""
    text = str(said or "")
    return "" if text.startswith(("0001-", "1970-")) else text


def job_of(said: Mapping[str, Any]) -> ServerJob:
    """Return the job in either server's JSON."""
    labels = said.get("labels") or said.get("runs_on") or ()
    return ServerJob(said["id"], str(said.get("name", "")), _state(said), tuple(map(str, labels)))


def runs_of_tasks(said: Iterable[Mapping[str, Any]]) -> list[Run]:
    """Build runs from the list of jobs, since older servers have only that.

    A job is listed only once a runner has taken it, so all that is listed may have ended while the run has not.
    Each attempt is listed again.
    """
    by_number: dict[int, list[Mapping[str, Any]]] = {}
    for task in said:
        by_number.setdefault(int(task["run_number"]), []).append(task)
    runs = []
    for number, tasks in by_number.items():
        first = tasks[0]
        latest = {str(task["name"]): task for task in sorted(tasks, key=lambda task: int(task["id"]))}
        jobs = tuple(job_of(task) for task in latest.values())
        states = {job.state for job in jobs}
        state = next((one for one in _DECIDES if one in states), "unknown")
        run = run_of({**first, "id": 0, "started_at": first.get("run_started_at"), "html_url": first.get("url")})
        runs.append(Run(**{**vars(run), "id": None, "number": number, "state": state, "jobs": jobs}))
    return runs


def runner_of(said: Mapping[str, Any]) -> ServerRunner:
    """Return the runner in either server's JSON: Gitea's labels are objects, Forgejo's are text."""
    labels = tuple(str(one["name"] if isinstance(one, dict) else one) for one in said.get("labels") or ())
    state = "active" if said.get("busy") else str(said.get("status") or "unknown")
    return ServerRunner(str(said.get("name", "")), state, labels, int(said.get("id") or 0), str(said.get("uuid") or ""))
