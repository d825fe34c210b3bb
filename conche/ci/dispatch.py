"""ci.dispatch: start a workflow on the server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from conche.ci.forge import connect
from conche.ci.workflows.workflow import workflows
from conche.command import Invocation
from conche.errors import NotFound, Refused, did_you_mean
from conche.outcome import Action, Kind, Outcome, Plan, Step

__all__ = ["dispatch"]


def dispatch(call: Invocation, workflow: str, ref: str | None, inputs: Sequence[str]) -> Outcome:
    """Start a workflow that has `on: workflow_dispatch`."""
    given = dict(_pair(one) for one in inputs)
    known = {Path(one.file).name: one for one in workflows(call.root, call.stack)}
    file = next((name for name in known if workflow in (name, Path(name).stem)), None)
    if file is None:
        raise NotFound(
            "no-such-workflow",
            f"There is no workflow {workflow!r}.{did_you_mean(workflow, known)}",
            looked_at=[f"workflows: {', '.join(known)}"],
            next_command="invoke ci.graph",
        )
    if "workflow_dispatch" not in known[file].triggers:
        raise Refused(
            "workflow-not-dispatched",
            f"{file} cannot be started by hand: it has no `workflow_dispatch` under `on`.",
            next_command=f"add workflow_dispatch to {known[file].file}, push, and try again",
        )
    forge, branch = connect(call), ref or _main(call)
    plan = Plan((Step(Action.START, Kind.WORKFLOW, f"{file} on {branch}", "asked for"),))
    if call.dry_run:
        return Outcome(plan=plan)
    page = forge.dispatch(file, branch, given)
    return Outcome(value={"workflow": file, "ref": branch, "url": page}, changed=True, plan=plan, lines=[page])


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise Refused(
            "input-malformed",
            f"{text!r} is not an input of the form NAME=VALUE.",
            next_command="invoke ci.dispatch WORKFLOW --inputs NAME=VALUE",
        )
    return name, value


def _main(call: Invocation) -> str:
    protected = [one.branch for one in call.stack.environments.values() if one.branch and one.protected]
    return str(connect(call).described().get("default_branch") or (protected or ["main"])[0])
