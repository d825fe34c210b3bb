"""invoke images.login"""

from __future__ import annotations

from pathlib import Path

from conche.command import Invocation
from conche.engine.connection import Engine
from conche.engine.logins import login as stored_login
from conche.engine.logins import settings
from conche.errors import KeyUnusable, Refused, Unreachable
from conche.files import private_folder
from conche.outcome import Action, Kind, Outcome, Plan, Step
from conche.process import Completed, run
from conche.secret import Redactor
from conche.stack import Stack
from conche.supply.login import advice, open_registry, registry_of

__all__ = ["login"]


def login(call: Invocation, *, persist: bool) -> Outcome:
    """Check that the registry lets us in; with `persist`, have the Docker CLI store the login."""
    engine, host = Engine(), registry_of(call.stack)
    registry = open_registry(call.vault)
    known = registry.credentials
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
    plan = Plan((Step(Action.STORE, Kind.LOGIN, f"{known.user}@{host}", "--persist"),) if persist else ())
    if call.dry_run:
        return Outcome(plan=plan)
    registry.check()
    closed = _closed() if persist else None
    with private_folder() as folder:
        # Only --persist may use Docker's own settings, which hold other registries' logins too.
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
    lines = [f"{host} accepts {known.user}, here and from the engine." + ("" if persist else " Nothing was stored.")]
    if persist:
        lines.append(f"The Docker CLI remembers it; to undo: docker logout {host}")
    if closed is not None:
        lines.append(f"{closed} was readable by others and no longer is (mode 0600).")
    return Outcome(
        value={"registry": host, "user": known.user, "stored": persist}, changed=persist, plan=plan, lines=lines
    )


def _entering(stack: Stack) -> str:
    if stack.login is None:
        return f"docker login {stack.registry}"
    return f"invoke secrets.set {stack.login.user}\ninvoke secrets.set {stack.login.password}"


def _closed() -> Path | None:
    """If others can read Docker's settings, make them private, since the CLI keeps the mode, and return their path."""
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
            f"{host} rejects the user {user}.",
            evidence=completed.last_lines(3),
            next_command=advice(stack).denied,
        )
    if "daemon" in words:
        return Unreachable(
            "registry-unreachable",
            f"The engine cannot reach {host}.",
            evidence=completed.last_lines(3),
            next_command=advice(stack).unreachable,
        )
    return Refused("login-not-stored", "docker login failed.", evidence=completed.last_lines(3))
