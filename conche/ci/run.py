"""ci.run: run the workflows on this machine with act, as a runner would.

act runs steps on the host and passes on its whole environment, so it gets a chosen one, without the caller's settings,
keys or virtual environment. A branch that the filters exclude starts nothing, and a label that no runner has is
an error: act would skip the job and call that a success.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conche.ci.act import act, credentials
from conche.ci.checks.tools import tool
from conche.ci.workflows.expressions import expressions, may_run
from conche.ci.workflows.runners import runners
from conche.ci.workflows.surroundings import AUTOMATIC
from conche.ci.workflows.triggers import starts
from conche.ci.workflows.workflow import Workflow, needed, ordered, workflows
from conche.command import Invocation
from conche.errors import NotFound, Refused, did_you_mean
from conche.files import private_folder
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.process import Captured
from conche.process import run as start
from conche.secret import Secret

if TYPE_CHECKING:
    import psutil

__all__ = ["run"]

EVENTS = ("push", "pull_request")

MARK = "CONCHE_CI_RUN"
"""Environment variable that marks the processes of a run: act ends without waiting for those that it ends."""

UNWINDING = 120.0
"""Seconds that the steps of an interrupted run have to unwind."""


def run(call: Invocation, workflow: str | None, job: str | None, event: str, branch: str | None) -> Outcome:
    """Run the workflows that an event would start; exit code 1 if a job fails.

    Raises:
        Refused: nothing would start, or no runner has a job's label.
        NotFound: there is no such workflow or job.
    """
    if event not in EVENTS:
        raise Refused(
            "event-unknown",
            f"There is no event {event!r}.{did_you_mean(event, EVENTS)}",
            looked_at=[f"events: {', '.join(EVENTS)}"],
            next_command=f"invoke ci.run --event {EVENTS[0]}",
        )
    here = _branch_here(call.root)
    onto = branch or (here if event == "push" else _first_branch(call) or here)
    chosen = _chosen(call, workflow, job, event, onto)
    labels = _labels(call, chosen)
    if call.dry_run:
        github = act.github(event, onto)
        return Outcome(plan=_plan(chosen, job, f"{event} on {onto}", github))
    secrets = credentials.values(call, _secrets(chosen))
    records = {}
    with private_folder(large=True) as folder:
        event_file = folder / "event.json"
        event_file.write_text(json.dumps(act.event(event, onto, here)))
        for one in chosen:
            argv = act.argv(
                tool("act"), workflow=one.file, event=event, event_file=event_file, labels=labels,
                job=job or "", cache=folder / "act",
            )  # fmt: skip
            records[one.file] = _run(call, argv, secrets, folder)
    return _outcome(chosen, records, absent=_secrets(chosen) - secrets.keys())


def _plan(chosen: Sequence[Workflow], job: str | None, cause: str, github: Mapping[str, str]) -> Plan:
    """Plan the jobs in order, without those that the event rules out; other conditions are decided during the run."""
    steps = []
    for workflow in chosen:
        wanted = needed(workflow, job) if job else set(workflow.jobs)
        left_out: set[str] = set()
        for name in ordered(workflow):
            condition = workflow.jobs[name].condition
            skipped = not left_out.isdisjoint(workflow.jobs[name].needs)
            if not may_run(condition, github, skipped=skipped):
                left_out.add(name)
            elif name in wanted:
                steps.append(Step(Action.RUN, Kind.JOB, name, f"{cause}, if {condition}" if condition else cause))
    return Plan(tuple(steps))


def _run(call: Invocation, argv: Sequence[str], secrets: Mapping[str, Secret], folder: Path) -> act.ActRecord:
    record, mark = act.ActRecord(), uuid.uuid4().hex
    environment = {**_environment(folder, call.root), MARK: mark}

    def show(line: Captured) -> None:
        for text in record.take(line.raw):
            call.output.say(text)

    try:
        ended = start(
            argv, stdin=act.secret_file(secrets), extra_env=environment, cwd=call.root,
            redact=call.output.redact, on_line=show,
        )  # fmt: skip
    except BaseException:
        _end_steps(mark)
        raise
    if act.BROKEN_OFF in ended.stderr.raw:
        _end_steps(mark)
    if not ended.ok and "failure" not in record.jobs.values():
        record.jobs["act"] = "failure"
    return record


def _environment(folder: Path, root: Path) -> dict[str, str]:
    """Return what a runner's own environment would contain, and what this machine needs to reach its registries."""
    home = folder / "home"
    home.mkdir(mode=0o700, exist_ok=True)
    lingering = folder / "last-words.sh"
    lingering.write_text(act.LAST_WORDS)
    # Hide the virtual environment that this task itself runs in: the set-up step has to make its own.
    # Outside a virtual environment this would hide the system's own programs.
    ours = {str(Path(sys.prefix) / "bin"), str(Path(sys.executable).parent)} if sys.prefix != sys.base_prefix else set()
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    checkout = programs / "runner-checkout"
    checkout.write_text(act.CHECKOUT)
    checkout.chmod(0o700)
    path = os.pathsep.join(part for part in os.environ.get("PATH", "").split(os.pathsep) if part not in ours)
    state = Path.home() / ".local" / "state"
    named = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    return {
        **named,
        "PATH": os.pathsep.join((str(programs), path)),
        "GITHUB_TOKEN": act.TOKEN,
        act.SOURCE: str(root),
        "HOME": str(home),
        "BASH_ENV": str(lingering),
        "XDG_CONFIG_HOME": str(home / ".config"),
        # Share locks, downloads and engine with everything else on this machine.
        "XDG_STATE_HOME": os.environ.get("XDG_STATE_HOME", str(state)),
        "PIP_CACHE_DIR": os.environ.get("PIP_CACHE_DIR", str(Path.home() / ".cache" / "pip")),
        "CONCHE_ENVIRONMENTS": str(Path.home() / ".cache" / "conche" / "environments"),
        "DOCKER_CONFIG": os.environ.get("DOCKER_CONFIG", str(Path.home() / ".docker")),
    }


