"""Explain why a run has not ended: which runners its jobs wait for, from what the server knows of runners."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from conche.ci.forge import Forge, Run, ServerJob, ServerRunner
from conche.ci.forge.values import ended

__all__ = ["explained"]

GIVEN_UP = "if one was killed, the server gives up its run after about ten minutes"
"""Seen on Forgejo 15: after eleven and a half."""


def explained(forge: Forge, run: Run, jobs: Sequence[ServerJob], labels: Iterable[str]) -> list[str]:
    """Say in words what keeps a run; nothing if it has ended or the server does not list runners.

    Args:
        labels: those that the workflows ask for, in case the run's jobs as listed do not say what they wait for.
    """
    if ended(run.state) or not forge.can("runner-list"):
        return []
    runners = forge.runners()
    waiting = [job for job in jobs if job.state == "waiting" and job.labels]
    if not waiting and forge.can("job-waiting"):
        waiting = forge.waiting(labels)
    if waiting:
        return [_for_whom(job, runners) for job in waiting]
    if run.state == "running" and runners and not any(runner.state == "active" for runner in runners):
        return [f"run {run.number} is marked as running, but no runner is busy: {GIVEN_UP}"]
    return []


def _for_whom(job: ServerJob, runners: Sequence[ServerRunner]) -> str:
    wanted = ", ".join(job.labels)
    carriers = [one for one in runners if set(job.labels) <= {label.partition(":")[0] for label in one.labels}]
    names = ", ".join(one.name for one in carriers)
    if not carriers:
        return f"{job.name} waits for a runner with {wanted}, but there is none: invoke ci.validate"
    if all(one.state == "offline" for one in carriers):
        return f"{job.name} waits for {wanted}, but {names} is offline: invoke ci.runner.up"
    if any(one.state in ("idle", "online") for one in carriers):
        return f"{job.name} waits for {wanted}, but {names} is idle; if it stays so, it has stalled: invoke ci.setup"
    return f"{job.name} waits for {wanted}, and {names} is busy with another job"
