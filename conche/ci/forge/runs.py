"""What the tasks on runs share: which labels the workflows here ask for, and how a run is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from conche.ci.forge.values import Run, ServerJob, ended
from conche.ci.workflows.workflow import workflows
from conche.command import Invocation
from conche.errors import Refused
from conche.outcome import Outcome, Table

__all__ = ["asked_labels", "outcome_of", "word"]

_WORDS = {"success": "ok", "failure": "failed", "waiting": "starting"}
"""States as the words that tables colour."""


def outcome_of(run: Run, jobs: Sequence[ServerJob], why: Sequence[str] = ()) -> Outcome:
    """Return a run and its jobs as an outcome; exit code 1 if the run failed or was cancelled.

    Args:
        why: what keeps it, in words.
    """
    rows = tuple((job.name, word(job.state), ", ".join(job.labels)) for job in jobs)
    # Servers without a list of runs show waiting jobs as commit statuses, and only for these events.
    unsure = run.id is None and ended(run.state) and not run.event.startswith(("push", "pull_request"))
    title = f"run {run.number} of {run.workflow} on {run.branch}: {run.state}"
    read = [f"what its jobs wrote: invoke ci.logs --run {run.number}"] * (run.state == "failure")
    return Outcome(
        value={**asdict(run), "jobs": [asdict(job) for job in jobs]},
        tables=[Table(("job", "state", "labels"), rows, title=title)] if rows else [],
        lines=[*([] if rows else [title]), run.url, *read],
        warnings=[
            *[f"this server does not tell whether a {run.event} run has jobs that wait for a runner"] * unsure,
            *why,
        ],
        exit_code=1 if run.state in ("failure", "cancelled") else 0,
    )


def word(state: str) -> str:
    """Return the word for a state of a run or job."""
    return _WORDS.get(state, state)


def asked_labels(call: Invocation) -> set[str]:
    """Return the labels that the workflows here ask for; none if they cannot be read."""
    try:
        read = workflows(call.root, call.stack)
    except Refused:
        return set()
    return {label for one in read for job in one.jobs.values() for label in job.runs_on}
