"""ci.status, ci.watch, ci.logs, ci.dispatch, ci.rerun, ci.cancel: runs on the server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from conche.ci.forge import Forge, Job, Run, connect
from conche.ci.forge.client import TooManyRequests
from conche.ci.forge.values import ended
from conche.ci.forge.waiting import explained
from conche.ci.workflows.workflow import workflows
from conche.command import Invocation
from conche.errors import CheckFailed, NotFound, Refused, did_you_mean
from conche.outcome import Outcome, Plan, Step, Table
from conche.process import run as start

__all__ = ["cancel", "dispatch", "logs", "rerun", "status", "watch"]

LATEST = 20
"""How many times to look for the run that a push should have started: a minute at the usual interval."""

LOOKS = 5
"""Looks at a run between asking what it waits for: some seconds always pass before a job is taken."""

_WORDS = {"success": "ok", "failure": "failed", "waiting": "starting"}
"""States as the words that tables colour."""


def status(call: Invocation, number: int | None, branch: str | None, limit: int) -> Outcome:
    """Show the newest runs, or one run with its jobs; exit code 1 if the newest, or that one, failed."""
    forge = connect(call)
    if number is not None:
        run = forge.run(number)
        jobs = forge.jobs(run)
        return _run(run, jobs, explained(forge, run, jobs, _asked(call)))
    runs = forge.runs(limit, branch or "")
    going = next((run for run in runs if not ended(run.state)), None)
    rows = tuple(
        (str(run.number), _word(run.state), run.workflow, run.branch, run.commit, run.event, run.began, run.title)
        for run in runs
    )
    columns = ("run", "state", "workflow", "branch", "commit", "event", "began", "title")
    return Outcome(
        value=[asdict(run) for run in runs],
        tables=[Table(columns, rows)] if rows else [],
        lines=[f"{forge.web}/actions" if rows else f"no runs yet: {forge.web}/actions"],
        warnings=explained(forge, going, forge.jobs(going), _asked(call)) if going else [],
        exit_code=1 if runs and runs[0].state == "failure" else 0,
    )


def watch(
    call: Invocation, number: int | None, branch: str | None, commit: str | None, interval: float, timeout: float | None
) -> Outcome:
    """Wait until a run has ended, reporting changes; exit code 1 if it did not end well.

    Args:
        commit: wait for this commit's run, which the server creates some seconds after the push. Without a commit,
            number or branch: the commit that is checked out, if it has been pushed.

    Raises:
        CheckFailed: it goes on for longer than `timeout` seconds.
        NotFound: there is no such run, and none appeared.
    """
    forge, begun = connect(call), time.monotonic()
    told: dict[str, str] = {}
    if number is None and branch is None:
        commit = _commit(call, commit) if commit else _pushed(call)
    chosen = _made(forge, commit, interval) if commit else forge.run(number, branch or "").number
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
                return _run(run, jobs)
            if looks % LOOKS == 0:
                _tell(call, dict.fromkeys(explained(forge, run, jobs, _asked(call)), ""), told)
        if timeout is not None and time.monotonic() - begun + pause > timeout:
            raise CheckFailed(
                "run-goes-on",
                f"Run {chosen} has not ended within {timeout:g} s.",
                looked_at=[f"{name}: {state}" for name, state in told.items()],
                next_command=f"invoke ci.watch --run {chosen}",
            )
        time.sleep(pause)


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


def _made(forge: Forge, commit: str, interval: float) -> int:
    """Wait until the server has created a commit's run, and return its number."""
    for look in range(LATEST):
        if look:
            time.sleep(interval)
        run = forge.run_of(commit)
        if run is not None:
            return run.number
    raise NotFound(
        "no-run-of-commit",
        f"The server has made no run for {commit[:10]}.",
        looked_at=[f"{LATEST} times, the newest fifty runs", f"{forge.web}/actions"],
        next_command="git push    # it has to be there\ninvoke ci.graph    # and a workflow has to start on its branch",
    )


def _asked(call: Invocation) -> set[str]:
    """Return the labels that the workflows here ask for; none if they cannot be read."""
    try:
        read = workflows(call.root, call.stack)
    except Refused:
        return set()
    return {label for one in read for job in one.jobs.values() for label in job.runs_on}


def _tell(call: Invocation, states: dict[str, str], told: dict[str, str]) -> None:
    for name, state in states.items():
        if told.get(name) != state:
            call.output.say(f"{name}: {state}" if state else name)
            told[name] = state


