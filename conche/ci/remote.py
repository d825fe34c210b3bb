"""ci.status, ci.watch, ci.logs, ci.dispatch, ci.rerun, ci.cancel: what runs on the server."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from conche.ci.forge import Job, Run, connect
from conche.ci.forge.client import TooManyRequests
from conche.ci.forge.values import ended
from conche.ci.validate import workflows
from conche.command import Invocation
from conche.errors import CheckFailed, NotFound, Refused, did_you_mean
from conche.outcome import Outcome, Plan, Step, Table

__all__ = ["cancel", "dispatch", "logs", "rerun", "status", "watch"]

_WORDS = {"success": "ok", "failure": "failed", "waiting": "starting"}
"""States in the words that tables colour."""


def status(call: Invocation, number: int | None, branch: str | None, limit: int) -> Outcome:
    """The newest runs, or one with its jobs; exit code 1 when the newest, or that one, failed."""
    forge = connect(call)
    if number is not None:
        run = forge.run(number)
        return _run(run, forge.jobs(run))
    runs = forge.runs(limit, branch or "")
    rows = tuple(
        (str(run.number), _word(run.state), run.workflow, run.branch, run.commit, run.event, run.began, run.title)
        for run in runs
    )
    columns = ("run", "state", "workflow", "branch", "commit", "event", "began", "title")
    return Outcome(
        value=[asdict(run) for run in runs],
        tables=[Table(columns, rows)] if rows else [],
        lines=[f"{forge.web}/actions" if rows else f"no runs yet: {forge.web}/actions"],
        exit_code=1 if runs and runs[0].state == "failure" else 0,
    )


def watch(call: Invocation, number: int | None, branch: str | None, interval: float, timeout: float | None) -> Outcome:
    """Wait until a run has ended, telling what changes; exit code 1 when it did not end well.

    Raises:
        CheckFailed: it goes on for longer than `timeout` seconds.
    """
    forge, begun = connect(call), time.monotonic()
    told: dict[str, str] = {}
    chosen = forge.run(number, branch or "").number
    while True:
        pause = interval
        try:
            run = forge.run(chosen)
            jobs = forge.jobs(run)
        except TooManyRequests as error:
            pause = max(interval, error.after)
        else:
            _tell(call, {f"run {run.number}": run.state, **{job.name: job.state for job in jobs}}, told)
            if ended(run.state):
                return _run(run, jobs)
        if timeout is not None and time.monotonic() - begun + pause > timeout:
            raise CheckFailed(
                "run-goes-on",
                f"Run {chosen} has not ended within {timeout:g} s.",
                looked_at=[f"{name}: {state}" for name, state in told.items()],
                next_command=f"invoke ci.watch --run {chosen}",
            )
        time.sleep(pause)


def _tell(call: Invocation, states: dict[str, str], told: dict[str, str]) -> None:
    for name, state in states.items():
        if told.get(name) != state:
            call.output.say(f"{name}: {state}")
            told[name] = state


def logs(call: Invocation, number: int | None, branch: str | None, job: str | None) -> Outcome:
    """What jobs wrote: one, those that failed, or where none did all of them.

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
        forge.log(Job(0, "", ""))  # tells that this server has no logs to give
        raise NotFound("no-such-job", f"Run {run.number} has no jobs yet.", next_command=f"open {run.url}")
    written = {one.name: forge.log(one) for one in chosen}
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
    """Run a run's jobs again, or those that failed."""
    forge = connect(call)
    run = forge.run(number)
    plan = Plan((Step("start", f"run {run.number}" + (", failed jobs" if failed else ""), "asked for"),))
    if call.dry_run:
        return Outcome(plan=plan)
    forge.rerun(run, failed=failed)
    return Outcome(value={"run": run.number}, changed=True, plan=plan, lines=[run.url])


def cancel(call: Invocation, number: int | None) -> Outcome:
    """End a run; one that has ended is left alone."""
    forge = connect(call)
    run = forge.run(number)
    if ended(run.state):
        return Outcome(value=asdict(run), lines=[f"Nothing to do: run {run.number} has ended ({run.state})."])
    plan = Plan((Step("cancel", f"run {run.number}", f"it is {run.state}"),))
    if call.dry_run:
        return Outcome(plan=plan)
    forge.cancel(run)
    return Outcome(value={"run": run.number}, changed=True, plan=plan, lines=[run.url])


def _run(run: Run, jobs: Sequence[Job]) -> Outcome:
    rows = tuple((job.name, _word(job.state), ", ".join(job.labels)) for job in jobs)
    # Servers without a list of runs show the jobs that wait as statuses of the commit, for these events alone.
    unsure = run.id is None and ended(run.state) and not run.event.startswith(("push", "pull_request"))
    title = f"run {run.number} of {run.workflow} on {run.branch}: {run.state}"
    return Outcome(
        value={**asdict(run), "jobs": [asdict(job) for job in jobs]},
        tables=[Table(("job", "state", "labels"), rows, title=title)] if rows else [],
        lines=[run.url] if rows else [title, run.url],
        warnings=[f"this server does not tell whether a {run.event} run has jobs that wait for a runner"] * unsure,
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
