"""env.influx.rotate-token: a new operator token beside the old one, which goes once nobody uses it any more.

The server itself remembers the rotation, in the new token's description: after a kill the next command goes on with the
token that was made. At every moment the token in the encrypted file is one that the server accepts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from conche.backup.influx import Authorization, Influx, InfluxFailed
from conche.command import Invocation
from conche.engine import programs
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.env.influx.database import declared, opened
from conche.errors import CheckFailed, NotFound, Refused
from conche.locking import locked
from conche.outcome import Action, Kind, Outcome, Plan, Step
from conche.secret import Redactor, Secret
from conche.services import containers_of
from conche.stack import SecretDeclaration
from conche.vault.store import Edit, Store
from conche.vault.values import open_store

__all__ = ["rotate_token"]

REPLACES = "conche: replaces "
"""The beginning of a new token's description, before the id of the old one."""

PATIENCE = 60.0
"""Seconds that a container may take to tell which token it has."""


@dataclass(frozen=True)
class _Rotation:
    """A token, where it is kept, and who uses it."""

    call: Invocation
    environment: str
    influx: Influx
    store: Store
    name: str
    declared: SecretDeclaration
    token: Secret

    def known(self) -> tuple[Authorization, ...]:
        """Return the tokens that the server knows; none of them is shown by anything from then on."""
        found = self.influx.authorizations(self.token)
        self.call.output.redact.adopt(Redactor([one.token for one in found]))
        return found


def rotate_token(call: Invocation, name: str, *, finish: bool) -> Outcome:
    """Make a new token and store it; with `finish`, revoke the old one once everybody has the new one."""
    environment = call.environment(name)
    with locked(call, Engine(environment.engine), name):
        rotation = _begun(call, name)
        try:
            every = rotation.known()
        except InfluxFailed as error:
            raise Refused(
                "token-refused",
                f"{rotation.influx.container.name} rejects the {rotation.name} of {rotation.store.file.name}.",
                looked_at=list(error.looked_at),
                evidence=error.evidence,
                next_command="\n".join(rotation.influx.way_out(name)),
            ) from error
        current = next((one for one in every if one.token == rotation.token), None)
        if current is None:
            raise CheckFailed(
                "token-not-listed",
                f"{rotation.influx.container.name} accepts {rotation.name}, but does not list it; nothing was changed.",
                looked_at=["influx auth list"],
                next_command="give it the operator token: an all-access token is not told of all others",
            )
        replaced = [one for one in every if current.description == f"{REPLACES}{one.id}"]
        return _finished(rotation, current, replaced) if finish else _renewed(rotation, current, every, replaced)


def _begun(call: Invocation, name: str) -> _Rotation:
    """Find the token of an environment's InfluxDB among its secrets.

    Raises:
        NotFound: it has none, or the database does not run.
        Refused: stack.yaml declares no such secret.
    """
    stack = call.stack.within(name)
    influx = opened(call, name, "a new token")
    secret = PurePosixPath(influx.token_file).name.removesuffix(".txt")
    known = stack.secrets.declared.get(secret) if stack.secrets else None
    if known is None:
        raise Refused(
            "secret-not-declared",
            f"stack.yaml declares no secret {secret}, so a new token of InfluxDB could not be kept.",
            looked_at=[f"token_file of the component influxdb: {influx.token_file}"],
            next_command="declare it under secrets.declared in stack.yaml",
        )
    store = open_store(stack, call.root)
    store.require_writable()
    value = store.read().get(secret)
    if value is None:
        raise NotFound("no-such-secret", f"{store.file.name} has no {secret}.", next_command="invoke secrets.list")
    return _Rotation(call, name, influx, store, secret, known, value)


