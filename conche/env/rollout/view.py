"""Looks at an environment that is run by releases, for env.status and env.up."""

from __future__ import annotations

import secrets as random
from collections.abc import Sequence
from dataclasses import replace

from conche.command import Invocation
from conche.engine import images, lock
from conche.engine.compose import Compose, Configuration
from conche.engine.containers import Container
from conche.engine.service import Service
from conche.engine.state import State, volume_name
from conche.env.contents import contents_of_service
from conche.env.observe import Observed, contents_of, look
from conche.env.rollout.edge import read_template
from conche.env.rollout.fingerprints import fingerprinted
from conche.env.rollout.look import Look
from conche.env.rollout.read_contents import read_contents
from conche.errors import ConcheError, KeyUnusable, Refused
from conche.locking import readers
from conche.release.desired import described
from conche.release.document import RELEASE, Document, shape
from conche.release.placed import Placed
from conche.release.records import Record, Records
from conche.secret import Redactor
from conche.session import Session

__all__ = [
    "can_tell",
    "compose_of",
    "killed",
    "look_at_release",
    "of_today",
    "open_records",
    "opened",
    "opened_if_possible",
    "require_whole",
    "salt_of",
    "show_records",
]


def open_records(session: Session, also: tuple[str, ...] = (), *, readable: bool = True) -> Records:
    """Open the releases of an environment in order to change something.

    Args:
        also: images through which the state may be reached, before those that run.
        readable: whether what is wanted of the environment must be known.

    Raises:
        WrittenByNewer: a later version has written some of it.
        Refused: some of it cannot be read.
    """
    engine, project, name = session.engine, session.compose.project, session.name
    records = Records(State(engine, project, [*also, *readers(session.call.stack, engine, project)]))
    records.require_known()
    if readable and records.damaged:
        raise Refused(
            "state-damaged",
            f"Of what is kept of {name}, this cannot be read: {described(records.damaged)}.",
            looked_at=[f"{file} in the volume {volume_name(project)}" for file in records.damaged],
            next_command=f"invoke env.recover --env {name} --as-it-is    # takes what runs for what is wanted",
        )
    return records


def show_records(session: Session) -> Records:
    """Open the releases of an environment to show those that this version knows, and warn about the rest."""
    engine, project, say = session.engine, session.compose.project, session.call.output.say
    records = Records(State(engine, project, readers(session.call.stack, engine, project)))
    if records.newer is not None:
        say(f"warning: {records.newer.message}")
    if records.damaged:
        said = f"what is kept of {session.name} cannot be read: {described(records.damaged)}"
        say(f"warning: {said}. Next: invoke env.recover --env {session.name} --as-it-is")
    return records


def killed(records: Records, compose: Compose) -> str:
    """Return the id of a release that was killed; empty if there is none, or if it is under way."""
    unfinished = records.unfinished if records.newer is None else None
    if unfinished is None:
        return ""
    return "" if lock.holder(compose.engine, compose.project) else unfinished.id


def opened(call: Invocation, records: Records, record: Record) -> Document | None:
    """Open a release's document; None if it is gone.

    Raises:
        KeyUnusable: there is no key for it.
    """
    sealed = records.sealed(record)
    if sealed is None:
        return None
    document = _shown(call, record, Document.unpacked(call.vault.unseal(sealed)))
    call.output.redact.learn(document.secrets())
    return document


def _shown(call: Invocation, record: Record, document: Document) -> Document:
    """Return a document with the present values of secrets that no release keeps, if they can be read: to mask them."""
    if not document.unsealed:
        return document
    try:
        return document.valued(call.vault.of(record.environment, create=False))
    except ConcheError:  # a release that serves, or is gone back to, needs none of them
        return document


def of_today(call: Invocation, name: str, document: Document) -> Document:
    """Return a document with the present values of secrets that no release keeps, to make containers from.

    Raises:
        ConcheError: they cannot be read here, and containers would be made without them.
    """
    return document.valued(call.vault.of(name)) if document.unsealed else document


def require_whole(document: Document, record: Record) -> None:
    """Check that containers may be made from a release.

    Raises:
        Refused: it was kept by a version that masked values, and its containers would get `***` for them.
    """
    if not document.masked:
        return
    images = sorted({placed.image for placed in record.services.values()})
    raise Refused(
        "release-masked",
        f"{record.id} was stored by an earlier version of Conche, with `***` in place of secret values: nothing "
        "can be started from it.",
        looked_at=[f"{service}: {', '.join(names)}" for service, names in document.masked_in().items()],
        next_command=f"invoke env.deploy --env {record.environment}    # a new release, with the current values\n"
        + "\n".join(f"# it ran {image}" for image in images),
    )


def salt_of(call: Invocation, records: Records) -> bytes:
    """Return the salt of an environment's fingerprints; a new one before its first release, or without a key here."""
    try:
        return call.vault.unseal(records.salt) if records.salt else random.token_bytes(32)
    except KeyUnusable:
        return random.token_bytes(32)


def opened_if_possible(call: Invocation, records: Records, record: Record | None) -> Document | None:
    """Open a release's document; None also without a key for it: a new release must not depend on an old key."""
    try:
        return opened(call, records, record) if record is not None else None
    except KeyUnusable:
        return None


def compose_of(like: Compose, document: Document) -> Compose:
    """Return the Compose of a release's document, on the same engine and project."""
    redact = Redactor(document.secrets())
    redact.adopt(like.redact)
    variables = {**like.variables, **dict.fromkeys(document.unsealed, ""), **document.variables}
    return replace(like, files=(), document=document.content(), variables=variables, redact=redact)


