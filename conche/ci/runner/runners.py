"""ci.runner.*: register runners with the server, bring them up, show their state and logs.

With Forgejo no web page is needed to register a runner: see `registration.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from conche.ci.forge import Runner as Known
from conche.ci.forge import connect, repository
from conche.ci.runner.registration import Registrations, uuid_of
from conche.ci.workflows.runners import SERVERS, Runner
from conche.ci.workflows.runners import runners as described
from conche.command import Invocation
from conche.engine import containers, images
from conche.engine.compose import Compose
from conche.engine.dockerfile import references
from conche.env.logs import logs as logs_of
from conche.env.up import up as bring_up
from conche.errors import ConcheError, NotFound, Refused, Unreachable, did_you_mean
from conche.outcome import Outcome, Plan, Step, Table
from conche.output import at_terminal
from conche.secret import Secret
from conche.session import open_compose
from conche.supply.fetch import fetch
from conche.vault.values import PLACEHOLDERS, for_environment

__all__ = ["logs", "status", "token", "up"]

FORGEJO = SERVERS[0]
"""Part of the image name of a service that is Forgejo itself."""

OF_OWNER = "this server cannot register a runner for one repository: all repositories of {owner} can use these runners"

UNSCOPED = "any repository of the server can use these runners: set ci.repository (OWNER/NAME) in stack.yaml"


def token(call: Invocation, *, show: bool) -> Outcome:
    """Print the server's registration token: into a pipe as it is, on a terminal only with `show`."""
    if at_terminal(sys.stdout) and not show:
        raise Refused(
            "value-not-shown",
            "The token is not shown on a terminal: whoever has it can register a runner and get your jobs.",
            next_command="invoke ci.runner.token --show\ninvoke ci.runner.token | wc -c",
        )
    value = connect(call).registration_token().reveal()
    return Outcome(value={"token": value}, raw=value)


def up(call: Invocation, *, timeout: float | None) -> Outcome:
    """Build the runners' images if missing, register the runners with Forgejo, and bring them up.

    Raises:
        NotFound: no Compose file describes a runner.
        Refused: a runner has no token, and this server has to be told one.
        Unreachable: a base image of theirs cannot be had.
    """
    found = _described(call)
    environment = found[0].environment
    with_runners = _with_profiles(call, environment, found)
    compose = open_compose(call, environment)
    server = _server(compose)
    everything = compose.with_every_profile()
    building = _to_build(compose, found)
    bases = _absent_bases(everything, building)
    steps = [Step("pull", f"image {base}", "the runners' image is made from it") for base in bases]
    steps += [Step("build", f"image {runner.image}", "no such image on the engine") for runner in building]
    if call.dry_run:
        registering = _looked_at(call, environment, found, server) if server else []
        return Outcome(plan=Plan((*steps, *registering, *_to_start(compose, found))))
    if server:
        _require_tokens(call, environment, found)
    with call.output.progress("ci.runner.up") as progress:
        for base in bases:
            fetch(call.stack, call.root, compose.engine, base, progress, anew=False)
        for runner in building:
            progress.step(f"building {runner.image}")
            everything.call(everything.argv("build", runner.service), on_line=progress.detail).require("the build")
    bring_up(call, environment, build=False, timeout=timeout)
    registering, warnings = _registered(call, environment, found, everything, server) if server else ([], [])
    done = bring_up(with_runners, environment, build=False, timeout=timeout)
    changed = bool(building) or done.changed
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
    return [Step("register", f"runner {runner.name}", f"{server} may not know it yet") for runner in found]


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
    steps = [Step("register", f"runner {runner.name}", f"{server} may not know it yet") for runner in found]
    return steps, [OF_OWNER.format(owner=owner) if owner else UNSCOPED]


def _by_api(call: Invocation, environment: str, found: Sequence[Runner]) -> Registrations | None:
    """Return this repository's registrations; None if its name is not known or the server has no API for them."""
    if not repository(call):
        return None
    forge = connect(call)
    if not forge.can("runner-create"):
        return None
    return Registrations(forge, found, for_environment(call.stack, call.root, environment, call.output.say))


def status(call: Invocation) -> Outcome:
    """Show each runner as the engine and the server see it; exit code 1 if one does not work."""
    found = _described(call)
    compose = open_compose(call, found[0].environment)
    seen = {one.service: one for one in containers.of_project(compose.engine, compose.project)}
    known, warning = _known(call)
    values = _values(call, found[0].environment)
    rows, bad = [], False
    for runner in found:
        container = seen.get(runner.service)
        state = container.state if container else "absent"
        health = container.health if container else "none"
        bad = bad or state != "running" or health == "unhealthy"
        there = "" if known is None else _there(runner, known, values)
        rows.append((runner.name, state, health, there, ", ".join(runner.labels)))
    columns = ("runner", "state", "health", "on the server", "labels")
    return Outcome(
        value=[dict(zip(columns, row, strict=True)) for row in rows],
        tables=[Table(columns, tuple(rows))],
        lines=["Next: invoke ci.runner.up"] if bad else [],
        warnings=[warning] if warning else [],
        exit_code=1 if bad else 0,
    )


