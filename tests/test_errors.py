"""The error tree: its exit codes, its JSON, its messages."""

from __future__ import annotations

import signal

import pytest

from conche import errors
from conche.errors import ConcheError, Interrupted, did_you_mean

EXIT_CODES = {
    "CheckFailed": 1,
    "Refused": 2,
    "Partial": 3,
    "Restored": 4,
    "NotRestored": 5,
    "NotFound": 6,
    "Locked": 7,
    "KeyUnusable": 8,
    "Unreachable": 9,
}


@pytest.mark.parametrize(("name", "exit_code"), EXIT_CODES.items())
def test_each_class_ends_a_command_with_its_exit_code(name: str, exit_code: int) -> None:
    error = getattr(errors, name)("a-code", "A message.")

    assert isinstance(error, ConcheError)
    assert (error.status, error.as_json()["exit_code"]) == (exit_code, exit_code)


def test_every_public_class_has_an_exit_code_here() -> None:
    public = set(errors.__all__) - {"Told", "ConcheError", "Interrupted", "did_you_mean"}

    assert public == set(EXIT_CODES)


@pytest.mark.parametrize(
    ("received", "status"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=str
)
def test_an_interruption_ends_as_shells_count_it(received: signal.Signals, status: int) -> None:
    error = Interrupted(received)

    assert (error.status, error.as_json()["exit_code"], error.message) == (
        status,
        status,
        f"Interrupted by {received.name}.",
    )


@pytest.mark.parametrize(
    "code", ["", "single", "Upper-case", "snake_case", "trailing-", "-leading", "two--dashes", "a b"]
)
def test_a_code_that_is_not_kebab_case_is_a_bug(code: str) -> None:
    with pytest.raises(AssertionError, match="kebab-case"):
        ConcheError(code, "A message.")


def test_the_json_of_an_error_has_all_that_is_shown() -> None:
    error = errors.Locked(
        "already-running",
        "dev is locked.",
        looked_at=(place for place in ["/run/a", "/run/b"]),
        next_command="wait",
        evidence=["its own words"],
    )

    assert error.as_json() == {
        "code": "already-running",
        "message": "dev is locked.",
        "looked_at": ["/run/a", "/run/b"],
        "next": "wait",
        "evidence": ["its own words"],
        "exit_code": 7,
    }
    assert str(error) == "dev is locked."


@pytest.mark.parametrize(
    ("word", "hint"), [("prd", " Did you mean 'prod'?"), ("zzz", ""), ("", ""), ("prod", " Did you mean 'prod'?")]
)
def test_a_close_word_is_proposed_and_no_other(word: str, hint: str) -> None:
    assert did_you_mean(word, ["dev", "prod", "git"]) == hint
