"""ci.runner.up: build the runners' images, register the runners with the server, and bring them up.

With Forgejo no web page is needed to register a runner: see `registration.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from conche.ci.forge import connect, repository
from conche.ci.runner.described import described, with_profiles
from conche.ci.runner.image import Images
from conche.ci.runner.registration import Registrations
from conche.ci.workflows.runners import SERVERS, Runner
from conche.command import Invocation
from conche.engine import containers
from conche.engine.compose import Compose
from conche.env.up import up as bring_up
from conche.errors import Refused, Unreachable
from conche.outcome import Action, Kind, Outcome, Plan, Step
from conche.secret import Secret
from conche.session import open_compose, remember_profiles
from conche.vault.values import PLACEHOLDERS

__all__ = ["up"]

FORGEJO = SERVERS[0]
"""Part of the image name of a service that is Forgejo itself."""

OF_OWNER = "this server cannot limit a runner to one repository: all repositories of {owner} can use these runners"

UNSCOPED = "any repository on the server can use these runners: set ci.repository (OWNER/NAME) in stack.yaml"


def up(call: Invocation, *, timeout: float | None) -> Outcome:
    """Build the runners' images if missing or outdated, register the runners with Forgejo, and bring them up.

    Raises:
        NotFound: no Compose file describes a runner.
        Refused: a runner has no token, and this server has to be told one.
        Unreachable: a base image of theirs cannot be had.
    """
    found = described(call)
    environment = found[0].environment
    with_runners = with_profiles(call, environment, found)
    compose = open_compose(call, environment)
    server = _server(compose)
    everything = compose.with_every_profile()
    needed = Images.look(call, compose, found)
    steps = needed.plan()
    if call.dry_run:
        registering = _looked_at(call, environment, found, server) if server else []
        return Outcome(plan=Plan((*steps, *registering, *_to_start(compose, found))))
    if server:
        _require_tokens(call, environment, found)
    with call.output.progress("ci.runner.up") as progress:
        needed.make(progress)
    # The server alone: it may know no runner any more.
    bring_up(replace(call, forgetful=True), environment, build=False, timeout=timeout)
    registering, warnings = _registered(call, environment, found, everything, server) if server else ([], [])
    done = bring_up(with_runners, environment, build=False, timeout=timeout)
    remember_profiles(call.stack, environment, (profile for runner in found for profile in runner.profiles))
    changed = bool(steps) or done.changed
    plan = Plan((*steps, *registering, *done.plan))
    return replace(done, plan=plan, changed=changed, warnings=[*done.warnings, *warnings])


def _require_tokens(call: Invocation, environment: str, found: Sequence[Runner]) -> None:
    """Refuse missing tokens before anything is started, if the server is up and has to be told them."""
    try:
        told = _by_api(call, environment, found) is None
    except Unreachable:
        return
    if told:
        _tokens(call, environment, found)


def _looked_at(call: Invocation, environment: str, found: Sequence[Runner], server: str) -> list[Step]:
    """Plan what is to be registered: all runners, if the server is not up yet."""
    try:
        registrations = _by_api(call, environment, found)
    except Unreachable:
        registrations = None
    if registrations is not None:
        return registrations.plan()
    return [
        Step(Action.REGISTER, Kind.RUNNER, runner.name, f"it may not be registered with {server} yet")
        for runner in found
    ]


def _registered(
    call: Invocation, environment: str, found: Sequence[Runner], compose: Compose, server: str
) -> tuple[list[Step], list[str]]:
    """Register the runners by the server's API, or by its command if it has none; return steps and warnings."""
    registrations = _by_api(call, environment, found)
    if registrations is not None:
        steps = registrations.plan()
        return steps, registrations.make(call)
    tokens, owner = _tokens(call, environment, found), repository(call).partition("/")[0]
    for runner in found:
        _register(compose, server, runner, tokens[runner.service], owner)
    steps = [
        Step(Action.REGISTER, Kind.RUNNER, runner.name, f"it may not be registered with {server} yet")
        for runner in found
    ]
    return steps, [OF_OWNER.format(owner=owner) if owner else UNSCOPED]


def _by_api(call: Invocation, environment: str, found: Sequence[Runner]) -> Registrations | None:
    """Return this repository's registrations; None if its name is not known or the server has no API for them."""
    if not repository(call):
        return None
    forge = connect(call)
    if not forge.can("runner-create"):
        return None
    return Registrations(forge, found, call.vault.of(environment))


def _server(compose: Compose) -> str:
    """Return the service that is Forgejo; empty if it is elsewhere, where runners register themselves."""
    services = compose.configuration(hashed=False).services
    return next((name for name, service in services.items() if FORGEJO in service.image), "")


def _to_start(compose: Compose, found: Sequence[Runner]) -> list[Step]:
    running = {one.service for one in containers.of_project(compose.engine, compose.project) if one.state == "running"}
    idle = [runner for runner in found if runner.service not in running]
    return [Step(Action.START, Kind.SERVICE, runner.service, "is not running") for runner in idle]


def _tokens(call: Invocation, environment: str, found: Sequence[Runner]) -> Mapping[str, Secret]:
    values = call.vault.of(environment)
    absent = [one.secret for one in found if _empty(values.get(one.secret))]
    if absent:
        raise Refused(
            "runner-token-missing",
            f"{', '.join(absent)} has no value.",
            looked_at=["a token is 40 hexadecimal digits of your choice"],
            next_command="\n".join(f"invoke secrets.rotate-value {name}" for name in absent if name),
        )
    return {runner.service: values[runner.secret] for runner in found}


def _empty(value: Secret | None) -> bool:
    return value is None or value.reveal() in PLACEHOLDERS


def _register(compose: Compose, server: str, runner: Runner, value: Secret, owner: str) -> None:
    """Tell Forgejo a runner's token. Repeating it changes at most the scope; the runner reports its labels itself.

    Args:
        owner: of the repositories whose jobs it takes; empty for those of the whole server. It cannot be one
            repository: `registration.py` says why.
    """
    from conche.process import run

    said = ("forgejo", "forgejo-cli", "actions", "register", "--secret-stdin=true", "--keep-labels")
    scoped = (*said, "--scope", owner) if owner else said
    argv = compose.argv("exec", "--no-TTY", "--user", "git", server, *scoped, "--name", runner.name)
    told = run(argv, stdin=value.reveal().encode(), extra_env=compose.environment(), redact=compose.redact, timeout=60)
    told.require(f"registering the runner {runner.name}" + (f" for {owner}" if owner else ""))
