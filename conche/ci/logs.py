"""ci.logs: what the jobs of a run on the server wrote."""

from __future__ import annotations

from conche.ci.forge import ServerJob, connect
from conche.command import Invocation
from conche.errors import NotFound, did_you_mean
from conche.outcome import Outcome

__all__ = ["logs"]


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
        forge.log(ServerJob(0, "", ""), run.url)  # refuses if this server's API has no logs
        raise NotFound("no-such-job", f"Run {run.number} has no jobs yet.", next_command=f"open {run.url}")
    written = {one.name: forge.log(one, run.url) for one in chosen}
    raw = "".join(f"== {name} ==\n{text.rstrip()}\n" if len(written) > 1 else text for name, text in written.items())
    return Outcome(value={"run": run.number, "logs": written}, raw=raw)
