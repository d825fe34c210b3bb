"""ci.secrets: put the Actions secrets on the server, from CI's own age key and the encrypted file."""

from __future__ import annotations

import os
from collections.abc import Sequence

from conche.ci.act import credentials
from conche.ci.forge import Forge, connect
from conche.command import Invocation
from conche.errors import KeyUnusable, Refused
from conche.files import write_atomic
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.secrets.recipients.add import add
from conche.vault import keys
from conche.vault.values import open_store

__all__ = ["key_steps", "make_key", "secrets"]


def secrets(call: Invocation, *, check: bool, new_key: bool) -> Outcome:
    """Check whether the secrets are on the server, or put them there."""
    if check and new_key:
        raise Refused(
            "options-exclude-each-other",
            "--check changes nothing, but --new-key makes a key.",
            next_command="leave one out",
        )
    return _check(call) if check else _put(call, new_key=new_key)


def _check(call: Invocation) -> Outcome:
    """Check that the server has every secret that workflows may use; only names, since it never tells values."""
    forge = connect(call)
    there = set(forge.secret_names())
    wanted = call.stack.ci.secrets
    rows = tuple((name, "ok" if name in there else "missing") for name in wanted)
    missing = [name for name in wanted if name not in there]
    return Outcome(
        value={"secrets": {name: name in there for name in wanted}, "others": sorted(there - set(wanted))},
        tables=[Table(("secret", "state"), rows)],
        lines=["Next: invoke ci.secrets"] if missing else [],
        warnings=[
            f"{name} is on the server but not in ci.secrets of stack.yaml" for name in sorted(there - set(wanted))
        ],
        exit_code=1 if missing else 0,
    )


def _put(call: Invocation, *, new_key: bool) -> Outcome:
    """Put the secrets of `ci.secrets` on the server.

    Args:
        new_key: make an age key for CI, or use the one that is there, and let it read the encrypted file.

    Raises:
        KeyUnusable: a secret has no value here.
    """
    steps = key_steps(call) if new_key else []
    forge, names = connect(call), call.stack.ci.secrets
    there = _there(forge)
    steps += [Step(Action.PUT, Kind.SECRET, name, _cause(name, there)) for name in names]
    plan = Plan(tuple(steps))
    if call.dry_run:
        return Outcome(plan=plan)
    if new_key:
        for line in make_key(call):
            call.output.say(line)
    values = credentials.values(call, names)
    absent = [name for name in names if name not in values]
    if absent:
        raise KeyUnusable(
            "secret-has-no-value",
            f"{', '.join(absent)} has no value here; no secret was stored.",
            looked_at=keys.looked_at(call.root),
            next_command="invoke ci.secrets --new-key" if absent == [credentials.AGE_KEY] else f"export {absent[0]}=…",
        )
    empty = [name for name in names if not values[name].reveal()]
    if empty:
        raise Refused(
            "value-empty",
            f"{', '.join(empty)} is empty, which no server accepts; no secret was stored.",
            looked_at=[f"{name} in this shell" for name in empty if name in os.environ],
            next_command=f"unset {empty[0]}    # or give it a value\ninvoke ci.secrets",
        )
    new = {name: forge.put_secret(name, values[name]) for name in names}
    rows = tuple((name, "created" if fresh else "changed") for name, fresh in new.items())
    return Outcome(
        value={"put": list(names), "created": [name for name, fresh in new.items() if fresh]},
        changed=bool(names),
        plan=plan,
        tables=[Table(("secret", "state"), rows)],
        warnings=_own_key(call),
    )


def _there(forge: Forge) -> set[str] | None:
    return set(forge.secret_names()) if forge.can("secret-list") else None


def _cause(name: str, there: set[str] | None) -> str:
    if there is None:
        return "this server does not list its secrets"
    return "it is not on the server" if name not in there else "its value on the server may differ"


def key_steps(call: Invocation) -> list[Step]:
    """Plan what is missing for CI's own key: the key itself, or its being a recipient of the encrypted file."""
    key = credentials.ci_key(call.root)
    known = open_store(call.stack, call.root).document().recipients
    made = [] if key else [Step(Action.CREATE, Kind.KEY, str(credentials.CI_KEY), "CI has no key of its own")]
    named = key.public[0] if key else "of CI"
    added = (
        []
        if key and key.public[0] in known
        else [Step(Action.ADD, Kind.RECIPIENT, named, "it cannot decrypt the file yet")]
    )
    return made + added


def make_key(call: Invocation) -> Sequence[str]:
    """Make CI's own key, and let it read the encrypted file.

    The key file comes first, so that a command interrupted between the two finishes when it is run again.
    """
    file = call.root / credentials.CI_KEY
    if credentials.ci_key(call.root) is None:
        identity, public = keys.generate()
        file.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomic(file, f"# public key: {public}\n{identity.reveal()}\n".encode(), mode=0o600)
    key = credentials.ci_key(call.root)
    assert key is not None
    return add(call, key.public[0]).lines


def _own_key(call: Invocation) -> list[str]:
    if credentials.AGE_KEY not in call.stack.ci.secrets or credentials.ci_key(call.root) is not None:
        return []
    risk = "CI uses your own key: revoking it for CI would lock you out too"
    return [f"{risk}. Give CI its own key: invoke ci.secrets --new-key"]
