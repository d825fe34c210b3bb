"""invoke ci.*"""

from typing import TYPE_CHECKING, Annotated

from conche.command import Invocation, command

if TYPE_CHECKING:
    from conche.outcome import Outcome

RunNumber = Annotated[int | None, "number of the run; default: the newest"]
FailedRun = Annotated[int | None, "number of the run; default: of the newest commit the one that failed, or deploys"]
Branch = Annotated[str | None, "only runs of this branch, or of a pull request from it or with this number"]


@command()
def validate(invocation: Invocation) -> "Outcome":
    """Check the workflows before the push.

    Runs the schema, act, zizmor, shellcheck and its own rules on needs, outputs, labels, contexts, secrets, branches,
    and the nox sessions and invoke tasks that steps run.
    """
    from conche.ci.validate import validate

    return validate(invocation)


@command(changes=True)
def run(
    invocation: Invocation,
    workflow: Annotated[str | None, "one workflow, such as quick-test; default: all that start"] = None,
    job: Annotated[str | None, "one job and those it needs"] = None,
    event: Annotated[str, "push or pull_request"] = "push",
    branch: Annotated[str | None, "the pushed branch, or a pull request's target"] = None,
) -> "Outcome":
    """Run the workflows here as a runner would.

    They run in act, on this machine and its engine: a job that deploys does deploy. The checkout is copied, with
    uncommitted changes; the environment is clean.
    """
    from conche.ci.run import run

    return run(invocation, workflow, job, event, branch)


@command()
def graph(
    invocation: Invocation,
    form: Annotated[str, "format: text, mermaid or svg"] = "text",
) -> "Outcome":
    """Draw the jobs and what each waits for."""
    from conche.ci.graph import graph

    return graph(invocation, form)


@command()
def status(
    invocation: Invocation,
    run: Annotated[int | None, "only this run, with its jobs"] = None,
    branch: Branch = None,
    limit: Annotated[int, "how many runs"] = 10,
) -> "Outcome":
    """List the runs on the server.

    Ends with 1 when one of the newest commit, or the one that was asked for, failed.
    """
    from conche.ci.status import status

    return status(invocation, run, branch, limit)


@command()
def watch(
    invocation: Invocation,
    run: RunNumber = None,
    branch: Branch = None,
    commit: Annotated[str | None, "the run of this commit; default: the one checked out, if it was pushed"] = None,
    interval: Annotated[float, "seconds between two queries"] = 3.0,
    timeout: Annotated[float | None, "seconds to wait; default: for ever"] = None,
) -> "Outcome":
    """Wait until a run has ended.

    Of several workflows that a push has started it is the one that deploys; the others are told at the end.
    """
    from conche.ci.forge.chosen import RunChoice
    from conche.ci.watch import watch

    return watch(invocation, RunChoice(run, branch, commit), interval, timeout)


@command()
def logs(
    invocation: Invocation,
    run: FailedRun = None,
    branch: Branch = None,
    job: Annotated[str | None, "one job; default: the failed ones, or all if none failed"] = None,
) -> "Outcome":
    """Show the logs of a run's jobs."""
    from conche.ci.logs import logs

    return logs(invocation, run, branch, job)


@command(changes=True)
def dispatch(
    invocation: Invocation,
    workflow: Annotated[str, "a workflow with workflow_dispatch, such as ci-cd-dual"],
    ref: Annotated[str | None, "branch or tag; default: the server's main branch"] = None,
    inputs: Annotated[list[str], "NAME=VALUE; may be repeated"] = (),  # type: ignore[assignment]
) -> "Outcome":
    """Start a workflow on the server."""
    from conche.ci.dispatch import dispatch

    return dispatch(invocation, workflow, ref, list(inputs))


@command(changes=True)
def rerun(
    invocation: Invocation,
    run: FailedRun = None,
    failed: Annotated[bool, "only the jobs that failed"] = False,
) -> "Outcome":
    """Run a run again."""
    from conche.ci.rerun import rerun

    return rerun(invocation, run, failed=failed)


@command(changes=True)
def cancel(
    invocation: Invocation,
    run: Annotated[int | None, "number of the run; default: the newest that goes on"] = None,
) -> "Outcome":
    """Cancel a run."""
    from conche.ci.cancel import cancel

    return cancel(invocation, run)


@command(changes=True)
def publish(
    invocation: Invocation,
    tag: Annotated[str, "a tag that the server has"],
    files: Annotated[list[str], "a file, or a folder for every file in it; may be repeated"] = (),  # type: ignore[assignment]
    notes: Annotated[str | None, "file with what the page says; default: the tag's section of CHANGELOG.md"] = None,
    force: Annotated[bool, "replace files of the same name that everybody can see"] = False,
) -> "Outcome":
    """Make a release of a tag on the server, with files attached.

    It is a draft until every file is there. Run again, it adds what is missing.
    """
    from conche.ci.publish import publish

    return publish(invocation, tag, list(files), notes, force=force)


@command(changes=True)
def secrets(
    invocation: Invocation,
    check: Annotated[bool, "only check that the server has them"] = False,
    new_key: Annotated[bool, "first make an age key for CI alone"] = False,
) -> "Outcome":
    """Put the Actions secrets on the server.

    SOPS_AGE_KEY is .sops/ci-age-key.txt, or else the key in use; the others come from the encrypted file.
    """
    from conche.ci.secrets import secrets

    return secrets(invocation, check=check, new_key=new_key)


@command(changes=True)
def setup(invocation: Invocation) -> "Outcome":
    """Set up the server, its runners and this checkout for the first push.

    Makes an account and a token, the repository, git's remote and branches, CI's key and secrets, the runners, and test
    jobs for each of their labels. Does only what is missing, and can be run again after any failure.
    """
    from conche.ci.setup import setup

    return setup(invocation)


@command()
def doctor(invocation: Invocation) -> "Outcome":
    """Check everything that the pipeline depends on."""
    from conche.ci.doctor import doctor

    return doctor(invocation)
