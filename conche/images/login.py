"""Who we are to the private registry: from the secrets, for one command, and into no file."""

from __future__ import annotations

from pathlib import Path

from conche.command import Invocation
from conche.engine.connection import Engine
from conche.engine.logins import login as stored_login
from conche.engine.logins import settings
from conche.engine.transfer import Credentials, stored
from conche.errors import KeyUnusable, Refused, Unreachable
from conche.files import private_folder
from conche.images.registry import Advice, Registry
from conche.outcome import Outcome, Plan, Step
from conche.process import Completed, run
from conche.secret import Redactor, Secret
from conche.secrets import keys
from conche.secrets.values import PLACEHOLDERS, for_environment, open_store, used_by
from conche.stack import Stack, is_here

__all__ = ["credentials", "login", "open_registry", "registry_of", "two_sides"]


def credentials(stack: Stack, root: Path) -> Credentials | None:
    """The user and password of the private registry: the secrets that `login` in stack.yaml names.

    Without a key they are the development values of an environment that is not protected; where there are none, or no
    `login`, what `docker login` has stored.

    Raises:
        KeyUnusable: there is a key, and it cannot be used.
    """
    if stack.login is not None:
        values = _values(stack, root)
        if stack.login.user in values and stack.login.password in values:
            return Credentials(values[stack.login.user].reveal(), values[stack.login.password])
    return stored(stack.registry) if stack.registry else None


def registry_of(stack: Stack) -> str:
    """The host of the private registry.

    Raises:
        Refused: stack.yaml names none, and images stay where they are built.
    """
    if stack.registry is None:
        raise Refused(
            "no-registry",
            "stack.yaml names no registry: the images of this stack stay on the engine that builds them.",
            next_command="add `registry: HOST:PORT` to stack.yaml, and name the image that a service builds"
            " HOST:PORT/NAME:TAG",
        )
    return stack.registry


def _values(stack: Stack, root: Path) -> dict[str, Secret]:
    assert stack.secrets is not None
    assert stack.login is not None
    if keys.find(root) is not None:
        found = open_store(stack, root).read()
        return {name: value for name, value in found.items() if value.reveal() not in PLACEHOLDERS}
    for name, environment in stack.environments.items():
        if not environment.protected and stack.login.password in used_by(stack.secrets, name):
            return for_environment(stack, root, name, lambda _: None, create=False)
    return {}


def open_registry(call: Invocation, engine: Engine | None = None) -> tuple[Registry, Credentials | None]:
    """The private registry, and who we are to it; the password is redacted from now on.

    Args:
        engine: which pushes to it or pulls from it.
    """
    host = registry_of(call.stack)
    known = credentials(call.stack, call.root)
    if known is not None:
        call.output.redact.learn([known.password])
    unasked = "" if known else stored_login(host).problem
    note = two_sides(call.stack, engine) or unasked
    released = _released_for(call.stack)
    return Registry(host, known, note=note, advice=advice(call.stack), environments=released), known


def advice(stack: Stack) -> Advice:
    """What to type where the private registry does not answer or refuses us: by what stack.yaml says of it."""
    up = f"invoke env.up --env {stack.own_registry}" if stack.own_registry else ""
    enter = f"invoke secrets.set {stack.login.password}" if stack.login else f"docker login {stack.registry}"
    return Advice(
        unreachable=up or "invoke images.login    # asks it again; or correct `registry` in stack.yaml",
        denied="\n".join(filter(None, (enter, up if stack.login else ""))),
    )


def _released_for(stack: Stack) -> dict[str, str]:
    """The environment of each `repository:tag` that images.release makes."""
    pairs = [(stack.reference(image, name), name) for name in reversed([*stack.environments]) for image in stack.images]
    return {reference.removeprefix(f"{stack.registry}/"): name for reference, name in pairs}


def two_sides(stack: Stack, engine: Engine | None) -> str:
    """What to know where a host such as `localhost` means one registry to us and another to an engine elsewhere."""
    if engine is None or engine.is_local or stack.registry is None or not is_here(stack.registry):
        return ""
    return (
        f"{stack.registry} means a registry on its own machine to the engine at {engine.address}, and one on this "
        "machine to us: they are the same only through a tunnel, such as ssh -L"
    )


def login(call: Invocation, *, persist: bool) -> Outcome:
    """See that the registry lets us in; with `persist`, let the Docker CLI remember it."""
    engine, host = Engine(), registry_of(call.stack)
    registry, known = open_registry(call)
    if known is None:
        raise KeyUnusable(
            "no-registry-login",
            f"There is no user and password for {host}.",
            looked_at=[
                "`login` in stack.yaml, and the secrets it names",
                stored_login(host).problem or "what `docker login` has stored",
            ],
            next_command=_entering(call.stack),
        )
    plan = Plan((Step("store", f"login {known.user}@{host}", "--persist"),) if persist else ())
    if call.dry_run:
        return Outcome(plan=plan)
    registry.check()
    closed = _closed() if persist else None
    with private_folder() as folder:
        # Docker's own settings, with what other registries have stored there, are for --persist alone.
        own = {} if persist else {"DOCKER_CONFIG": str(folder)}
        completed = run(
            ["docker", "login", "--username", known.user, "--password-stdin", host],
            stdin=known.password.reveal().encode(),
            extra_env={"DOCKER_HOST": engine.address, **own},
            redact=Redactor([known.password]),
            timeout=60,
        )
    if not completed.ok:
        raise _refused(completed, known.user, call.stack)
    lines = [f"{host} lets {known.user} in, and so does the engine." + ("" if persist else " Nothing was stored.")]
    if persist:
        lines.append(f"The Docker CLI remembers it; to make it forget: docker logout {host}")
    if closed is not None:
        lines.append(f"{closed} could be read by others, and no longer can (mode 0600).")
    return Outcome(
        value={"registry": host, "user": known.user, "stored": persist}, changed=persist, plan=plan, lines=lines
    )


def _entering(stack: Stack) -> str:
    if stack.login is None:
        return f"docker login {stack.registry}"
    return f"invoke secrets.set {stack.login.user}\ninvoke secrets.set {stack.login.password}"


def _closed() -> Path | None:
    """Docker's settings, if others could read them: the CLI would write the password into them as they are."""
    file = settings()
    if not file.is_file() or not file.stat().st_mode & 0o077:
        return None
    file.chmod(0o600)
    return file


def _refused(completed: Completed, user: str, stack: Stack) -> KeyUnusable | Unreachable | Refused:
    words, host = completed.stderr.raw, stack.registry
    if "unauthorized" in words or "401 Unauthorized" in words:
        return KeyUnusable(
            "registry-denied",
            f"{host} refuses user {user}.",
            evidence=completed.last_lines(3),
            next_command=advice(stack).denied,
        )
    if "daemon" in words:
        return Unreachable(
            "registry-unreachable",
            f"The engine does not reach {host}.",
            evidence=completed.last_lines(3),
            next_command=advice(stack).unreachable,
        )
    return Refused("login-not-stored", "docker login failed.", evidence=completed.last_lines(3))
