"""Questions are asked at a terminal only, and anything but the word that was asked for is a no."""

from __future__ import annotations

import pytest

from conche.errors import Refused
from conche.outcome import Outcome
from conche.output import Output
from tests.test_output import TABLE, Streams, Terminal, at_terminal, plain

__all__ = ["at_terminal", "plain"]


def test_without_a_terminal_nothing_is_asked_but_refused_with_what_to_type(plain: Streams) -> None:
    with pytest.raises(Refused) as caught:
        plain.output.confirm("Remove all volumes of dev?")

    assert (caught.value.code, caught.value.status, caught.value.next_command) == (
        "confirmation-needed",
        2,
        "invoke env.up … --yes",
    )
    assert plain.written == ("", "")


def test_the_word_that_was_asked_for_is_accepted(at_terminal: Terminal) -> None:
    seen = at_terminal(lambda output: output.confirm("Remove prod?", expected="prod"), "prod\n")

    assert "Remove prod? Type 'prod' to continue: " in seen


@pytest.mark.parametrize("typed", ["no\n", "\n", "yess\n", "YES\n", "\x04"])
def test_any_other_word_is_refused(typed: str, at_terminal: Terminal) -> None:
    with pytest.raises(Refused, match=r"Not confirmed; nothing was changed\."):
        at_terminal(lambda output: output.confirm("Sure?"), typed)


def test_in_ci_a_terminal_is_nobodys(at_terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")

    def work(output: Output) -> None:
        with output.progress("building"):
            pass
        output.outcome(Outcome(tables=[TABLE]))
        with pytest.raises(Refused, match="There is no terminal"):
            output.confirm("Go on?")

    seen = at_terminal(work, typed="yes\n")

    assert "building\r\n" in seen
    assert "\x1b[" not in seen
