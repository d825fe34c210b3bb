"""env.influx.token --read-only: a token that reads a database's buckets and can do nothing else, kept as a secret.

The server itself remembers what a token was made for, in its description: after a kill the next command stores the one
that was made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from conche.backup.influx import Authorization, Influx
from conche.command import Invocation
from conche.engine.connection import Engine
from conche.env.influx.database import declared, opened
from conche.errors import CheckFailed, NotFound, Refused
from conche.locking import locked
from conche.outcome import Action, Kind, Outcome, Plan, Step
from conche.secret import Redactor, Secret
from conche.vault.store import Edit, Store
from conche.vault.values import PLACEHOLDERS, open_store

__all__ = ["token"]

READS = "conche: reads for "
"""The beginning of a token's description, before the name of its secret."""


def token(call: Invocation, name: str, *, secret: str, read_only: bool) -> Outcome:
    """Make a token that may only read, prove that, and store it; nothing is done where the stored one still does.

    Args:
        name: the environment with the database.
        secret: where the token is kept, a secret of the environment that reads.

    Raises:
        Refused: no kind of token was asked for, the secret is that of the operator token, or it has another value that
            nobody has confirmed the loss of.
    """
    if not read_only:
        raise Refused(
            "token-kind-missing",
            "This makes tokens that only read, and does so only with --read-only.",
            next_command=f"invoke env.influx.token --env {name} --read-only    # or: invoke env.influx.rotate-token",
        )
    _require_another(call, name, secret)
    store = _store(call, name, secret)
    with locked(call, Engine(call.environment(name).engine), name):
        influx = opened(call, name, "a token")
        every = _known(call, influx)
        buckets = declared(call, name).buckets or influx.buckets()
        kept, description = store.read().get(secret), f"{READS}{secret}"
        stored = next((one for one in every if one.token == kept and _only_reads(influx, one.token, buckets)), None)
        ours = [one for one in every if one.description == description]
        new = stored or next((one for one in reversed(ours) if one.token != kept), None)
        plan = Plan(tuple(_steps(secret, buckets, _Tokens(kept, stored, new, ours))))
        if call.dry_run or not len(plan):
            lines = [] if len(plan) else [f"Nothing to do: {secret} reads {', '.join(buckets)}."]
            return Outcome(value={"name": secret}, plan=plan, lines=lines)
        if stored is None and _is_anothers(kept, ours) and not call.yes:
            call.output.confirm(f"{secret} has a value that is no token made for it, and that will be replaced.")
        if new is None:
            influx.make_reader(description, buckets)
            new = [one for one in _known(call, influx) if one.description == description and one.token != kept][-1]
        if stored is None:
            _require_proven(influx, new, buckets)
            made = Edit(put={secret: new.token})
            store.change(f"a token to read for {secret}", lambda _: made)
        for old in (one for one in ours if one.id != new.id):
            influx.revoke(old)
    lines = [f"{secret}: a token that reads {', '.join(buckets)}, and is refused when it writes"]
    if stored is None:
        lines += [f"Next: git commit {store.file.name}", *_used_by(call, secret)]
    return Outcome(value={"name": secret}, changed=True, plan=plan, lines=lines)


@dataclass(frozen=True)
class _Tokens:
    """What there is of a token that only reads.

    Attributes:
        kept: what the secret holds now.
        stored: the token that it holds, if that reads the buckets and does nothing else.
        new: the token that it is to hold, if it has been made.
        ours: every token that was made for this secret.
    """

    kept: Secret | None
    stored: Authorization | None
    new: Authorization | None
    ours: Sequence[Authorization]


def _steps(secret: str, buckets: Sequence[str], tokens: _Tokens) -> Iterator[Step]:
    new, ours = tokens.new, tokens.ours
    if new is None:
        yield Step(Action.CREATE, Kind.KEY, secret, f"may read {', '.join(buckets)}")
    if tokens.stored is None:
        replaces = _is_anothers(tokens.kept, ours)
        cause = "the new token, once it is proven" + (", for a value from elsewhere" if replaces else "")
        yield Step(Action.SET, Kind.SECRET, secret, cause, destroys=replaces)
    for one in ours:
        if new is None or one.id != new.id:
            yield Step(Action.REMOVE, Kind.KEY, one.id, f"it was made for {secret} before", destroys=True)


def _is_anothers(kept: Secret | None, ours: Sequence[Authorization]) -> bool:
    """Return whether a secret has a value that was not made here: it may be the only copy of something else."""
    return kept is not None and kept.reveal() not in PLACEHOLDERS and kept not in [one.token for one in ours]


def _require_another(call: Invocation, name: str, secret: str) -> None:
    """Refuse to put a token that only reads in the place of the operator's, which the database itself is run with."""
    if secret == PurePosixPath(declared(call, name).token_file).name.removesuffix(".txt"):
        raise Refused(
            "secret-of-operator",
            f"{secret} is the operator token of {name}'s InfluxDB, and cannot become one that only reads.",
            next_command=f"invoke env.influx.token --env {name} --read-only --secret NAME",
        )


def _store(call: Invocation, name: str, secret: str) -> Store:
    """Return the encrypted file that a secret is in.

    Raises:
        NotFound: stack.yaml declares no such secret.
    """
    known = call.stack.secrets.declared.get(secret) if call.stack.secrets else None
    if known is None:
        raise NotFound(
            "secret-not-declared",
            f"stack.yaml declares no secret {secret}, so a token could not be kept.",
            next_command="invoke secrets.list    # then again, with --secret NAME",
        )
    store = open_store(call.stack.within(known.environments[0] if known.environments else name), call.root)
    store.require_writable()
    return store


def _known(call: Invocation, influx: Influx) -> tuple[Authorization, ...]:
    """Return the tokens that the server knows; none of them is shown by anything from then on."""
    found = influx.authorizations()
    call.output.redact.adopt(Redactor([one.token for one in found]))
    return found


def _only_reads(influx: Influx, token: Secret, buckets: Collection[str]) -> bool:
    return all(influx.may(token, bucket) == {"read"} for bucket in buckets)


def _require_proven(influx: Influx, new: Authorization, buckets: Collection[str]) -> None:
    if not _only_reads(influx, new.token, buckets):
        raise CheckFailed(
            "token-not-proven",
            f"The new token in {influx.container.name} does not read, or may write; it was not stored.",
            next_command=f"docker exec {influx.container.name} influx auth delete --id {new.id}",
        )


def _used_by(call: Invocation, secret: str) -> Sequence[str]:
    assert call.stack.secrets is not None
    return [f"      invoke env.up --env {one}" for one in call.stack.secrets.declared[secret].environments]