def _renewed(
    rotation: _Rotation, current: Authorization, every: Sequence[Authorization], replaced: Sequence[Authorization]
) -> Outcome:
    """Make the new token, prove it, and store it."""
    if replaced:
        raise Refused(
            "rotation-unfinished",
            f"The token that {rotation.name} has replaced is still valid in {rotation.influx.container.name}.",
            next_command=_finish(rotation),
        )
    description = f"{REPLACES}{current.id}"
    made = [one for one in every if one.description == description]
    plan = Plan(
        (
            *([] if made else [Step(Action.CREATE, Kind.KEY, rotation.name, "an operator token beside the old one")]),
            Step(Action.SET, Kind.SECRET, rotation.name, "the new token, once it is proven"),
        )
    )
    if rotation.call.dry_run:
        return Outcome(plan=plan)
    if not made:
        rotation.influx.make_operator(description)
        made = [one for one in rotation.known() if one.description == description]
    [new, *_] = made
    # Only an operator token is told of every other one.
    if {one.id for one in rotation.influx.authorizations(new.token)} != {one.id for one in rotation.known()}:
        raise CheckFailed(
            "token-not-proven",
            f"The new token in {rotation.influx.container.name} may do less than the old one; the old one stays.",
            next_command=f"docker exec {rotation.influx.container.name} influx auth delete --id {new.id}",
        )
    rotation.store.change(f"rotating {rotation.name}", lambda _: Edit(put={rotation.name: new.token}))
    return Outcome(
        value={"name": rotation.name, "finished": False},
        changed=True,
        plan=plan,
        lines=[
            f"{rotation.name}: a new token, which InfluxDB accepts beside the old one",
            f"Next: git commit {rotation.store.file.name}",
            f"      {_deploy(rotation)}",
            f"      {_finish(rotation)}",
        ],
    )


def _finished(rotation: _Rotation, current: Authorization, replaced: Sequence[Authorization]) -> Outcome:
    """Revoke the old token; refuse that while somebody uses it."""
    if not replaced:
        return Outcome(
            value={"name": rotation.name, "finished": True}, lines=["There is no old token that is still valid."]
        )
    plan = Plan(tuple(Step(Action.REMOVE, Kind.KEY, one.id, "the old token", destroys=True) for one in replaced))
    _require_deployed(rotation)
    if rotation.call.dry_run:
        return Outcome(plan=plan)
    for one in replaced:
        # Backups fall back on the container's own configuration, so it gets the new token first.
        rotation.influx.replace_in_configuration(one.token, current.token)
        rotation.influx.revoke(one)
    left = {one.id for one in rotation.known()}
    if still := [one.id for one in replaced if one.id in left]:
        raise CheckFailed(
            "token-not-revoked",
            f"{rotation.influx.container.name} still has the old token {', '.join(still)}.",
            next_command=_finish(rotation),
        )
    return Outcome(
        value={"name": rotation.name, "finished": True},
        changed=True,
        plan=plan,
        lines=[
            "The old token is revoked.",
            "Earlier releases have it: a rollback to one of them could not read the database.",
        ],
    )


def _require_deployed(rotation: _Rotation) -> None:
    """Check that every running container that uses the token has the new one.

    Raises:
        Refused: one has another, or does not tell.
    """
    behind = [f"{one.name}: {why}" for one in _users(rotation) if (why := _difference(rotation, one))]
    if behind:
        raise Refused(
            "token-in-use",
            f"The old token of {rotation.influx.container.name} is still in use, or may be; nothing was revoked.",
            evidence=behind,
            next_command=_deploy(rotation),
        )


def _users(rotation: _Rotation) -> Iterator[Container]:
    call, name = rotation.call, rotation.environment
    wanted = {*rotation.declared.services, str(declared(call, name).service)}
    yield from (one for service, one in containers_of(call.stack, name) if service in wanted)


def _difference(rotation: _Rotation, container: Container) -> str:
    """Return why a container may not have the new token; empty if it has it, or does not run."""
    if container.state != "running":
        return ""
    variable = rotation.declared.variable(rotation.name)
    asked = {
        f"/run/secrets/{rotation.name}": ["cat", f"/run/secrets/{rotation.name}"],
        variable: ["printenv", variable],
    }
    seen = {place: told for place, argv in asked.items() if (told := _told(rotation, container, argv)) is not None}
    if not seen:
        return f"it tells neither {' nor '.join(asked)}"
    wrong = [place for place, told in seen.items() if told != rotation.token]
    return f"{', '.join(wrong)} has another one" if wrong else ""


def _told(rotation: _Rotation, container: Container, argv: Sequence[str]) -> Secret | None:
    engine, number = rotation.influx.engine, programs.new_number()
    done = programs.run(engine, container.id, argv, number=number, user="0:0", timeout=PATIENCE)
    return Secret(done.stdout.raw.strip()) if done.ok else None


def _deploy(rotation: _Rotation) -> str:
    name = rotation.environment
    return f"invoke env.up --env {name}    # or, with releases: invoke env.deploy --env {name}"


def _finish(rotation: _Rotation) -> str:
    return f"invoke env.influx.rotate-token --env {rotation.environment} --finish"
