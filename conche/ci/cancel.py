"""ci.cancel: end a run on the server."""

from __future__ import annotations

from dataclasses import asdict

from conche.ci.forge import connect
from conche.ci.forge.values import ended
from conche.command import Invocation
from conche.outcome import Action, Kind, Outcome, Plan, Step

__all__ = ["cancel"]

RECENT = 10
"""Runs among which the newest that goes on is looked for."""


def cancel(call: Invocation, number: int | None) -> Outcome:
    """Cancel a run, without a number the newest that goes on; one that has ended is left alone."""
    forge = connect(call)
    if number is None:
        number = next((run.number for run in forge.runs(RECENT) if not ended(run.state)), None)
    run = forge.run(number)
    if ended(run.state):
        return Outcome(value=asdict(run), lines=[f"Nothing to do: run {run.number} has ended ({run.state})."])
    plan = Plan((Step(Action.CANCEL, Kind.RUN, str(run.number), f"it is {run.state}"),))
    if call.dry_run:
        return Outcome(plan=plan)
    forge.cancel(run)
    return Outcome(value={"run": run.number}, changed=True, plan=plan, lines=[run.url])
