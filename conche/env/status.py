"""env.status, env.health and env.networks: looking at environments."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.parse import urlsplit

from conche.command import Invocation
from conche.engine import networks, state
from conche.engine.compose import Compose
from conche.env import on_swarm, report
from conche.env.deploy.swarm_view import SwarmObserved, look_at_swarm
from conche.env.deploy.view import look_at_release
from conche.env.observe import Observed, glance, observe
from conche.env.unread import described, is_unreadable, with_or_without_files
from conche.errors import CheckFailed, ConcheError, Refused
from conche.outcome import Outcome, Plan, Step, Table
from conche.session import open_compose, open_unread

__all__ = ["health", "list_networks", "status"]

PAUSE = 0.5
"""Seconds between two requests of `env.health --wait`."""

ANSWER_SHOWN = 2000
"""Characters of an answer that are shown."""


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
        if call.stack.environments[name].swarm:
            return look_at_swarm(call, name, compose)
        released = look_at_release(call, name, compose) if state.kept(compose.engine, compose.project) else None
        return released or glance(call.stack, name, compose) or observe(call.stack, name, compose)
    except ConcheError as error:
        if isinstance(error, Refused) and is_unreadable(call, name, error):
            return replace(observe(call.stack, name, open_unread(call, name)), unread=described(error))
        return error


def health(
    call: Invocation,
    name: str,
    *,
    wait: bool,
    timeout: float | None,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Outcome:
    """Ask the environment's URL from outside, as its users do.

    Raises:
        CheckFailed: it does not answer 2xx; with `wait`, not in time.
    """
    import httpx

    url = call.environment(name).health
    if url is None:
        raise Refused(
            "no-health-url",
            f"Environment {name} has no health URL.",
            next_command=f"add environments.{name}.health to stack.yaml",
        )
    limit = clock() + (timeout if timeout is not None else 120.0)
    while True:
        try:
            answer = httpx.get(url, timeout=10, trust_env=not _is_here(url))
            said = f"answered {answer.status_code}"
            if answer.is_success:
                value = {"url": url, "status": answer.status_code, "answer": answer.text[:ANSWER_SHOWN]}
                return Outcome(
                    value=value,
                    tables=[
                        Table(
                            ("url", "status", "answer"), ((url, str(answer.status_code), answer.text[:ANSWER_SHOWN]),)
                        )
                    ],
                )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            said = str(error) or type(error).__name__
        if not wait or clock() >= limit:
            raise CheckFailed(
                "health-check-failed",
                f"{url}: {said}.",
                looked_at=[url],
                next_command=f"invoke env.status --env {name}\ninvoke env.logs --env {name} --tail 50",
            )
        pause(PAUSE)


def _is_here(url: str) -> bool:
    """Return whether a URL means this machine, where no proxy helps."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def list_networks(call: Invocation, name: str, *, create: bool) -> Outcome:
    """List the networks of an environment and their members; with `create`, create external ones that are missing."""
    if call.environment(name).swarm:
        on_swarm.refuse(
            name,
            "its networks are overlays, of which a node sees only its own members",
            "docker network ls --filter driver=overlay\ndocker network create --driver overlay --attachable NETWORK",
        )
    return with_or_without_files(call, name, lambda compose: _networks(call, name, compose, create=create))


def _networks(call: Invocation, name: str, compose: Compose, *, create: bool) -> Outcome:
    seen = observe(call.stack, name, compose)
    plan = Plan(tuple(Step("create", f"network {one}", "no such network") for one in seen.missing_networks if create))
    if call.dry_run:
        return Outcome(plan=plan)
    for step in plan:
        networks.create(compose.engine, step.subject.removeprefix("network "))
    present = networks.names(compose.engine)
    found = {
        one: networks.members(compose.engine, one) if one in present else None
        for one in (*seen.configuration.external_networks, *_own_networks(seen, compose))
    }
    rows = tuple(
        (one, "missing" if members is None else "found", ", ".join(members or ())) for one, members in found.items()
    )
    missing = [one for one, members in found.items() if members is None and one in seen.configuration.external_networks]
    return Outcome(
        value=[
            {"network": one, "found": members is not None, "containers": members or []}
            for one, members in found.items()
        ],
        changed=len(plan) > 0,
        plan=plan,
        tables=[Table(("network", "state", "containers"), rows)],
        lines=[f"Next: invoke env.networks --env {name} --create"] if missing else [],
        exit_code=1 if missing else 0,
    )


def _own_networks(seen: Observed, compose: Compose) -> Sequence[str]:
    if compose.unread:
        return networks.made_by(compose.engine, compose.project).networks
    rendered = (seen.configuration.rendered.get("networks") or {}).values()
    return [network["name"] for network in rendered if not network.get("external")]
