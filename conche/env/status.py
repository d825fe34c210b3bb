"""invoke env.status"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from conche.command import Invocation
from conche.engine import containers, state, tailnet
from conche.env import report
from conche.env.observe import Observed, glance, observe
from conche.env.rollout.swarm_view import SwarmObserved, look_at_swarm
from conche.env.rollout.view import killed, look_at_release, show_records
from conche.env.unread import described, is_unreadable
from conche.errors import ConcheError, Refused
from conche.outcome import Outcome
from conche.session import Session, open_compose, open_unread

__all__ = ["status"]


def status(call: Invocation, name: str | None) -> Outcome:
    """Show every environment, or one: services, health, revision, drift. Exit code 1 on drift or ill health.

    An environment that is down is only at fault if it was asked for by name.
    """
    names = [name] if name else list(call.stack.environments)
    for one in names:
        call.environment(one)
    with ThreadPoolExecutor(len(names)) as pool:
        looked = list(pool.map(lambda one: _look(call, one), names))
    unreachable = [(one, found) for one, found in zip(names, looked, strict=True) if isinstance(found, ConcheError)]
    seen = [found for found in looked if isinstance(found, Observed)]
    swarmed = [found for found in looked if isinstance(found, SwarmObserved)]
    if not (seen or swarmed):
        raise unreachable[0][1]
    ill = [one.name for one in seen if not report.is_well(one) and (name or one.containers)]
    ill += [one.name for one in swarmed if not one.well and (name or one.services)]
    return Outcome(
        value=[report.as_json(one, call.environment(one.name)) for one in seen]
        + [one.as_json() for one in swarmed]
        + [{"environment": one, "error": error.as_json()} for one, error in unreachable],
        warnings=[f"{one}: {error.message}" for one, error in unreachable],
        tables=[report.table(one) for one in seen if one.containers or name]
        + [one.table() for one in swarmed if one.services or name],
        lines=[f"{one.name}: stopped, no containers" for one in seen if not (one.containers or name)]
        + [f"{one.name}: stopped, no services" for one in swarmed if not (one.services or name)]
        + [words for one in seen for words in report.remarks(one)]
        + [words for one in swarmed for words in one.remarks()],
        exit_code=1 if ill or unreachable else 0,
    )


def _look(call: Invocation, name: str) -> Observed | SwarmObserved | ConcheError:
    try:
        compose = open_compose(call, name)
        session = Session(call, name, compose)
        if call.stack.environments[name].swarm:
            return look_at_swarm(session)
        records = show_records(session) if state.kept(compose.engine, compose.project) else None
        found = look_at_release(session, records) if records else None
        if found is None:
            found = glance(call.stack, name, compose) or observe(call.stack, name, compose)
            found = replace(found, interrupted=killed(records, compose) if records else "")
        oneoff = containers.one_off(compose.engine, compose.project)
        return replace(found, oneoff=oneoff, sidecars=tailnet.sidecars(compose.engine, found.containers))
    except ConcheError as error:
        if isinstance(error, Refused) and is_unreadable(call, name, error):
            unread = open_unread(call, name)
            oneoff = containers.one_off(unread.engine, unread.project)
            return replace(observe(call.stack, name, unread), unread=described(error), oneoff=oneoff)
        return error
