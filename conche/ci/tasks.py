"""invoke ci.*"""

from typing import Annotated

from conche.command import Invocation, command
from conche.outcome import Outcome

RunNumber = Annotated[int | None, "number of the run; default: the newest"]
FailedRun = Annotated[int | None, "number of the run; default: of the newest commit the one that failed, or deploys"]
Branch = Annotated[str | None, "only runs of this branch, or of a pull request from it or with this number"]


@command()
def validate(invocation: Invocation) -> Outcome:
    """Check the workflows before the push.

    The schema, act, zizmor and shellcheck, and rules of our own: needs, outputs, labels, contexts, secrets, branches,
    and every nox session and invoke task that a step runs.
    """
    from conche.ci.validate import validate

    return validate(invocation)


@command(changes=True)
def run(
    invocation: Invocation,
    workflow: Annotated[str | None, "one workflow, such as quick-test; default: all that start"] = None,
    job: Annotated[str | None, "one job, and those that it needs"] = None,
    event: Annotated[str, "push or pull_request"] = "push",
    branch: Annotated[str | None, "pushed branch, or the one a pull request goes into"] = None,
) -> Outcome:
    """Run the workflows here as a runner would.

    By act, on this machine and its engine: a job that deploys does deploy. The checkout is copied, with what is not
    committed; the environment is a clean one.
    """
    from conche.ci.run import run

    return run(invocation, workflow, job, event, branch)


@command()
def graph(
    invocation: Invocation,
    form: Annotated[str, "text, mermaid or svg"] = "text",
) -> Outcome:
    """The jobs and what each waits for."""
    from conche.ci.graph import graph

    return graph(invocation, form)


@command()
def status(
    invocation: Invocation,
    run: Annotated[int | None, "one run, with its jobs"] = None,
    branch: Branch = None,
    limit: Annotated[int, "how many runs"] = 10,
) -> Outcome:
    """The runs on the server.

    Ends with 1 when one of the newest commit, or the one that was asked for, failed.
    """
    from conche.ci.status import status

    return status(invocation, run, branch, limit)


@command()
def watch(
    invocation: Invocation,
    run: RunNumber = None,
    branch: Branch = None,
    commit: Annotated[str | None, "its run; default: the commit that is checked out, if it was pushed"] = None,
    interval: Annotated[float, "seconds between two looks"] = 3.0,
    timeout: Annotated[float | None, "seconds to wait; default: for ever"] = None,
) -> Outcome:
    """Wait until a run has ended.

    Of several workflows that a push has started it is the one that deploys; the others are told at the end.
    """
    from conche.ci.watch import watch

    return watch(invocation, run, branch, commit, interval, timeout)


@command()
def logs(
    invocation: Invocation,
    run: FailedRun = None,
    branch: Branch = None,
    job: Annotated[str | None, "one job; default: those that failed, or all"] = None,
) -> Outcome:
    """What the jobs of a run wrote."""
    from conche.ci.logs import logs

    return logs(invocation, run, branch, job)


@command(changes=True)
def dispatch(
    invocation: Invocation,
    workflow: Annotated[str, "a workflow with workflow_dispatch, such as ci-cd-dual"],
    ref: Annotated[str | None, "branch or tag; default: the server's main branch"] = None,
    inputs: Annotated[list[str], "NAME=VALUE; may be given again"] = (),  # type: ignore[assignment]
) -> Outcome:
    """Start a workflow on the server."""
    from conche.ci.dispatch import dispatch

    return dispatch(invocation, workflow, ref, list(inputs))


@command(changes=True)
def rerun(
    invocation: Invocation,
    run: FailedRun = None,
    failed: Annotated[bool, "only the jobs that failed"] = False,
) -> Outcome:
    """Run a run again."""
    from conche.ci.rerun import rerun

    return rerun(invocation, run, failed=failed)


@command(changes=True)
def cancel(
    invocation: Invocation,
    run: Annotated[int | None, "number of the run; default: the newest that goes on"] = None,
) -> Outcome:
    """End a run."""
    from conche.ci.cancel import cancel

    return cancel(invocation, run)


@command(changes=True)
def secrets(
    invocation: Invocation,
    check: Annotated[bool, "only look whether they are there"] = False,
    new_key: Annotated[bool, "give CI an age key of its own first"] = False,
) -> Outcome:
    """Put the Actions secrets on the server.

    SOPS_AGE_KEY from .sops/ci-age-key.txt, or else from the key in use; the others from the encrypted file.
    """
    from conche.ci.secrets import secrets

    return secrets(invocation, check=check, new_key=new_key)


@command(changes=True)
def setup(invocation: Invocation) -> Outcome:
    """Set up the server, its runners and this checkout for the first push.

    An account and a token, the repository, git's remote and branches, CI's key and secrets, the runners, and two jobs
    for each of their labels. Looks first, does what is missing, and can be run again after any failure.
    """
    from conche.ci.setup import setup

    return setup(invocation)


@command()
def doctor(invocation: Invocation) -> Outcome:
    """Look at everything that the pipeline stands on."""
    from conche.ci.doctor import doctor

    return doctor(invocation)
