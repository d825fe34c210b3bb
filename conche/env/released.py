"""env.up of releases: brings up what the current one has; behind an edge, deploys if there is none."""

from __future__ import annotations

from dataclasses import replace

from conche.command import Invocation
from conche.engine.compose import Compose
from conche.engine.containers import Container
from conche.env import preflight, report
from conche.env.carry_out import carry_out, nothing_to_do
from conche.env.contents import contents_of_service, differs
from conche.env.deploy import deploy
from conche.env.locking import everywhere, here
from conche.env.observe import Observed, observe
from conche.env.plan import plan_up, works
from conche.env.request import UpRequest
from conche.env.rollout import members
from conche.env.rollout.look import Look
from conche.env.rollout.prepare import Wanted
from conche.env.rollout.recover import settle
from conche.env.rollout.release import Options
from conche.env.rollout.route import template_of
from conche.env.rollout.view import (
    compose_of,
    look_at_release,
    of_today,
    open_records,
    opened,
    opened_if_possible,
    require_whole,
    show_records,
)
from conche.errors import Locked, Partial, Refused
from conche.outcome import Outcome
from conche.process import signals_deferred
from conche.release.document import Document
from conche.release.records import Records
from conche.session import Session, open_compose

__all__ = ["has_other_key", "up_as_released", "up_released"]


def up_released(call: Invocation, name: str, request: UpRequest) -> Outcome:
    """Bring up what the current release is made of; if there is none, or a new image is asked for, deploy.

    Raises:
        Refused: a build is asked for, which an environment with releases gets by images.release.
    """
    if request.build:
        raise Refused(
            "release-managed",
            f"{name} is managed by releases: an image is first built and pushed, then deployed.",
            next_command=f"invoke images.release --env {name}\ninvoke env.deploy --env {name}",
        )
    files = open_compose(call, name)
    session = Session(call, name, files)
    records = open_records(session)
    current = records.current
    document = opened(call, records, current) if current else None
    if request.only is not None or current is None or document is None or call.environment(name).swarm:
        return deploy(call, name, Wanted(local=request.local), Options(timeout=request.timeout))
    document = of_today(call, name, document)
    compose = compose_of(files, document)
    with here(call, name) as held:
        now = show_records(session)
        overtaken = _ids(now) != _ids(records)
        released = None if overtaken else look_at_release(session, now)
        whole = released is not None and not (released.leftovers or released.interrupted) and report.is_well(released)
        if released is not None and whole and not has_other_key(compose, document, released):
            return nothing_to_do(call, name, released)
        if not overtaken:
            return _bring_up(replace(session, compose=compose, held=held), records, document, request.timeout)
    # This command has waited for one that released.
    return up_released(call, name, request)


def up_as_released(session: Session, timeout: float | None) -> Outcome | None:
    """Bring up what the current release of an environment without an edge has; None if nobody here can open it."""
    call = session.call
    records = open_records(session)
    document = opened_if_possible(call, records, records.current)
    if document is None or document.masked:
        return None
    document = of_today(call, session.name, document)
    return _bring_up(replace(session, compose=compose_of(session.compose, document)), records, document, timeout)


def _bring_up(session: Session, records: Records, document: Document, timeout: float | None) -> Outcome:
    """Bring up what the current release is made of.

    Args:
        session: with the Compose of the release's document.
    """
    call, name, compose = session.call, session.name, session.compose
    current = records.current
    assert current is not None
    require_whole(document, current)
    seen = _observe(session, records)
    plan = plan_up(seen)
    preflight.check(seen, plan, compose, section=call.stack.secrets)
    if call.dry_run:
        return Outcome(plan=plan)
    with everywhere(call, compose.engine, name):
        _require_current(session, records)
        look = Look(name, compose, session.environment.deploy, document.body).with_probes_of(records)
        records = settle(call, records, look, thorough=True)
        _see_edge(call, look, records)
        seen = _observe(session, records)
        plan = plan_up(seen)
        try:
            with members.naming(look, _serving(look, seen)):
                outcome = carry_out(session, seen, plan, timeout)
        except Partial:
            records.remade(current, look.made(current))
            raise
        records.remade(current, look.made(current))
    return outcome


def _require_current(session: Session, read: Records) -> None:
    """Check that nobody has released while this command waited for the engine's lock.

    Raises:
        Locked: another machine has released, or begun to.
    """
    name, now = session.name, open_records(session)
    if _ids(now) != _ids(read):
        newest = now.unfinished or now.current
        raise Locked(
            "released-meanwhile",
            f"{name} was released from elsewhere meanwhile; nothing was changed.",
            looked_at=[newest.id] if newest else [],
            next_command=f"invoke env.up --env {name}",
        )


def _ids(records: Records) -> tuple[str, ...]:
    """Return the ids of the release that serves and of the one that is unfinished."""
    return tuple(one.id for one in (records.current, records.unfinished) if one is not None)


def _observe(session: Session, records: Records) -> Observed:
    """Observe the environment, wanting as many containers as env.scale has asked for since the release.

    The release's document cannot ask for them: `deploy.replicas` in it would change the hash, and so replace the
    containers.
    """
    seen = observe(session.call.stack, session.name, session.compose)
    wanted = {
        one: replace(service, replicas=records.replicas().get(one, service.replicas))
        for one, service in seen.configuration.services.items()
    }
    spared = session.environment.deploy.spared
    return replace(seen, configuration=replace(seen.configuration, services=wanted), spared=spared)


def has_other_key(compose: Compose, document: Document, seen: Observed) -> bool:
    """Return whether a secret that no release keeps has another value than a container was made with."""
    return any(
        differs(compose, content, one)
        for one in (seen.containers if document.unsealed else ())
        if one.service in document.body["services"]
        for content in contents_of_service(document.body, one.service)
        if content.said.get("environment") in document.unsealed
    )


def _serving(look: Look, seen: Observed) -> list[Container]:
    """Return what goes on serving while others of the same release are started; nothing if none has to be."""
    serves = look.deploy.serves
    if serves is None:
        return []
    service = seen.configuration.services[serves]
    good = [one for one in seen.of(serves) if works(service, one)]
    return good if len(good) < max(len(seen.of(serves)), service.replicas or 1) else []


def _see_edge(call: Invocation, look: Look, records: Records) -> None:
    """Create an edge that has no container, so that it starts with its configuration."""
    if look.deploy.edge is None or look.of(look.deploy.edge) or records.current is None:
        return
    compose = look.compose
    with signals_deferred():
        compose.make(compose.create_alone(look.deploy.edge)).require("creating the edge")
        release = records.current.label
        template = template_of(call, records, look, release)
        look.edge().begin(look.edge_configuration(template, release, maintenance=records.maintained))
