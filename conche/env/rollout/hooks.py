"""Runs hooks: commands of stack.yaml that run on this machine, around a release."""

from __future__ import annotations

from conche.command import Invocation
from conche.errors import ConcheError, Refused
from conche.process import run
from conche.release.records import Record, Result
from conche.stack import Deploy, Hook

__all__ = ["run_after", "run_first"]


def run_first(call: Invocation, deploy: Deploy, record: Record) -> None:
    """Run the hook before anything is changed.

    Raises:
        Refused: it failed, and nothing was changed.
    """
    hook = deploy.hooks.get("pre-deploy")
    problem = _problem(call, hook, record, "pre-deploy") if hook else ""
    if problem:
        raise Refused(
            "hook-failed", f"The pre-deploy hook refused: {problem}. Nothing was changed.",
            next_command="correct what it complains about, or the hook in stack.yaml",
        )  # fmt: skip


def run_after(call: Invocation, deploy: Deploy, record: Record, result: Result) -> list[str]:
    """Run the hooks after a release, and return what went wrong, in words; they never change the result."""
    if result is not Result.SUCCEEDED:
        names = ["on-failure"]
    else:
        names = ["post-deploy", "on-rollback"] if record.kind == "rollback" else ["post-deploy"]
    problems = []
    for name in names:
        hook = next((one for key, one in deploy.hooks.items() if key == name), None)
        problem = _problem(call, hook, record, result.value) if hook else ""
        if problem:
            problems.append(f"the {name} hook failed, which does not affect the result: {problem}")
    return problems


def _problem(call: Invocation, hook: Hook, record: Record, result: str) -> str:
    told = {
        "CONCHE_ENVIRONMENT": record.environment,
        "CONCHE_RELEASE": record.id,
        "CONCHE_RESULT": result,
        "CONCHE_KIND": record.kind,
        "CONCHE_REVISION": record.revision,
        "CONCHE_IMAGES": " ".join(sorted({placed.image for placed in record.services.values()})),
    }
    try:
        done = run(hook.command, extra_env=told, cwd=call.root, timeout=hook.timeout, redact=call.output.redact)
    except ConcheError as error:
        return error.message
    except OSError as error:  # it exists, but the kernel does not take it for a program
        return f"{hook.command[0]} cannot be run: {error.strerror}"
    return "" if done.ok else f"{hook.command[0]} exited with {done.exit_code}: {' '.join(done.last_lines(2))}"
