"""ci.validate: check every workflow file by our own rules and with the tools."""

from __future__ import annotations

import re
from dataclasses import asdict

from conche.ci.checks.examine import examine
from conche.ci.checks.findings import Complaint
from conche.ci.workflows.document import WorkflowInvalid, read_each
from conche.ci.workflows.invoked import reader
from conche.ci.workflows.surroundings import surroundings
from conche.ci.workflows.workflow import parse
from conche.command import Invocation
from conche.outcome import Outcome, Table

__all__ = ["validate"]


def validate(call: Invocation) -> Outcome:
    """Report every finding in every workflow; exit code 1 if there is one."""
    documents, broken = read_each(call.root, call.stack.ci.workflows)
    read = [parse(document) for document in documents]
    around = surroundings(call.root, call.stack, reader(call.root))
    found = sorted([*(_unreadable(*one) for one in broken.items()), *examine(call.root, read, around)])
    jobs = sum(len(workflow.jobs) for workflow in read)
    rows = tuple((f"{one.file}:{one.line}", one.rule, one.message) for one in found)
    names = sorted([*broken, *(workflow.file for workflow in read)])
    files = ", ".join(names)
    said = f"{len(found)} findings in {files}" if found else f"{len(read)} workflows, {jobs} jobs: nothing found"
    unknown = ["labels were not checked, as no runner is known: set ci.labels in stack.yaml"]
    return Outcome(
        value={"files": names, "findings": [asdict(one) for one in found]},
        tables=[Table(("where", "rule", "what"), rows)] if rows else [],
        lines=[said],
        warnings=unknown if around.labels is None else [],
        exit_code=1 if found else 0,
    )


def _unreadable(file: str, error: WorkflowInvalid) -> Complaint:
    """Return the finding for a file that a server would turn into a failed run, without jobs and without a reason."""
    place = re.search(r":(\d+):\d+ is not YAML", error.message)
    return Complaint(file, int(place[1]) if place else 1, "unreadable", error.message)
