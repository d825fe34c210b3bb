"""Sends everything that a scheduled command prints to a log file, which is rotated first."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from conche.errors import Refused
from conche.outcome import Outcome

__all__ = ["logged"]

LARGEST = 1 << 20
"""Size in bytes from which a log is rotated before it is written to."""

KEPT = 4


def logged(path: str | None, work: Callable[[], Outcome]) -> Outcome:
    """Do the work with stdout and stderr appended to that file, for the rest of the process; without one, as usual."""
    if path is None:
        return work()
    file = Path(path)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _rotate(file)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Refused(
            "log-unwritable",
            f"The log {file} cannot be written: {error.strerror}.",
            next_command=f"ls -ld {file.parent}",
        ) from error
    sys.stdout.flush()
    sys.stderr.flush()
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    os.write(2, f"--- {datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z}\n".encode())
    return work()


def _rotate(file: Path) -> None:
    if not file.exists() or file.stat().st_size < LARGEST:
        return
    for number in range(KEPT, 0, -1):
        older = file.with_name(f"{file.name}.{number}")
        newer = file.with_name(f"{file.name}.{number - 1}") if number > 1 else file
        if newer.exists():
            os.replace(newer, older)