def look_at_release(session: Session, records: Records) -> Observed | None:
    """Observe an environment as its current release has it; None if there is none, or it does not run.

    The record says which hashes its containers carry, so neither a key nor the release's document is needed.
    """
    call, name, compose, environment = session.call, session.name, session.compose, session.environment
    record = records.current
    if record is None or records.newer is not None:
        return None
    serves = environment.deploy.serves
    behind = Look(name, compose, environment.deploy, {}).with_probes_of(records)
    found, leftovers = look(compose)
    hashes = {one for said in record.services.values() for one in said.hashes}
    if serves is None and any(container.config_hash not in hashes for container in found):
        return None  # brought up from the files since, as development does
    files = _described(call, compose, records, record)
    services = {
        one: Service(
            one,
            said.image,
            frozenset(said.hashes),
            replicas=None if said.hashes else 0,
            ends=_may_end(one, said, files[1] if files else None, found),
            follows=said.follows,
        )
        for one, said in record.services.items()
    }
    foreign = [c for c in found if serves is not None and c.service == serves and c.labels.get(RELEASE) != record.label]
    there = {said.image: images.find(compose.engine, said.image) for said in record.services.values()}
    unfinished = records.unfinished
    running = lock.holder(compose.engine, compose.project)
    return Observed(
        name=name,
        configuration=Configuration(compose.project, services, (), ()),
        containers=tuple(one for one in found if one not in foreign),
        spared=environment.deploy.spared,
        images={reference: image.id if image else None for reference, image in there.items()},
        missing_networks=(),
        leftovers=(*leftovers, *foreign),
        own={},
        release=record.id,
        changed=tuple(sorted({*_changed(call, files, records, record), *_rerouted(call, behind, record)})),
        interrupted=unfinished.id if unfinished is not None and running is None else "",
        contents=contents_of(compose.engine, found, there),
        astray="" if serves is None or running or records.maintained or records.damaged else _astray(behind, record),
    )


def _astray(look: Look, record: Record) -> str:
    """Describe what users are answered, if it is not what the release should answer them.

    While the edge does not run it says nothing: that it does not run is all there is to say.
    """
    if not any(one.state == "running" for one in look.of(look.deploy.edge or "")):
        return ""
    at, answer = look.state()
    if at == record.label and look.right(answer, at):
        return ""
    where = (
        "" if at == record.label else f", and the edge sends requests to {at or 'nothing'} instead of {record.label}"
    )
    return f"its users get {answer.brief}{where}"


def _rerouted(call: Invocation, look: Look, record: Record) -> tuple[str, ...]:
    """Return the edge's service if the checkout would give it another configuration."""
    edge = look.deploy.edge
    if edge is None or not any(one.state == "running" for one in look.of(edge)):
        return ()
    found = look.configured()
    wanted = look.edge_configuration(read_template(call.root, look.deploy), record.label, maintenance=False)
    return (edge,) if found and found != wanted.plain else ()


def can_tell(call: Invocation, records: Records) -> bool:
    """Return whether the files can be compared with what serves: not without the key for the secrets they name.

    A release that was made without a key has the values that are generated for development, as the files have now.
    """
    if call.stack.secrets is None or call.vault.key is not None:
        return True
    return opened_if_possible(call, records, records.current) is not None


def _described(
    call: Invocation, compose: Compose, records: Records, record: Record
) -> tuple[Compose, Configuration] | None:
    """Return the files that releases are made from now, and what they say; None if nobody can tell."""
    if not can_tell(call, records):
        return None
    overlay = call.stack.environments[record.environment].deploy.overlay
    files = replace(compose, files=(*compose.files, *(call.root / file for file in overlay)))
    return files, files.configuration(hashed=False)


def _may_end(name: str, placed: Placed, files: Configuration | None, found: Sequence[Container]) -> bool:
    """Return whether a service is a one-shot, whatever an earlier version has not kept of it with its release."""
    if placed.ends is not None:
        return placed.ends
    service = files.services.get(name) if files else None
    if service is not None:
        return service.ends or service.completes
    # A server that has neither may have ended, too; but one that is asked for its health is meant to run.
    own = [one for one in found if one.service == name]
    return bool(own) and all(one.restart_policy in ("no", "on-failure") and not one.healthcheck for one in own)


def _changed(
    call: Invocation, described: tuple[Compose, Configuration] | None, records: Records, record: Record
) -> tuple[str, ...]:
    """Return services whose files have changed since; without a key nobody can tell."""
    if described is None:
        return ()
    files, configuration = described
    rendered = configuration.rendered
    now = {name: shape(rendered, name, str(call.root)) for name in rendered["services"]}
    other = {name for name in now.keys() | record.files.keys() if now.get(name) != record.files.get(name)}
    return tuple(sorted(other | _other_contents(call, files, configuration, records, record)))


def _other_contents(
    call: Invocation, files: Compose, configuration: Configuration, records: Records, record: Record
) -> set[str]:
    """Return services with a config or secret that has changed since; what cannot be read or compared is left out."""
    if not record.contents or not records.salt:
        return set()
    try:
        salt = call.vault.unseal(records.salt)
        secrets = call.vault.of(record.environment, create=False)
        now = fingerprinted(salt, read_contents(call, record.environment, files, configuration, secrets))
    except ConcheError:
        return set()
    changed = {key for key, had in record.contents.items() if key in now and now[key] != had}
    return {
        name
        for name in configuration.services
        if any(str(one) in changed for one in contents_of_service(configuration.rendered, name))
    }
