"""Programs that are started in containers, each with a number in its environment by which it is found again.

A program in a container runs on when whoever has started it is gone: the engine neither ends it nor knows a call that
would. Its children inherit the number, so that all of it is found and ended.
"""

from __future__ import annotations

import contextlib
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from conche.engine import containers
from conche.engine.connection import Engine, EngineRefused, translated
from conche.errors import ConcheError, Unreachable
from conche.process import Captured, Completed, signals_deferred
from conche.process import run as run_process

__all__ = ["NUMBER", "end", "new_number", "output", "run"]

NUMBER = "CONCHE_PROGRAM"
"""The variable with the number."""

PATIENCE = 60.0
"""Seconds within which a program that is ended has to be gone."""

USERS = "ls -dln /proc/[0-9]* 2>/dev/null | tr -s ' ' | cut -d ' ' -f 3 | sort -u"
"""Whose processes there are: a program may have become another user, whose environment nobody else may read."""

END = f"""
tries=0
while :; do
  found=
  for environ in /proc/[0-9]*/environ; do
    if grep -qs "{NUMBER}=$1" "$environ"; then
      process=${{environ#/proc/}}
      found="$found ${{process%/environ}}"
    fi
  done
  [ -n "$found" ] || exit 0
  echo "$found"
  tries=$((tries + 1))
  [ "$tries" -lt 100 ] || exit 1
  [ "$tries" -lt 25 ] && signal=TERM || signal=KILL
  kill -s "$signal" $found 2>/dev/null || :
  sleep 0.2 2>/dev/null || sleep 1
done
"""
"""Asks the processes that carry a number to end, and kills those that do not within 5 s; says whom it has found."""


def new_number() -> str:
    """A number that no other program has."""
    return uuid.uuid4().hex


def run(  # noqa: PLR0913 - as the spawner's, every option is named
    engine: Engine,
    container_id: str,
    argv: Sequence[str],
    *,
    number: str,
    user: str = "",
    stdin: bytes | Iterable[bytes] | None = None,
    timeout: float | None = None,
    on_line: Callable[[Captured], None] | None = None,
    exact: bool = False,
) -> Completed:
    """Run a program in a container to its end; where we are interrupted, or it is too slow, it is ended there too.

    Args:
        user: as whom; default: as the container's own.
        stdin: what it reads; nothing at all where it is None.

    Raises:
        Unreachable: it did not end in time.
    """
    options = ["--env", f"{NUMBER}={number}"]
    options += ["--user", user] if user else []
    options += ["--interactive"] if stdin is not None else []
    try:
        return run_process(
            ["docker", "exec", *options, container_id, *argv],
            stdin=stdin if stdin is not None else b"",
            extra_env=engine.cli_environment(),
            timeout=timeout,
            on_line=on_line,
            exact=exact,
        )
    except BaseException:
        _end_quietly(engine, container_id, number)
        raise


def output(engine: Engine, container_id: str, argv: Sequence[str], *, number: str) -> Iterator[bytes]:
    """Run a program in a container; what it writes to stdout, block by block, as it is asked for.

    Raises:
        EngineRefused: it ended with another exit code than 0; what it wrote is not to be trusted then.
    """
    said = deque[bytes](maxlen=20)
    try:
        with translated(engine.address):
            api = engine.client.api
            begun = api.exec_create(container_id, list(argv), environment={NUMBER: number})["Id"]
            for out, err in api.exec_start(begun, stream=True, demux=True):
                if out:
                    yield out
                if err:
                    said.append(err)
            code = api.exec_inspect(begun)["ExitCode"]
    except BaseException:
        _end_quietly(engine, container_id, number)
        raise
    if code != 0:
        raise EngineRefused(
            "dump-failed",
            f"{argv[0]} in the container ended with {code}.",
            evidence=b"".join(said).decode(errors="replace").splitlines()[-10:],
        )


def _end_quietly(engine: Engine, container_id: str, number: str) -> None:
    """End it where that can be done; whoever has noted it tries again."""
    with signals_deferred(), contextlib.suppress(ConcheError):
        end(engine, container_id, number)


def end(engine: Engine, container_id: str, number: str) -> bool:
    """End what runs in a container under a number; whether anything did. A container that does not run is fine.

    Raises:
        Unreachable: it could not be ended, or nobody can tell: the container has no shell.
    """
    if not _runs_any(engine, container_id):
        return False
    found = False
    for user in _asked(engine, container_id, "0", USERS).split():
        found |= bool(_asked(engine, container_id, user, END, number).strip())
    return found


def _asked(engine: Engine, container_id: str, user: str, script: str, *arguments: str) -> str:
    """What a script says in a container; nothing where nothing else runs there any more."""
    done = run_process(
        ["docker", "exec", "--user", user, container_id, "/bin/sh", "-c", script, "sh", *arguments],
        extra_env=engine.cli_environment(),
        timeout=PATIENCE,
    )
    if done.ok or not _runs_any(engine, container_id):
        return done.stdout.raw
    seen = containers.read(engine, container_id)
    name = seen.name if seen else container_id[:12]
    raise Unreachable(
        "program-not-ended",
        f"What an earlier command has started in {name} may run still, and could not be ended.",
        looked_at=[f"processes in {name} with {NUMBER} in their environment"],
        evidence=done.last_lines(3),
        next_command=f"docker restart {name}    # ends it; then again",
    )


def _runs_any(engine: Engine, container_id: str) -> bool:
    """Whether any program runs in a container that was started there beside its own."""
    import docker.errors

    with translated(engine.address):
        try:
            found = engine.client.api.inspect_container(container_id)
        except docker.errors.NotFound:
            return False
    return found["State"]["Status"] == "running" and bool(found.get("ExecIDs"))
