"""Our own rules for workflows: needs, outputs, labels, contexts, secrets, actions.

No tool checks these: servers read a wrong output as empty text and leave a job with an unknown label waiting.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

from conche.ci.checks.findings import Complaint
from conche.ci.workflows.document import Where
from conche.ci.workflows.expressions import CONTEXTS, FUNCTIONS, GITHUB, Expression, Name, expressions
from conche.ci.workflows.surroundings import Surroundings
from conche.ci.workflows.workflow import Job, Workflow
from conche.errors import did_you_mean

__all__ = ["OLDEST", "examine"]

OLDEST = {"checkout": 4, "setup-python": 5, "setup-node": 4, "cache": 4, "upload-artifact": 3, "download-artifact": 3}
"""The first major version of each action in `actions/` that runs on Node.js 20; runners no longer have older Node.js.

The artifact actions are the exception: Gitea before 1.26 supports only their version 3.

Source: https://github.blog/changelog/2023-09-22-github-actions-transitioning-from-node-16-to-node-20/
"""

_ACTION = re.compile(r"(?:https?://[^/]+/)?actions/(?P<name>[\w-]+)@v(?P<major>\d+)")

_INSTEAD = {
    **dict.fromkeys(("gitea", "forgejo"), " Write github, which every server and act understand."),
    "jobs": " Write needs; jobs is for the outputs of on.workflow_call.",
}


def examine(workflow: Workflow, around: Surroundings) -> Iterator[Complaint]:
    """Yield everything that these rules find in one workflow."""
    found = _Found(workflow)
    yield from _needs(found)
    yield from _labels(found, around)
    yield from _actions(found)
    for expression in expressions(workflow.document):
        yield from _expression(found, expression, around)


class _Found:
    """Makes the findings of one workflow, with the line of their place."""

    def __init__(self, workflow: Workflow) -> None:
        self.workflow = workflow

    def __call__(self, rule: str, where: Where, message: str) -> Complaint:
        return Complaint(self.workflow.file, self.workflow.document.line(where), rule, message)


def _needs(found: _Found) -> Iterator[Complaint]:
    jobs = found.workflow.jobs
    for job in jobs.values():
        for other in job.needs:
            if other not in jobs:
                text = f"{job.name} needs {other!r}, but the workflow has no such job.{did_you_mean(other, jobs)}"
                yield found("needs-unknown", (*job.where, "needs"), text)
    try:
        TopologicalSorter({name: [one for one in job.needs if one in jobs] for name, job in jobs.items()}).prepare()
    except CycleError as error:
        circle = error.args[1]
        yield found("needs-cycle", ("jobs", circle[0], "needs"), f"{' -> '.join(reversed(circle))} need each other.")


def _labels(found: _Found, around: Surroundings) -> Iterator[Complaint]:
    if around.labels is None:
        return
    for job in found.workflow.jobs.values():
        for label in job.runs_on:
            if label not in around.labels:
                known = ", ".join(sorted(around.labels))
                text = f"no runner has the label {label!r}; the labels are {known}.{did_you_mean(label, around.labels)}"
                yield found("label-unknown", (*job.where, "runs-on"), text)


def _actions(found: _Found) -> Iterator[Complaint]:
    for job in found.workflow.jobs.values():
        for step in job.steps:
            action = _ACTION.fullmatch(step.uses)
            oldest = OLDEST.get(action["name"], 0) if action else 0
            if action and int(action["major"]) < oldest:
                text = f"{step.uses} is retired; v{oldest} is the oldest that still runs."
                yield found("action-retired", (*step.where, "uses"), text)


def _expression(found: _Found, expression: Expression, around: Surroundings) -> Iterator[Complaint]:
    where = expression.where
    if where[-1:] == ("run",):
        text = f"${{{{ {expression.text} }}}} is inside run; put it into the step's env and read the variable."
        yield found("expression-in-run", where, text)
    for name in expression.names():
        if name.call:
            if name.parts[0] not in FUNCTIONS:
                yield found("context-unknown", where, f"there is no function {name}().")
        elif name.parts[0] not in CONTEXTS or (name.parts[0] == "jobs" and where[:1] != ("on",)):
            hint = _INSTEAD.get(name.parts[0]) or did_you_mean(name.parts[0], CONTEXTS)
            yield found("context-unknown", where, f"there is no context {name.parts[0]!r} (in {name}).{hint}")
        else:
            yield from _in_context(found, expression, name, around)


def _in_context(found: _Found, expression: Expression, name: Name, around: Surroundings) -> Iterator[Complaint]:
    where, parts = expression.where, name.parts
    job = found.workflow.jobs.get(str(where[1])) if len(where) > 1 and where[0] == "jobs" else None
    if parts[0] == "github" and len(parts) > 1 and parts[1].lower() not in GITHUB:
        text = f"github has no {parts[1]!r}.{did_you_mean(parts[1], GITHUB)}"
        yield found("context-unknown", where, text)
    elif parts[0] == "secrets" and len(parts) > 1:
        yield from _secret(found, expression, parts[1], around)
    elif parts[0] == "needs" and job and len(parts) > 1:
        yield from _need(found, where, job, parts)
    elif parts[0] == "steps" and job and len(parts) > 1:
        yield from _step(found, where, job, parts[1])


def _secret(found: _Found, expression: Expression, secret: str, around: Surroundings) -> Iterator[Complaint]:
    where = expression.where
    if secret not in around.secrets:
        text = f"the secret {secret} is not in ci.secrets of stack.yaml.{did_you_mean(secret, around.secrets)}"
        yield found("secret-undeclared", where, text)
    if where[0] == "env" or (where[0] == "jobs" and where[2:3] == ("env",)):
        yield found(
            "secret-too-wide",
            where,
            f"{secret} is exposed to every step: put it into the env of the one that needs it.",
        )


def _need(found: _Found, where: Where, job: Job, parts: tuple[str, ...]) -> Iterator[Complaint]:
    jobs, other = found.workflow.jobs, parts[1]
    if other not in (*job.needs, "*"):
        text = f"{job.name} reads {'.'.join(parts)} but does not need {other!r}.{did_you_mean(other, job.needs)}"
        yield found("needs-missing", where, text)
    elif other in jobs and not jobs[other].calls and parts[2:3] == ("outputs",) and len(parts) > 3:
        outputs = jobs[other].outputs
        if parts[3] not in outputs and parts[3] != "*":
            text = f"{other} has no output {parts[3]!r}.{did_you_mean(parts[3], outputs)}"
            yield found("output-unknown", where, text)


def _step(found: _Found, where: Where, job: Job, wanted: str) -> Iterator[Complaint]:
    """Check a step id: a step can read only the steps before it, a job's outputs any step of the job."""
    here = where[3] if where[2:3] == ("steps",) else len(job.steps)
    known = [step.id for number, step in enumerate(job.steps) if step.id and number < int(here)]
    if wanted not in known and wanted != "*":
        text = f"{job.name} has no earlier step with the id {wanted!r}.{did_you_mean(wanted, known)}"
        yield found("output-unknown", where, text)
