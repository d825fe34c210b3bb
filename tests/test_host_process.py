"""Tasks leave the process that runs them as it was."""

from __future__ import annotations

import atexit
import gc
import os
import signal
from pathlib import Path

import pytest
from invoke import Config, Context, Exit

from conche import namespace
from conche.command import Invocation, command
from conche.errors import NotFound
from conche.outcome import Outcome
from tests.stacks import ROOT


@pytest.fixture
def nothing_frozen() -> None:
    """What conftest.py keeps from the search for garbage ends one by one, which would change the number of it."""
    gc.unfreeze()


def of_this_process() -> list[object]:
    """Return settings of a host process that we could change."""
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    return [
        gc.isenabled(),
        gc.get_threshold(),
        gc.get_freeze_count(),
        atexit._ncallbacks(),
        handlers,
        os.environ.copy(),
    ]


@pytest.mark.usefixtures("nothing_frozen")
def test_making_the_tasks_leaves_their_host_process_as_it_is() -> None:
    before = of_this_process()

    namespace(ROOT)

    assert of_this_process() == before


@pytest.mark.usefixtures("nothing_frozen")
@pytest.mark.parametrize("fails", [False, True])
def test_a_task_leaves_its_host_process_as_it_was(tmp_path: Path, *, fails: bool) -> None:
    @command()
    def ask(call: Invocation) -> Outcome:
        """Ask how often Python looks for garbage."""
        assert gc.get_threshold() != usual
        if fails:
            raise NotFound("no-such-thing", "There is none.")
        return Outcome("well")

    usual, before = gc.get_threshold(), of_this_process()
    context = Context(Config(overrides={"conche": {"root": str(tmp_path)}}))

    if fails:
        with pytest.raises(Exit):
            ask(context)
    else:
        ask(context)

    assert of_this_process() == before
