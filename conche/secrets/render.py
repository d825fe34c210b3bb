"""invoke secrets.render"""

from __future__ import annotations

from conche.command import Invocation
from conche.errors import Refused
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.vault.render import left_over, stage, write
from conche.vault.values import open_store

__all__ = ["render"]


def render(call: Invocation, *, check: bool, env_only: bool, files_only: bool) -> Outcome:
    """Write .env and docker/secrets/*.txt; with `check` only report what is stale (exit code 1)."""
    if env_only and files_only:
        raise Refused("options-exclude-each-other", "--env-only and --files-only cannot be combined.")
    store = open_store(call.stack, call.root)
    section = call.stack.secrets
    assert section is not None
    staged = stage(call.root, section, store.read(), env=not files_only, files_=not env_only)
    states = {one.path.relative_to(call.root): one.state for one in staged}
    stale = [one for one in staged if one.state != "same"]
    gone = [] if env_only else left_over(call.root, section, staged)
    states |= {path.relative_to(call.root): "left over" if check or call.dry_run else "removed" for path in gone}
    plan = Plan(
        (
            *(Step(Action.WRITE, Kind.FILE, str(one.path.relative_to(call.root)), one.state) for one in stale),
            *(
                Step(Action.REMOVE, Kind.FILE, str(path.relative_to(call.root)), "it belongs to no secret any more")
                for path in gone
            ),
        )
    )
    if call.dry_run:
        return Outcome(plan=plan)
    if not check:
        write(call.root, section, staged, gone)
    changed = [one for one in stale if states[one.path.relative_to(call.root)] == "changed"]
    services = sorted({service for one in changed for service in one.services})
    rows = tuple((str(path), state) for path, state in states.items())
    lines = [f"Restart to apply it: {', '.join(services)}"] if services and not check else []
    return Outcome(
        value={"files": {str(path): state for path, state in states.items()}, "restart": services},
        changed=bool(stale or gone) and not check,
        plan=plan,
        tables=[Table(("file", "state"), rows)],
        lines=lines + (["Next: invoke secrets.render"] if check and (stale or gone) else []),
        exit_code=1 if check and (stale or gone) else 0,
    )
