"""ci.watch: wait until a run on the server has ended."""

from __future__ import annotations

import time
from dataclasses import replace

from conche.ci.forge import Forge, Run, connect
from conche.ci.forge.chosen import NEWEST, RunChoice, deploying, expected, first, last_of_each, meant
from conche.ci.forge.client import TooManyRequests
from conche.ci.forge.runs import asked_labels, outcome_of
from conche.ci.forge.values import ended
from conche.ci.forge.waiting import explained
from conche.command import Invocation
from conche.errors import CheckFailed, NotFound
from conche.outcome import Outcome
from conche.process import run as start

__all__ = ["watch"]

LATEST = 20
"""How many times to look for the run that a push should have started: a minute at the usual interval."""

LOOKS = 5
"""Looks at a run between asking what it waits for: some seconds always pass before a job is taken."""


def watch(call: Invocation, choice: RunChoice, interval: float, timeout: float | None) -> Outcome:
    """Wait until a run has ended, reporting changes; exit code 1 if it did not end well.

    Of several runs of a commit it is the one that deploys; the others are told.

    Args:
        choice: without a commit, number or branch: the commit that is checked out, if it has been pushed.
        interval: seconds between two queries.
        timeout: seconds to wait; None for ever.

    Raises:
        CheckFailed: it goes on for longer than `timeout` seconds.
        NotFound: there is no such run, and none appeared.
    """
    forge, begun = connect(call), time.monotonic()
    told: dict[str, str] = {}
    number, commit = choice.number, choice.commit
    if number is None and choice.branch is None:
        commit = _commit(call, commit) if commit else _pushed(call)
    run = _made(call, forge, commit, interval) if commit else meant(call, forge, number, choice.branch or "")
    chosen = run.number
    looks = 0
    while True:
        pause, looks = interval, looks + 1
        try:
            run = forge.run(chosen)
            jobs = forge.jobs(run)
        except TooManyRequests as error:
            pause = max(interval, error.after)
        else:
            _tell(call, {f"run {run.number}": run.state, **{job.name: job.state for job in jobs}}, told)
            if ended(run.state):
                outcome = outcome_of(run, jobs, _overtaken(forge, run))
                return _with_others(forge, run, outcome) if number is None else outcome
            if looks % LOOKS == 0:
                _tell(call, dict.fromkeys(explained(forge, run, jobs, asked_labels(call)), ""), told)
        if timeout is not None and time.monotonic() - begun + pause > timeout:
            raise CheckFailed(
                "run-goes-on",
                f"Run {chosen} has not ended within {timeout:g} s.",
                looked_at=[f"{name}: {state}" for name, state in told.items()],
                next_command=f"invoke ci.watch --run {chosen}",
            )
        time.sleep(pause)


def _overtaken(forge: Forge, run: Run) -> list[str]:
    """Say of a run that did not end well that its branch has gone on since: then the run of that commit counts."""
    branch = run.branch.removeprefix("refs/heads/")
    if run.event != "push" or run.state == "success" or not run.commit:
        return []
    head = forge.head(branch)
    if not head or head.startswith(run.commit):
        return []
    return [f"{branch} is at {head[:10]} by now, and its run counts: invoke ci.watch --commit {head[:10]}"]


def _pushed(call: Invocation) -> str:
    """Return the commit that is checked out if a branch of a remote has it, else an empty text."""
    here = _git(call, "rev-parse", "--verify", "--quiet", "HEAD")
    return here if here and _git(call, "branch", "--remotes", "--contains", here) else ""


def _commit(call: Invocation, said: str) -> str:
    """Return the full hash of a commit, or what was given if it is not in this checkout."""
    return _git(call, "rev-parse", "--verify", "--quiet", f"{said}^{{commit}}") or said


def _git(call: Invocation, *words: str) -> str:
    answer = start(["git", "-C", str(call.root), *words], timeout=20)
    return answer.stdout.raw.strip() if answer.ok else ""


def _made(call: Invocation, forge: Forge, commit: str, interval: float) -> Run:
    """Wait until the server has created a commit's run, and return it; a run that deploys may come one look later."""
    deploys, seen, passed = deploying(call), False, None
    for look in range(LATEST):
        if look:
            time.sleep(interval)
        runs = forge.runs_of(commit)
        if runs and (seen or not expected(first(runs, deploys), deploys)):
            return first(runs, deploys)
        seen = bool(runs)
        after = None if runs else _passed(call, forge, commit)
        if passed and after:
            raise NotFound(
                "commit-overtaken",
                f"The server has made no run for {commit[:10]}: by then {after.branch} was at {after.commit}, and the"
                " run of that counts.",
                looked_at=[f"{forge.web}/actions"],
                next_command=f"invoke ci.watch --commit {after.commit}",
            )
        passed = after
    raise NotFound(
        "no-run-of-commit",
        f"The server has no run for {commit[:10]}.",
        looked_at=[f"the newest fifty runs, {LATEST} times", f"{forge.web}/actions"],
        next_command="git push    # if it is not on the server\ninvoke ci.graph    # which branches start a workflow",
    )


def _passed(call: Invocation, forge: Forge, commit: str) -> Run | None:
    """Return the newest run that a push has started of a later commit, one that contains this one.

    A server that is asked for much makes the run of a push for what its branch is at by then, so that one of several
    pushes in a row has a run and the others have none: seen on Forgejo 15.
    """
    for run in forge.listed(NEWEST, ""):
        later = run.event == "push" and run.commit and not commit.startswith(run.commit)
        if later and _git(call, "merge-base", commit, run.commit) == commit:
            return run
    return None


def _with_others(forge: Forge, run: Run, outcome: Outcome) -> Outcome:
    """Add the other workflows' runs of the same commit, with how to look at them."""
    others = [forge.settled(one) for one in last_of_each(forge.runs_of(run.commit)) if one.workflow != run.workflow]
    told = [f"run {one.number} of {one.workflow} on the same commit: {one.state}" for one in others]
    going = [f"invoke ci.watch --run {one.number}" for one in others if not ended(one.state)]
    failed = [
        f"{text}: invoke ci.logs --run {one.number}"
        for text, one in zip(told, others, strict=True)
        if one.state == "failure"
    ]
    return replace(outcome, lines=[*outcome.lines, *told, *going], warnings=[*outcome.warnings, *failed])


def _tell(call: Invocation, states: dict[str, str], told: dict[str, str]) -> None:
    for name, state in states.items():
        if told.get(name) != state:
            call.output.say(f"{name}: {state}" if state else name)
            told[name] = state
