"""invoke env.freeze"""

from __future__ import annotations

import socket
from datetime import UTC, datetime

from conche.command import Invocation
from conche.engine import lock
from conche.engine.compose import Compose
from conche.engine.connection import Engine
from conche.env.rollout.view import open_records
from conche.errors import Refused
from conche.outcome import Action, Kind, Outcome, Plan, Step
from conche.release.records import who
from conche.session import Session

__all__ = ["freeze"]


def freeze(call: Invocation, name: str, *, reason: str | None, off: bool) -> Outcome:
    """Refuse every deploy from now on, for a reason; with `off`, allow them again."""
    engine = Engine(call.environment(name).engine)
    records = open_records(Session(call, name, Compose(engine, call.stack.project(name), ())), readable=False)
    if not off and not reason:
        raise Refused(
            "reason-missing", "A freeze needs a reason, to show to anyone who tries to deploy.",
            next_command=f"invoke env.freeze --env {name} --reason '…'",
        )  # fmt: skip
    frozen = records.frozen()
    if off and not frozen:
        return Outcome(value={"environment": name, "frozen": None}, lines=[f"Nothing to do: {name} is not frozen."])
    plan = Plan((Step(Action.THAW if off else Action.FREEZE, Kind.ENVIRONMENT, name, reason or "asked for"),))
    if call.dry_run:
        return Outcome(plan=plan)
    said = (
        {}
        if off
        else {
            "who": f"{who()}@{socket.gethostname()}",
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "reason": str(reason),
        }
    )
    records.freeze(said)
    words = f"{name} can be deployed again." if off else f"{name} is frozen: {reason}"
    return Outcome(
        value={"environment": name, "frozen": said or None},
        changed=True,
        plan=plan,
        lines=[words],
        warnings=[] if off else _under_way(engine, call.stack.project(name)),
    )


def _under_way(engine: Engine, project: str) -> list[str]:
    """Return a warning with the command that has locked an environment, which has asked before about a freeze.

    Whoever locks the environment from now on finds the freeze that was written before this look.
    """
    holder = lock.holder(engine, project)
    return [f"a command already under way is not stopped: {holder}"] if holder else []
