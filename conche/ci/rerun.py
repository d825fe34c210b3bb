"""ci.rerun: run a run on the server again."""

from __future__ import annotations

from conche.ci.forge import Forge, Run, connect
from conche.ci.forge.chosen import meant
from conche.ci.workflows.workflow import workflows
from conche.command import Invocation
from conche.errors import Refused
from conche.outcome import Action, Kind, Outcome, Plan, Step

__all__ = ["rerun"]


def rerun(call: Invocation, number: int | None, *, failed: bool) -> Outcome:
    """Run all jobs of a run again, or only those that failed."""
    forge = connect(call)
    run = meant(call, forge, number, failed=True)
    plan = Plan((Step(Action.START, Kind.RUN, f"{run.number}" + (", failed jobs" if failed else ""), "asked for"),))
    if call.dry_run:
        return Outcome(plan=plan)
    try:
        forge.rerun(run, failed=failed)
    except Refused as error:
        raise _or_dispatch(call, forge, run, error) from error
    return Outcome(value={"run": run.number}, changed=True, plan=plan, lines=[run.url])


def _or_dispatch(call: Invocation, forge: Forge, run: Run, error: Refused) -> Refused:
    """Add the dispatch that does the same, if the workflow can be started by hand."""
    if error.code != "server-lacks-this":
        return error
    try:
        read = {one.file.rpartition("/")[2]: one for one in workflows(call.root, call.stack)}
    except Refused:
        return error
    branch = forge.branch_of(run)
    by_hand = read[run.workflow].triggers.get("workflow_dispatch") if run.workflow in read else None
    if by_hand is None or not branch:
        return error
    inputs = by_hand.get("inputs") or {}
    asked = [f" --inputs {name}=VALUE" for name, one in inputs.items() if isinstance(one, dict) and one.get("required")]
    dispatch = f"invoke ci.dispatch {run.workflow} --ref {branch}{''.join(asked)}"
    return Refused(
        error.code,
        error.message,
        looked_at=error.looked_at,
        next_command=f"{error.next_command}\n{dispatch}    # all its jobs, on what {branch} is now",
    )
