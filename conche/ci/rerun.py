"""ci.rerun: run a run on the server again."""

from __future__ import annotations

from conche.ci.forge import connect
from conche.command import Invocation
from conche.outcome import Action, Kind, Outcome, Plan, Step

__all__ = ["rerun"]


def rerun(call: Invocation, number: int | None, *, failed: bool) -> Outcome:
    """Run all jobs of a run again, or only those that failed."""
    forge = connect(call)
    run = forge.run(number)
    plan = Plan((Step(Action.START, Kind.RUN, f"{run.number}" + (", failed jobs" if failed else ""), "asked for"),))
    if call.dry_run:
        return Outcome(plan=plan)
    forge.rerun(run, failed=failed)
    return Outcome(value={"run": run.number}, changed=True, plan=plan, lines=[run.url])
