"""ci.runner.*: registering runners with the server, bringing them up, what they do and say.

With Forgejo a runner is registered without a web page: the server is told its token beforehand, over stdin.
https://forgejo.org/docs/latest/admin/actions/registration/#offline-registration
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from conche.ci.forge import connect, repository
from conche.ci.surroundings import SERVERS, Runner
from conche.ci.surroundings import runners as described
from conche.command import Invocation
from conche.engine import containers, images
from conche.engine.compose import Compose
from conche.engine.dockerfile import references
from conche.env import inside
from conche.env import up as environments
from conche.errors import ConcheError, NotFound, Refused, did_you_mean
from conche.images.fetch import fetch
from conche.outcome import Outcome, Plan, Step, Table
from conche.output import at_terminal
from conche.secret import Secret
from conche.secrets.values import PLACEHOLDERS, for_environment
from conche.session import open_compose

__all__ = ["logs", "status", "token", "up"]

FORGEJO = SERVERS[0]
"""Part of the image of a service that is Forgejo itself."""

UNSCOPED = "any repository of the server can use these runners: set ci.repository (OWNER/NAME) in stack.yaml"


def token(call: Invocation, *, show: bool) -> Outcome:
    """The server's registration token: into a pipe as it is, on a terminal only with `show`."""
    if at_terminal(sys.stdout) and not show:
        raise Refused(
            "value-not-shown",
            "The token is not shown on a terminal: whoever has it can register a runner and get your jobs.",
            next_command="invoke ci.runner.token --show\ninvoke ci.runner.token | wc -c",
        )
    value = connect(call).registration_token().reveal()
    return Outcome(value={"token": value}, raw=value)


def up(call: Invocation, *, timeout: float | None) -> Outcome:
    """Build the runners' image where it is missing, tell Forgejo their tokens, and bring them up.

    Raises:
        NotFound: no Compose file describes a runner.
        Refused: a runner has no token.
        Unreachable: what their image is made from cannot be had.
    """
    found = _described(call)
    environment = found[0].environment
    with_runners = _with_profiles(call, environment, found)
    compose = open_compose(call, environment)
    server = _server(compose)
    tokens = _tokens(call, environment, found) if server else {}
    everything = compose.with_every_profile()
    building = _to_build(compose, found)
    bases = _absent_bases(everything, building)
    steps = [Step("pull", f"image {base}", "the runners' image is made from it") for base in bases]
    steps += [Step("build", f"image {runner.image}", "no such image on the engine") for runner in building]
    steps += [Step("register", f"runner {runner.name}", f"{server} may not know it yet") for runner in found if server]
    if call.dry_run:
        return Outcome(plan=Plan((*steps, *_to_start(compose, found))))
    with call.output.progress("ci.runner.up") as progress:
        for base in bases:
            fetch(call.stack, call.root, compose.engine, base, progress, anew=False)
        for runner in building:
            progress.step(f"building {runner.image}")
            everything.call(everything.argv("build", runner.service), on_line=progress.detail).require("the build")
    environments.up(call, environment, build=False, timeout=timeout)
    scope = repository(call)
    for runner in found:
        if server:
            _register(everything, server, runner, tokens[runner.service], scope)
    done = environments.up(with_runners, environment, build=False, timeout=timeout)
    warnings = [*done.warnings, *([UNSCOPED] if server and not scope else [])]
    changed = bool(building) or done.changed
    return replace(done, plan=Plan((*steps, *done.plan)), changed=changed, warnings=warnings)


def status(call: Invocation) -> Outcome:
    """Each runner as the engine and as the server sees it; exit code 1 when one does not work."""
    found = _described(call)
    compose = open_compose(call, found[0].environment)
    seen = {one.service: one for one in containers.of_project(compose.engine, compose.project)}
    known, warning = _known(call)
    rows, bad = [], False
    for runner in found:
        container = seen.get(runner.service)
        state = container.state if container else "absent"
        health = container.health if container else "none"
        bad = bad or state != "running" or health == "unhealthy"
        there = "" if known is None else known.get(runner.name, "unknown")
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
    """What the runners write, or one of them."""
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
        answer = inside.logs(profiled, environment, follow=follow, tail=tail, service=runner.service)
        said += answer.value if isinstance(answer.value, list) else []
        # What is left to say there is that nothing was shown.
        silent += [runner.name] if answer.lines else []
    lines = [f"Runner {name} has no container, or its log is empty. Next: invoke ci.runner.status" for name in silent]
    return Outcome(value=said if call.output.as_json else None, lines=lines)


def _described(call: Invocation) -> list[Runner]:
    """The runners of one environment: the first that has some."""
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
    """The same call, in which the runners' profiles belong to their environment."""
    stack = call.stack
    before = stack.environments[environment]
    profiles = dict.fromkeys((*before.profiles, *(one for runner in found for one in runner.profiles)))
    after = before.model_copy(update={"profiles": tuple(profiles)})
    return replace(call, _stack=stack.model_copy(update={"environments": {**stack.environments, environment: after}}))


def _server(compose: Compose) -> str:
    """The service that is Forgejo; empty where it is elsewhere, and runners register by themselves."""
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
    """What the images that are to be built are made from, as far as the engine does not have it."""
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


def _register(compose: Compose, server: str, runner: Runner, value: Secret, scope: str) -> None:
    """Tell Forgejo a runner's token. Telling it again changes its scope at most; its labels it tells by itself.

    Args:
        scope: the repository whose jobs it takes, which has to be there; empty for those of the whole server.
    """
    from conche.process import run

    said = ("forgejo", "forgejo-cli", "actions", "register", "--secret-stdin=true", "--keep-labels")
    scoped = (*said, "--scope", scope) if scope else said
    argv = compose.argv("exec", "--no-TTY", "--user", "git", server, *scoped, "--name", runner.name)
    told = run(argv, stdin=value.reveal().encode(), extra_env=compose.environment(), redact=compose.redact, timeout=60)
    told.require(f"registering the runner {runner.name}" + (f" with the repository {scope}" if scope else ""))


def _known(call: Invocation) -> tuple[dict[str, str] | None, str]:
    """What the server says of runners, by name; None, with the reason, where it says nothing."""
    try:
        return {runner.name: runner.state for runner in connect(call).runners()}, ""
    except ConcheError as error:
        return None, f"the server was not asked: {error.message}"
