"""invoke secrets.run"""

from __future__ import annotations

import os
import shutil

from conche.command import Invocation
from conche.errors import NotFound, Refused
from conche.outcome import Outcome
from conche.process import replace
from conche.vault.values import called, open_store, variables

__all__ = ["run"]

NEVER_SET = ("PATH", "HOME", "SHELL", "IFS", "PYTHONPATH", "PYTHONHOME")
"""Variables that determine what a command runs; a secret under such a name is refused."""


def run(call: Invocation, *, only: str | None) -> Outcome:
    """Become the command after `--`, with the secrets in its environment but no key."""
    if not call.remainder:
        raise Refused("no-command", "There is no command after `--`.", next_command="invoke secrets.run -- env")
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
            "variable-refused", f"{', '.join(wrong)} determines which program runs, so it cannot be set from a secret."
        )
    if shutil.which(call.remainder[0]) is None:
        raise NotFound("no-such-program", f"There is no program {call.remainder[0]!r}.")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SOPS_")}
    return replace(call.remainder, {**inherited, **{name: secret.reveal() for name, secret in named.items()}})
