"""ci.runner.logs: what the runners write."""

from __future__ import annotations

from conche.ci.runner.described import described, with_profiles
from conche.command import Invocation
from conche.env.logs import logs as logs_of
from conche.errors import NotFound, Refused, did_you_mean
from conche.outcome import Outcome

__all__ = ["logs"]


def logs(call: Invocation, name: str | None, *, follow: bool, tail: int) -> Outcome:
    """Show the logs of all runners, or of one."""
    found = described(call)
    environment = found[0].environment
    chosen = [runner for runner in found if name in (None, runner.name, runner.service)]
    if not chosen:
        names = [runner.name for runner in found]
        raise NotFound(
            "no-such-runner",
            f"There is no runner {name!r}.{did_you_mean(name or '', names)}",
            looked_at=[f"runners: {', '.join(names)}"],
            next_command=f"invoke ci.runner.logs --runner {names[0]}",
        )
    if follow and len(chosen) > 1:
        raise Refused(
            "one-is-followed",
            "Only one runner can be followed at a time.",
            looked_at=[f"runners: {', '.join(runner.name for runner in found)}"],
            next_command=f"invoke ci.runner.logs --runner {chosen[0].name} --follow",
        )
    profiled = with_profiles(call, environment, found)
    said: list[object] = []
    silent: list[str] = []
    for runner in chosen:
        answer = logs_of(profiled, environment, follow=follow, tail=tail, service=runner.service)
        said += answer.value if isinstance(answer.value, list) else []
        # Its lines only say that nothing was shown.
        silent += [runner.name] if answer.lines else []
    lines = [f"Runner {name} has no container, or its log is empty. Next: invoke ci.runner.status" for name in silent]
    return Outcome(value=said if call.output.as_json else None, lines=lines)
