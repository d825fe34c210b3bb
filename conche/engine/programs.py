"""Runs programs in containers, each with a number in its environment by which it is found again.

A program in a container keeps running when its caller is gone: the engine does not end it and offers no call that
would. Its children inherit the number, so that all of them are found and ended.
"""

from __future__ import annotations

import contextlib
import uuid
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence

from conche.engine import containers
from conche.engine.connection import Engine, EngineRefused, translated
from conche.engine.frames import frames
from conche.errors import ConcheError, Unreachable
from conche.process import Captured, Completed, signals_deferred
from conche.process import run as run_process
from conche.secret import Redactor

__all__ = ["NUMBER", "end", "new_number", "output", "run"]

NUMBER = "CONCHE_PROGRAM"
"""The variable that holds the number."""

PATIENCE = 60.0
"""Seconds allowed for ending a program."""

USERS = "ls -dln /proc/[0-9]* 2>/dev/null | tr -s ' ' | cut -d ' ' -f 3 | sort -u"
"""Lists the users with processes: a program may have changed its user, and only that user may read its environment."""

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
"""Terminates the processes that carry a number, kills those left after 5 s, and prints those it found."""


def new_number() -> str:
    """Return a number that no other program has."""
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
    redact: Redactor | None = None,
) -> Completed:
    """Run a program in a container to its end; if we are interrupted or it takes too long, end it there too.

    Args:
        user: the user to run as; default: the container's own.
        stdin: its input; empty if None.
        redact: applied to its output wherever that is shown.

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
            redact=redact,
        )
    except BaseException:
        _end_quietly(engine, container_id, number)
        raise


def output(
    engine: Engine,
    container_id: str,
    argv: Sequence[str],
    *,
    number: str,
    accepted: Container[int] = (0,),
    said: deque[bytes] | None = None,
    redact: Redactor | None = None,
) -> Iterator[bytes]:
    """Run a program in a container, and yield its stdout block by block, as it is consumed.

    Args:
        accepted: the exit codes after which its output can be trusted.
        said: is given what it writes to stderr.
        redact: applied to what an error shows of that.

    Raises:
        EngineRefused: it ended with another exit code.
    """
    said = deque[bytes](maxlen=20) if said is None else said
    try:
        with translated(engine.address):
            api = engine.client.api
            begun = api.exec_create(container_id, list(argv), environment={NUMBER: number})["Id"]
            for out, err in frames(engine, begun):
                if out:
                    yield out
                if err:
                    said.append(err)
            code = api.exec_inspect(begun)["ExitCode"]
    except BaseException:
        _end_quietly(engine, container_id, number)
        raise
    if code not in accepted:
        heard = Captured(b"".join(said).decode(errors="replace"), redact)
        raise EngineRefused(
            "dump-failed", f"{argv[0]} in the container exited with {code}.", evidence=heard.lines()[-10:]
        )


def _end_quietly(engine: Engine, container_id: str, number: str) -> None:
    """End the program if possible; whoever has noted its number tries again."""
    with signals_deferred(), contextlib.suppress(ConcheError):
        end(engine, container_id, number)


def end(engine: Engine, container_id: str, number: str) -> bool:
    """End the processes of a number in a container, which may be stopped; return whether there were any.

    Raises:
        Unreachable: they could not be ended, or there is no telling because the container has no shell.
    """
    if not _runs_any(engine, container_id):
        return False
    found = False
    for user in _asked(engine, container_id, "0", USERS).split():
        found |= bool(_asked(engine, container_id, user, END, number).strip())
    return found


def _asked(engine: Engine, container_id: str, user: str, script: str, *arguments: str) -> str:
    """Return a script's output in a container; a failure is ignored if no other program runs there any more."""
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
        f"What an earlier command started in {name} may still be running, and could not be stopped.",
        looked_at=[f"processes in {name} with {NUMBER} in their environment"],
        evidence=done.last_lines(3),
        next_command=f"docker restart {name}    # ends it; then try again",
    )


def _runs_any(engine: Engine, container_id: str) -> bool:
    """Return whether a container runs any program besides its own."""
    import docker.errors

    with translated(engine.address):
        try:
            found = engine.client.api.inspect_container(container_id)
        except docker.errors.NotFound:
            return False
    return found["State"]["Status"] == "running" and bool(found.get("ExecIDs"))
