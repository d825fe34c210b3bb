"""The runners that ci.runner.* is about, and their environment with them in it."""

from __future__ import annotations

from collections.abc import Sequence

from conche.ci.workflows.runners import Runner, runners
from conche.command import Invocation
from conche.errors import NotFound

__all__ = ["described", "with_profiles"]


def described(call: Invocation) -> list[Runner]:
    """Return the runners of the first environment that has some."""
    found = runners(call.root, call.stack)
    if not found:
        raise NotFound(
            "no-runners",
            "No Compose file here describes a runner.",
            looked_at=["services with GITEA_RUNNER_LABELS, FORGEJO_RUNNER_LABELS or RUNNER_LABELS"],
            next_command="conche docs pipeline",
        )
    return [runner for runner in found if runner.environment == found[0].environment]


def with_profiles(call: Invocation, environment: str, found: Sequence[Runner]) -> Invocation:
    """Return the call with the runners' profiles added to their environment."""
    stack = call.stack
    before = stack.environments[environment]
    profiles = dict.fromkeys((*before.profiles, *(one for runner in found for one in runner.profiles)))
    after = before.model_copy(update={"profiles": tuple(profiles)})
    return call.with_stack(stack.model_copy(update={"environments": {**stack.environments, environment: after}}))
