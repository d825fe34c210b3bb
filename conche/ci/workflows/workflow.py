"""Workflows as values: triggers, jobs, steps. Malformed parts are ignored here; the schema check reports them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import Any

from conche.ci.workflows.document import Where, WorkflowFile, read_all
from conche.stack import Stack

__all__ = ["SHELLS", "Job", "Workflow", "WorkflowStep", "needed", "ordered", "parse", "workflows"]

SHELLS = ("bash", "sh")
"""Shells whose scripts are checked; the others have languages of their own."""


@dataclass(frozen=True)
class WorkflowStep:
    """One step of a job.

    Attributes:
        where: its place in the file.
        run: the script; empty if it uses an action.
        interpreter: the shell or other program that runs it, set by the step or the defaults of its job or workflow.
    """

    where: Where
    id: str = ""
    name: str = ""
    uses: str = ""
    run: str = ""
    interpreter: str = "bash"
    env: Mapping[str, str] = field(default_factory=dict)
    condition: str = ""


@dataclass(frozen=True)
class Job:
    """One job of a workflow.

    Attributes:
        runs_on: labels, without those that an expression decides.
        outputs: expressions by name.
        calls: the reusable workflow that it calls, instead of steps.
    """

    name: str
    where: Where
    runs_on: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    condition: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[WorkflowStep, ...] = ()
    calls: str = ""


@dataclass(frozen=True)
class Workflow:
    """What one workflow file says.

    Attributes:
        triggers: filters by event, such as {"push": {"branches": ["main"]}}.
    """

    document: WorkflowFile
    name: str
    triggers: Mapping[str, Mapping[str, Any]]
    jobs: Mapping[str, Job]
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str:
        return self.document.file


def workflows(root: Path, stack: Stack) -> list[Workflow]:
    """Return the workflows of a repository, by file name."""
    return [parse(document) for document in read_all(root, stack.ci.workflows)]


def parse(document: WorkflowFile) -> Workflow:
    """Return the workflow in a document."""
    content = _mapping(document.content)
    shell = _default_shell(content)
    jobs = {name: _job(name, _mapping(job), shell) for name, job in _mapping(content.get("jobs")).items()}
    return Workflow(
        document=document,
        name=str(content.get("name") or document.file),
        triggers=_triggers(content.get("on")),
        jobs=jobs,
        env=_texts(content.get("env")),
    )


def ordered(workflow: Workflow) -> list[str]:
    """Return the jobs, each after those that it needs; in file order if they need each other in a circle."""
    needs = {name: [need for need in job.needs if need in workflow.jobs] for name, job in workflow.jobs.items()}
    try:
        return list(TopologicalSorter(needs).static_order())
    except CycleError:
        return list(workflow.jobs)


def needed(workflow: Workflow, job: str) -> set[str]:
    """Return a job and all that it needs, directly or not."""
    found: set[str] = set()
    left = [job]
    while left:
        name = left.pop()
        if name in workflow.jobs and name not in found:
            found.add(name)
            left += workflow.jobs[name].needs
    return found


def _triggers(said: Any) -> dict[str, Mapping[str, Any]]:
    if isinstance(said, str):
        return {said: {}}
    if isinstance(said, list):
        return {str(event): {} for event in said}
    return {event: _mapping(filters) for event, filters in _mapping(said).items()}


def _default_shell(said: Mapping[str, Any]) -> str:
    return _text(_mapping(_mapping(said.get("defaults")).get("run")).get("shell"))


def _job(name: str, said: Mapping[str, Any], shell: str) -> Job:
    where: Where = ("jobs", name)
    shell = _default_shell(said) or shell
    runs_on = said.get("runs-on")
    if isinstance(runs_on, dict):
        runs_on = runs_on.get("labels")
    return Job(
        name=name,
        where=where,
        runs_on=tuple(label for label in _list(runs_on) if "${{" not in label),
        needs=tuple(_list(said.get("needs"))),
        condition=_text(said.get("if")),
        outputs=_texts(said.get("outputs")),
        env=_texts(said.get("env")),
        steps=tuple(
            _step(_mapping(step), (*where, "steps", number), shell)
            for number, step in enumerate(_items(said.get("steps")))
        ),
        calls=_text(said.get("uses")),
    )


def _step(said: Mapping[str, Any], where: Where, shell: str) -> WorkflowStep:
    # `shell` may be a path with options, such as `/bin/bash -e {0}`.
    program = (_text(said.get("shell")) or shell or "bash").split(maxsplit=1)[:1]
    return WorkflowStep(
        where=where,
        id=_text(said.get("id")),
        name=_text(said.get("name")),
        uses=_text(said.get("uses")),
        run=_text(said.get("run")),
        interpreter=PurePosixPath(*program).name,
        env=_texts(said.get("env")),
        condition=_text(said.get("if")),
    )


def _mapping(said: Any) -> Mapping[str, Any]:
    return said if isinstance(said, dict) else {}


def _items(said: Any) -> Sequence[Any]:
    return said if isinstance(said, list) else []


def _list(said: Any) -> list[str]:
    return [said] if isinstance(said, str) else [str(one) for one in _items(said)]


def _text(said: Any) -> str:
    return "" if said is None else str(said)


def _texts(said: Any) -> dict[str, str]:
    return {name: _text(value) for name, value in _mapping(said).items()}
