"""ci.status: the newest runs on the server, or one run with its jobs."""

from __future__ import annotations

from dataclasses import asdict

from conche.ci.forge import connect
from conche.ci.forge.chosen import of_newest
from conche.ci.forge.runs import asked_labels, outcome_of, word
from conche.ci.forge.values import ended
from conche.ci.forge.waiting import explained
from conche.command import Invocation
from conche.outcome import Outcome, Table

__all__ = ["status"]


def status(call: Invocation, number: int | None, branch: str | None, limit: int) -> Outcome:
    """Show the newest runs, or one run with its jobs; exit code 1 if one of the newest commit, or that one, failed."""
    forge = connect(call)
    if number is not None:
        run = forge.run(number)
        jobs = forge.jobs(run)
        return outcome_of(run, jobs, explained(forge, run, jobs, asked_labels(call)))
    runs = forge.runs(limit, branch or "")
    going = next((run for run in runs if not ended(run.state)), None)
    rows = tuple(
        (str(run.number), word(run.state), run.workflow, run.branch, run.commit, run.event, run.began, run.title)
        for run in runs
    )
    columns = ("run", "state", "workflow", "branch", "commit", "event", "began", "title")
    return Outcome(
        value=[asdict(run) for run in runs],
        tables=[Table(columns, rows)] if rows else [],
        lines=[f"{forge.web}/actions" if rows else f"No runs yet: {forge.web}/actions"],
        warnings=explained(forge, going, forge.jobs(going), asked_labels(call)) if going else [],
        exit_code=1 if any(run.state == "failure" for run in of_newest(runs)) else 0,
    )
