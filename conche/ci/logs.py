"""ci.logs: what the jobs of a run on the server wrote."""

from __future__ import annotations

from conche.ci.forge import connect
from conche.ci.forge.chosen import meant
from conche.ci.forge.joblog import JobLogs, LogNotThere
from conche.command import Invocation
from conche.errors import NotFound, did_you_mean
from conche.inert import inert
from conche.outcome import Outcome

__all__ = ["logs"]


def logs(call: Invocation, number: int | None, branch: str | None, job: str | None) -> Outcome:
    """Show the logs of one job, of the failed ones, or if none failed of all that can be read.

    Raises:
        NotFound: the run has no such job, or no log can be read.
        Refused: the server's version hands out no logs.
    """
    forge = connect(call)
    run = meant(call, forge, number, branch or "", failed=True)
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
        raise NotFound(
            "no-such-job",
            f"The server tells of no job of run {run.number}: none has begun, or it was long ago.",
            next_command=f"open {run.url}",
        )
    read, written, missing = JobLogs(call, forge, run), {}, []
    for one in chosen:
        try:
            written[one.name] = read.of(one)
        except LogNotThere as error:
            missing.append(error)
    if not written:
        raise missing[0]
    raw = "".join(f"== {name} ==\n{text.rstrip()}\n" if len(written) > 1 else text for name, text in written.items())
    # In a step of a workflow, its runner reads this too.
    raw = inert(raw, colours=True)
    return Outcome(value={"run": run.number, "logs": written}, raw=raw, warnings=[one.message for one in missing])
