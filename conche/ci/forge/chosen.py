"""Which run is meant where a push has started several workflows: the one that deploys, or one that failed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from conche.ci.checks.commands import deploys
from conche.ci.forge.forge import Forge
from conche.ci.forge.values import Run, ended
from conche.ci.workflows.triggers import starts
from conche.ci.workflows.workflow import Workflow, workflows
from conche.command import Invocation
from conche.errors import Refused

__all__ = ["NEWEST", "RunChoice", "deploying", "expected", "first", "last_of_each", "meant", "of_newest"]

NEWEST = 50
"""Runs among which one is looked for."""


@dataclass(frozen=True)
class RunChoice:
    """Which run is meant; by default that of the commit which is checked out.

    Attributes:
        commit: the run of this commit, which the server creates some seconds after the push.
    """

    number: int | None = None
    branch: str | None = None
    commit: str | None = None


def meant(call: Invocation, forge: Forge, number: int | None, branch: str = "", *, failed: bool = False) -> Run:
    """Return the run of that number, or without one that of the newest commit that deploys, else its first.

    Args:
        failed: if any of that commit's runs has failed or was cancelled, choose among these.

    Raises:
        NotFound: there is none.
    """
    runs = of_newest(forge.listed(NEWEST, branch)) if number is None else []
    if not runs:
        return forge.run(number, branch)
    broken = [run for run in runs if failed and run.state in ("failure", "cancelled")]
    return forge.settled(first(broken or runs, deploying(call)))


def of_newest(runs: Sequence[Run]) -> list[Run]:
    """Return the runs of the newest commit, of each workflow the last; from runs that come newest first."""
    return last_of_each([run for run in runs if run is runs[0] or (run.commit and run.commit == runs[0].commit)])


def last_of_each(runs: Collection[Run]) -> list[Run]:
    """Return the last run of each workflow, newest first."""
    last = {run.workflow: run for run in sorted(runs, key=lambda run: run.number)}
    return sorted(last.values(), key=lambda run: run.number, reverse=True)


def first(runs: Collection[Run], deploying: Collection[str]) -> Run:
    """Return the run that deploys, else one that has not ended, else the one with the lowest number."""
    return min(runs, key=lambda run: (run.workflow not in deploying, ended(run.state), run.number))


def deploying(call: Invocation) -> dict[str, Workflow]:
    """Return the workflows here that deploy, by file name; none if they cannot be read."""
    try:
        return {one.file.rpartition("/")[2]: one for one in workflows(call.root, call.stack) if deploys(one)}
    except Refused:
        return {}


def expected(run: Run, deploying: Mapping[str, Workflow]) -> bool:
    """Return whether the event of a run that does not deploy has perhaps started one that does, not listed yet."""
    return run.workflow not in deploying and any(starts(one, run.event, run.branch) for one in deploying.values())
