"""secrets.render, run, backup-key: secrets to where they are used."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from conche.command import Invocation
from conche.errors import NotFound, Refused
from conche.files import write_atomic
from conche.outcome import Outcome, Plan, Step, Table
from conche.process import replace
from conche.secrets import keys, render
from conche.secrets.values import called, open_store, variables

__all__ = ["backup_key", "render_all", "run_with"]

NEVER_SET = ("PATH", "HOME", "SHELL", "IFS", "PYTHONPATH", "PYTHONHOME")
"""Variables that decide what a command is; a secret of such a name is refused."""


def render_all(call: Invocation, *, check: bool, env_only: bool, files_only: bool) -> Outcome:
    """Write .env and docker/secrets/*.txt; with `check` only tell what is stale (exit code 1)."""
    if env_only and files_only:
        raise Refused("options-exclude-each-other", "--env-only and --files-only exclude each other.")
    store = open_store(call.stack, call.root)
    section = call.stack.secrets
    assert section is not None
    staged = render.stage(call.root, section, store.read(), env=not files_only, files_=not env_only)
    states = {one.path.relative_to(call.root): one.state for one in staged}
    stale = [one for one in staged if one.state != "same"]
    gone = [] if env_only else render.left_over(call.root, section, staged)
    states |= {path.relative_to(call.root): "left over" if check or call.dry_run else "removed" for path in gone}
    plan = Plan(
        (
            *(Step("write", f"file {one.path.relative_to(call.root)}", one.state) for one in stale),
            *(Step("remove", f"file {path.relative_to(call.root)}", "no secret has it any more") for path in gone),
        )
    )
    if call.dry_run:
        return Outcome(plan=plan)
    if not check:
        render.write(call.root, section, staged, gone)
    changed = [one for one in stale if states[one.path.relative_to(call.root)] == "changed"]
    services = sorted({service for one in changed for service in one.services})
    rows = tuple((str(path), state) for path, state in states.items())
    lines = [f"Restart, to take it up: {', '.join(services)}"] if services and not check else []
    return Outcome(
        value={"files": {str(path): state for path, state in states.items()}, "restart": services},
        changed=bool(stale or gone) and not check,
        plan=plan,
        tables=[Table(("file", "state"), rows)],
        lines=lines + (["Next: invoke secrets.render"] if check and (stale or gone) else []),
        exit_code=1 if check and (stale or gone) else 0,
    )


def run_with(call: Invocation, *, only: str | None) -> Outcome:
    """Become the command after `--`, with the secrets in its environment and no key."""
    if not call.remainder:
        raise Refused("no-command", "Nothing stands after `--`.", next_command="invoke secrets.run -- env")
    store = open_store(call.stack, call.root)
    assert call.stack.secrets is not None
    values = {name: value for name, value in store.read().items() if name in call.stack.secrets.declared}
    wanted = [name.strip() for name in only.split(",")] if only else list(values)
    unknown = [name for name in wanted if name not in values]
    if unknown:
        said = called(unknown[0], values)
        raise NotFound("no-such-secret", f"There is no secret {said}", next_command="invoke secrets.list")
    named = variables(call.stack.secrets, {name: values[name] for name in wanted})
    wrong = [name for name in named if name in NEVER_SET or name.startswith("LD_")]
    if wrong:
        raise Refused(
            "variable-refused", f"{', '.join(wrong)} decides what a command is, and is not set from a secret."
        )
    if shutil.which(call.remainder[0]) is None:
        raise NotFound("no-such-program", f"There is no program {call.remainder[0]!r}.")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SOPS_")}
    return replace(call.remainder, {**inherited, **{name: secret.reveal() for name, secret in named.items()}})


def backup_key(call: Invocation, path: str) -> Outcome:
    """A copy of the key, encrypted to a passphrase that is asked for or read from a pipe."""
    from pyrage import passphrase

    from conche.secrets.change import asked

    key = keys.require(call.root)
    target = Path(path).expanduser()
    if target.exists():
        raise Refused("file-exists", f"{target} is there already; nothing was written.")
    if call.dry_run:
        return Outcome(plan=Plan((Step("write", f"file {target}", "asked for"),)))
    secret = asked("passphrase")
    if len(secret) < 12:
        raise Refused("passphrase-short", "A passphrase of less than 12 characters protects little.")
    write_atomic(target, passphrase.encrypt(key.identities.reveal().encode(), secret.reveal()), mode=0o600)
    return Outcome(
        value={"file": str(target), "public": list(key.public)},
        changed=True,
        lines=[
            f"To get it back: age --decrypt --output .sops/age-key.txt '{target}'",
            "Keep it apart from the backups.",
        ],
    )