def logs(call: Invocation, number: int | None, branch: str | None, job: str | None) -> Outcome:
    """Show the logs of one job, of the failed ones, or if none failed of all.

    Raises:
        NotFound: the run has no such job.
    """
    forge = connect(call)
    run = forge.run(number, branch or "")
    jobs = forge.jobs(run)
    if job is not None:
        chosen = [one for one in jobs if one.name == job]
        if not chosen:
            names = [one.name for one in jobs]
            raise NotFound(
                "no-such-job",
                f"Run {run.number} has no job {job!r}.{did_you_mean(job, names)}",
                looked_at=[f"jobs: {', '.join(names) or 'none'}"],
                next_command=f"invoke ci.status --run {run.number}",
            )
    else:
        chosen = [one for one in jobs if one.state == "failure"] or list(jobs)
    if not chosen:
        forge.log(Job(0, "", ""), run.url)  # refuses if this server's API has no logs
        raise NotFound("no-such-job", f"Run {run.number} has no jobs yet.", next_command=f"open {run.url}")
    written = {one.name: forge.log(one, run.url) for one in chosen}
    raw = "".join(f"== {name} ==\n{text.rstrip()}\n" if len(written) > 1 else text for name, text in written.items())
    return Outcome(value={"run": run.number, "logs": written}, raw=raw)


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
            f"{file} does not begin by hand: it has no `workflow_dispatch` under `on`.",
            next_command=f"add workflow_dispatch to {known[file].file}, push, and try again",
        )
    forge, branch = connect(call), ref or _main(call)
    plan = Plan((Step("start", f"workflow {file} on {branch}", "asked for"),))
    if call.dry_run:
        return Outcome(plan=plan)
    page = forge.dispatch(file, branch, given)
    return Outcome(value={"workflow": file, "ref": branch, "url": page}, changed=True, plan=plan, lines=[page])


def rerun(call: Invocation, number: int | None, *, failed: bool) -> Outcome:
    """Run all jobs of a run again, or only those that failed."""
    forge = connect(call)
    run = forge.run(number)
    plan = Plan((Step("start", f"run {run.number}" + (", failed jobs" if failed else ""), "asked for"),))
    if call.dry_run:
        return Outcome(plan=plan)
    forge.rerun(run, failed=failed)
    return Outcome(value={"run": run.number}, changed=True, plan=plan, lines=[run.url])


def cancel(call: Invocation, number: int | None) -> Outcome:
    """Cancel a run; one that has ended is left alone."""
    forge = connect(call)
    run = forge.run(number)
    if ended(run.state):
        return Outcome(value=asdict(run), lines=[f"Nothing to do: run {run.number} has ended ({run.state})."])
    plan = Plan((Step("cancel", f"run {run.number}", f"it is {run.state}"),))
    if call.dry_run:
        return Outcome(plan=plan)
    forge.cancel(run)
    return Outcome(value={"run": run.number}, changed=True, plan=plan, lines=[run.url])


def _run(run: Run, jobs: Sequence[Job], why: Sequence[str] = ()) -> Outcome:
    rows = tuple((job.name, _word(job.state), ", ".join(job.labels)) for job in jobs)
    # Servers without a list of runs show waiting jobs as commit statuses, and only for these events.
    unsure = run.id is None and ended(run.state) and not run.event.startswith(("push", "pull_request"))
    title = f"run {run.number} of {run.workflow} on {run.branch}: {run.state}"
    return Outcome(
        value={**asdict(run), "jobs": [asdict(job) for job in jobs]},
        tables=[Table(("job", "state", "labels"), rows, title=title)] if rows else [],
        lines=[run.url] if rows else [title, run.url],
        warnings=[
            *[f"this server does not tell whether a {run.event} run has jobs that wait for a runner"] * unsure,
            *why,
        ],
        exit_code=1 if run.state in ("failure", "cancelled") else 0,
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise Refused(
            "input-malformed",
            f"{text!r} is no input of a workflow.",
            next_command="invoke ci.dispatch WORKFLOW --inputs NAME=VALUE",
        )
    return name, value


def _main(call: Invocation) -> str:
    protected = [one.branch for one in call.stack.environments.values() if one.branch and one.protected]
    return str(connect(call).described().get("default_branch") or (protected or ["main"])[0])


def _word(state: str) -> str:
    return _WORDS.get(state, state)