def logs(call: Invocation, name: str | None, *, follow: bool, tail: int) -> Outcome:
    """Show the logs of all runners, or of one."""
    found = _described(call)
    environment = found[0].environment
    chosen = [runner for runner in found if name in (None, runner.name, runner.service)]
    if not chosen:
        names = [runner.name for runner in found]
        raise NotFound(
            "no-such-runner",
            f"There is no runner {name!r}.{did_you_mean(name or '', names)}",
            looked_at=[f"runners: {', '.join(names)}"],
            next_command=f"invoke ci.runner.logs --runner {names[0]}",
        )
    if follow and len(chosen) > 1:
        raise Refused(
            "one-is-followed",
            "One runner is followed at a time.",
            looked_at=[f"runners: {', '.join(runner.name for runner in found)}"],
            next_command=f"invoke ci.runner.logs --runner {chosen[0].name} --follow",
        )
    profiled = _with_profiles(call, environment, found)
    said: list[object] = []
    silent: list[str] = []
    for runner in chosen:
        answer = logs_of(profiled, environment, follow=follow, tail=tail, service=runner.service)
        said += answer.value if isinstance(answer.value, list) else []
        # Its lines only say that nothing was shown.
        silent += [runner.name] if answer.lines else []
    lines = [f"Runner {name} has no container, or its log is empty. Next: invoke ci.runner.status" for name in silent]
    return Outcome(value=said if call.output.as_json else None, lines=lines)


def _described(call: Invocation) -> list[Runner]:
    """Return the runners of the first environment that has some."""
    found = described(call.root, call.stack)
    if not found:
        raise NotFound(
            "no-runners",
            "No Compose file here describes a runner.",
            looked_at=["services with GITEA_RUNNER_LABELS, FORGEJO_RUNNER_LABELS or RUNNER_LABELS"],
            next_command="see docs/how-to/pipeline.md",
        )
    return [runner for runner in found if runner.environment == found[0].environment]


def _with_profiles(call: Invocation, environment: str, found: Sequence[Runner]) -> Invocation:
    """Return the call with the runners' profiles added to their environment."""
    stack = call.stack
    before = stack.environments[environment]
    profiles = dict.fromkeys((*before.profiles, *(one for runner in found for one in runner.profiles)))
    after = before.model_copy(update={"profiles": tuple(profiles)})
    return replace(call, _stack=stack.model_copy(update={"environments": {**stack.environments, environment: after}}))


def _server(compose: Compose) -> str:
    """Return the service that is Forgejo; empty if it is elsewhere, where runners register themselves."""
    services = compose.configuration(hashed=False).services
    return next((name for name, service in services.items() if FORGEJO in service.image), "")


def _to_start(compose: Compose, found: Sequence[Runner]) -> list[Step]:
    running = {one.service for one in containers.of_project(compose.engine, compose.project) if one.state == "running"}
    idle = [runner for runner in found if runner.service not in running]
    return [Step("start", f"service {runner.service}", "does not run") for runner in idle]


def _to_build(compose: Compose, found: Sequence[Runner]) -> list[Runner]:
    by_image = {runner.image: runner for runner in found if runner.built}
    return [runner for image, runner in by_image.items() if images.find(compose.engine, image) is None]


def _absent_bases(compose: Compose, building: Sequence[Runner]) -> list[str]:
    """Return the base images that the images to be built need and the engine does not have."""
    services = compose.configuration(hashed=False).rendered["services"] if building else {}
    named: dict[str, None] = {}
    for runner in building:
        how = services[runner.service]["build"]
        file = Path(how["context"]) / how.get("dockerfile", "Dockerfile")
        text = how.get("dockerfile_inline") or file.read_text(encoding="utf-8")
        named |= dict.fromkeys(references(text, how.get("args")))
    return [base for base in named if images.find(compose.engine, base) is None]


def _tokens(call: Invocation, environment: str, found: Sequence[Runner]) -> Mapping[str, Secret]:
    values = for_environment(call.stack, call.root, environment, call.output.say)
    call.output.redact.learn(values.values())
    absent = [one.secret for one in found if _empty(values.get(one.secret))]
    if absent:
        raise Refused(
            "runner-token-missing",
            f"There is no value for {', '.join(absent)}.",
            looked_at=["a token is 40 hexadecimal digits of your own"],
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


def _known(call: Invocation) -> tuple[list[Known] | None, str]:
    """Return the runners that the server knows; None, with the reason, if it cannot be asked."""
    try:
        return connect(call).runners(), ""
    except ConcheError as error:
        return None, f"the server was not asked: {error.message}"


def _there(runner: Runner, known: Sequence[Known], values: Mapping[str, Secret]) -> str:
    """Say what the server reports of a runner: of the registration with its token, since two may share a name."""
    held = uuid_of(values.get(runner.secret))
    named = [one for one in known if one.name == runner.name]
    ours = [one for one in named if not held or not one.uuid or one.uuid == held]
    state = ours[0].state if ours else "unknown"
    return f"{state}, and {len(named) - 1} old" if len(named) > 1 else state


def _values(call: Invocation, environment: str) -> Mapping[str, Secret]:
    try:
        return for_environment(call.stack, call.root, environment, call.output.say, create=False)
    except ConcheError:
        return {}
