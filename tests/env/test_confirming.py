"""What a protected environment asks before it is stopped or loses data, on a terminal and without one."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from conche.command import Invocation
from conche.env.confirming import confirm_on
from conche.errors import Refused
from conche.output import Output
from conche.stack import Environment, Stack
from tests.architecture.source import tasks

ASKS = {"env.down", "env.influx.prune"}
"""The tasks that stop an environment or delete from it, and so ask for its name where it is protected."""

OTHERWISE = {
    "env.influx.rotate-token": "revokes only a token that nothing uses any more, and only by --finish",
    "env.influx.token": "revokes only the token that it made for the same secret before",
    "images.prune": "is about a registry, and leaves what an environment runs or may go back to",
    "backup.restore": "keeps what was there, which backup.undo brings back; it asks, too",
    "backup.undo": "exchanges the same again; it asks, too",
    "secrets.unset": "is about a file under version control",
}
"""Other tasks that can delete, and why the name of an environment is no question of theirs."""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def invocation(typed: str | None, *, protected: bool, yes: bool = False) -> Invocation:
    """A call in a checkout with one environment; without words there is no terminal."""
    stdin = io.StringIO() if typed is None else Terminal(typed)
    stderr = io.StringIO() if typed is None else Terminal()
    call = Invocation(Path("/nowhere"), Output("env.down", stdout=io.StringIO(), stderr=stderr, stdin=stdin), yes=yes)
    return call.with_stack(
        Stack.model_construct(environments={"prod": Environment.model_construct(protected=protected)})
    )


@pytest.mark.parametrize(
    ("protected", "yes", "confirmed", "typed", "error"),
    [
        (True, False, None, None, "confirmation-needed"),
        (True, True, None, None, "confirmation-needed"),
        (True, True, None, "yes\n", "not-confirmed"),
        (True, False, None, "\n", "not-confirmed"),
        (True, False, None, "prod\n", ""),
        (True, False, "prod", None, ""),
        (True, True, "dev", "prod\n", "not-confirmed"),
        (False, False, None, None, "confirmation-needed"),
        (False, False, None, "no\n", "not-confirmed"),
        (False, False, None, "yes\n", ""),
        (False, True, None, None, ""),
        (False, True, "dev", None, "not-confirmed"),
    ],
)
def test_a_protected_environment_wants_its_name_and_others_a_yes(
    protected: bool, yes: bool, confirmed: str | None, typed: str | None, error: str
) -> None:
    call = invocation(typed, protected=protected, yes=yes)

    if not error:
        confirm_on(call, "prod", "It goes down.", confirmed)
        return
    with pytest.raises(Refused) as refused:
        confirm_on(call, "prod", "It goes down.", confirmed)
    assert refused.value.code == error
    if error == "confirmation-needed":
        assert f"… {'--confirm prod' if protected else '--yes'}" in (refused.value.next_command or "")


def test_every_task_that_can_delete_asks_or_is_known_not_to_be_about_an_environment() -> None:
    options = {name: {one.name for one in task.get_arguments(ignore_unknown_help=True)} for name, task in tasks()}

    assert {name for name, said in options.items() if "confirm" in said} == ASKS
    assert {name for name, said in options.items() if "yes" in said} == ASKS | OTHERWISE.keys()