def _end_steps(mark: str) -> None:
    """Let the processes that an interrupted act left behind unwind, then kill them: their folder is about to go.

    After a run that ended by itself nothing is killed: a step may have started something that is meant to go on.
    """
    import psutil

    deadline = time.monotonic() + UNWINDING
    left = _marked(mark)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    while left and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=0.5)
        left = _marked(mark)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _marked(mark: str) -> list[psutil.Process]:
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _chosen(call: Invocation, name: str | None, job: str | None, event: str, branch: str) -> list[Workflow]:
    read = workflows(call.root, call.stack)
    if name is not None:
        stems = {Path(one.file).stem: one for one in read}
        stem = Path(name).stem
        if stem not in stems:
            raise NotFound(
                "no-such-workflow",
                f"There is no workflow {name!r}.{did_you_mean(stem, stems)}",
                looked_at=[f"workflows: {', '.join(stems)}"],
                next_command=f"invoke ci.run --workflow {next(iter(stems))}",
            )
        read = [stems[stem]]
    changed = _changed(call.root)
    started = [one for one in read if starts(one, event, branch, changed)]
    if not started:
        raise Refused(
            "nothing-starts",
            f"{event} on {branch!r} starts no workflow.",
            looked_at=[f"{one.file}: {_filters(one)}" for one in read],
            next_command="invoke ci.run --event EVENT --branch BRANCH",
        )
    if job is not None:
        started = [one for one in started if job in one.jobs]
        known = [known for one in read for known in one.jobs]
        if not started:
            raise NotFound(
                "no-such-job",
                f"No workflow that would start has a job {job!r}.{did_you_mean(job, known)}",
                looked_at=[f"jobs: {', '.join(known)}"],
                next_command=f"invoke ci.run --job {known[0]}" if known else "",
            )
    return started


def _filters(workflow: Workflow) -> str:
    return "; ".join(
        f"{event} {', '.join(map(str, filters.get('branches') or ())) or 'any branch'}"
        for event, filters in workflow.triggers.items()
    )


def _labels(call: Invocation, chosen: Iterable[Workflow]) -> set[str]:
    """Return the labels that the jobs ask for, refusing any that no runner has."""
    asked = {(label, job.name) for one in chosen for job in one.jobs.values() for label in job.runs_on}
    carried = {name for runner in runners(call.root, call.stack) for name in runner.names}
    carried |= {label.partition(":")[0] for label in call.stack.ci.labels}
    lacking = sorted(f"{label} (job {job})" for label, job in asked if carried and label not in carried)
    if lacking:
        raise Refused(
            "label-unmapped",
            f"No runner has the label {', '.join(lacking)}.",
            looked_at=[f"labels: {', '.join(sorted(carried))}"],
            next_command="invoke ci.validate",
        )
    return {label for label, _ in asked}


def _secrets(chosen: Iterable[Workflow]) -> set[str]:
    names = (name for one in chosen for expression in expressions(one.document) for name in expression.names())
    return {name.parts[1] for name in names if name.parts[0] == "secrets" and len(name.parts) > 1} - AUTOMATIC


def _branch_here(root: Path) -> str:
    answer = start(["git", "-C", str(root), "symbolic-ref", "--short", "HEAD"], timeout=10)
    return answer.stdout.raw.strip() or "main"


def _changed(root: Path) -> set[str] | None:
    """Return the files that a push would bring and the uncommitted ones; None if there is nothing to compare with."""
    for base in ("@{upstream}", "HEAD~1"):
        answer = start(
            ["git", "--no-optional-locks", "-C", str(root), "diff", "--name-only", "--relative", "-z", base, "--"],
            timeout=60,
        )
        if answer.ok:
            new = start(["git", "-C", str(root), "ls-files", "--others", "--exclude-standard", "-z"], timeout=60)
            return set(f"{answer.stdout.raw}{new.stdout.raw}".split("\0")) - {""}
    return None


def _first_branch(call: Invocation) -> str:
    return next((one.branch for one in call.stack.environments.values() if one.branch), "")


def _outcome(chosen: Sequence[Workflow], records: Mapping[str, act.ActRecord], absent: Iterable[str]) -> Outcome:
    rows, answer, lines = [], {}, []
    for one in chosen:
        record = records[one.file]
        results = {name: record.jobs.get(name, "not run") for name in one.jobs} | record.jobs
        taken_by = {name: sum(step.seconds for step in record.steps.get(name, [])) for name in results}
        answer[one.file] = {
            name: {"result": result, "seconds": round(taken_by[name], 3)} for name, result in results.items()
        }
        for name, result in results.items():
            taken = taken_by[name]
            rows.append((one.file, name, _word(result), f"{taken:.1f} s" if taken else ""))
        failed = record.failed()
        if failed is not None:
            lines += [f"{failed[0]} failed at: {failed[1].name}", *(f"  | {line}" for line in failed[1].said[-15:])]
        lines += [f"  | {line}" for line in (*record.unmapped, *record.other[-5:]) if "act" in record.jobs]
    bad = any(record.unmapped or "failure" in record.jobs.values() for record in records.values())
    return Outcome(
        value=answer,
        tables=[Table(("workflow", "job", "result", "time"), tuple(rows))],
        lines=lines,
        warnings=[f"the secret {name} has no value here: it was empty" for name in sorted(absent)],
        exit_code=1 if bad else 0,
    )


def _word(result: str) -> str:
    return {"success": "ok", "failure": "failed"}.get(result, result)
