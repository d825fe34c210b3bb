"""Check that runners take jobs: push a branch whose one commit has only a workflow that asks for every label."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath

from conche.ci.forge import Forge, Run
from conche.ci.forge.values import ended
from conche.ci.provision.checkout import Checkout
from conche.errors import CheckFailed
from conche.outcome import Action, Kind, Step

__all__ = ["BRANCH", "labels_taken", "push_handled", "step"]

BRANCH = "conche-probe"
LOOKS = 180
"""How many looks at a run before we conclude that no runner takes its jobs, which do nothing."""

PAUSE = 12.0
"""Seconds between the two rounds: a runner polls every two seconds, so by then it has found no work."""

INTERVAL = 1.0
"""Seconds between two looks at the run."""

SETTLES = 3.0
"""Seconds from the entry in the feed until the server has finished handling a push: it starts workflows right after
it writes that entry."""

IDENTITY = ("-c", "user.name=conche", "-c", "user.email=conche@localhost.localdomain")


def step(labels: Sequence[str]) -> Step:
    """Return the step that is planned."""
    return Step(
        Action.TRY, Kind.BRANCH, BRANCH, f"two jobs for each of {', '.join(labels)}, to check that runners take them"
    )


def push_handled(forge: Forge, branch: str, commit: str) -> bool:
    """Wait until the server has handled a push, which is when it checks whether Actions are on; return if it has."""
    for _ in range(LOOKS):
        if forge.tells_push(branch, commit):
            time.sleep(SETTLES)
            return True
        time.sleep(INTERVAL)
    return False


def labels_taken(checkout: Checkout, forge: Forge, remote: str, folder: PurePosixPath, labels: Sequence[str]) -> None:
    """Have each label's runner take one job, and after a pause in which runners find nothing to do, another one.

    Raises:
        CheckFailed: a job was not taken, or did not end well.
    """
    with _branch(checkout, remote):
        for turn in (1, 2):
            if turn > 1:
                time.sleep(PAUSE)
            commit = _commit(checkout, folder, labels, turn)
            checkout.push(remote, f"+{commit}:refs/heads/{BRANCH}")
            _require(forge, commit, labels, turn)


@contextmanager
def _branch(checkout: Checkout, remote: str) -> Iterator[None]:
    """Remove the branch afterwards; if a kill prevents that, the next run overwrites it."""
    try:
        yield
    finally:
        checkout.git("push", "--quiet", "--no-verify", remote, f":refs/heads/{BRANCH}", timeout=120)


def _commit(checkout: Checkout, folder: PurePosixPath, labels: Sequence[str], turn: int) -> str:
    """Make a commit without a parent and without the files of the checkout, so that no other workflow starts."""
    jobs = {f"job-{n}": {"runs-on": label, "steps": [{"run": "true"}]} for n, label in enumerate(labels)}
    text = json.dumps({"name": f"Probe {turn}", "on": {"push": {"branches": [BRANCH]}}, "jobs": jobs}, indent=1)
    entry = "100644 blob " + checkout.said("hash-object", "-w", "--stdin", stdin=text.encode()) + "\tprobe.yml"
    for part in reversed(folder.parts):
        entry = "040000 tree " + checkout.said("mktree", stdin=f"{entry}\n".encode()) + f"\t{part}"
    tree = checkout.said("mktree", stdin=f"{entry}\n".encode())
    return checkout.said(*IDENTITY, "commit-tree", tree, "-m", f"Check that runners take jobs, {turn} of 2")


def _require(forge: Forge, commit: str, labels: Sequence[str], turn: int) -> None:
    run = None
    for _ in range(LOOKS):
        run = _run_of(forge, commit)
        if run is not None and ended(run.state):
            break
        time.sleep(INTERVAL)
    if run is not None and run.state == "success":
        return
    waiting = [label for job in forge.waiting(labels) for label in job.labels] if forge.can("job-waiting") else []
    said = f"no runner took the job for {', '.join(sorted(set(waiting)))}" if waiting else "its jobs failed"
    raise CheckFailed(
        "runner-takes-no-job",
        f"Test job {turn} of 2 for {', '.join(labels)} failed: {said}.",
        looked_at=[f"run {run.number}: {run.state}" if run else "no run appeared", f"{forge.web}/actions"],
        next_command="invoke ci.runner.status\ninvoke ci.runner.logs\ninvoke ci.setup",
    )


def _run_of(forge: Forge, commit: str) -> Run | None:
    return next((run for run in forge.runs(20) if run.commit and commit.startswith(run.commit)), None)
