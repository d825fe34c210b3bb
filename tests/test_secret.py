"""A secret prints as `***` everywhere, and no text that went through a redactor contains one."""

from __future__ import annotations

import base64
import copy
import json
import logging
import pickle
import traceback
import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from conche.secret import MASK, SECRET_NAME, Redactor, Secret, is_secret

CANARY = "canary$5/é\"'\\ x=?"

FORMS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "base64": lambda value: base64.b64encode(value.encode()).decode(),
    "base64 without padding": lambda value: base64.b64encode(value.encode()).decode().rstrip("="),
    "URL-quoted": lambda value: urllib.parse.quote(value, safe=""),
    "JSON": lambda value: json.dumps(value)[1:-1],
    "JSON with letters kept": lambda value: json.dumps(value, ensure_ascii=False)[1:-1],
    "Compose": lambda value: value.replace("$", "$$"),
    "Compose in JSON": lambda value: json.dumps(value.replace("$", "$$"))[1:-1],
}

# Asterisks in a value could not be told from its mask.
values = st.text(min_size=6, max_size=40).filter(lambda value: "*" not in value)


@pytest.mark.parametrize("shown", [str, repr, "{}".format, "%s".__mod__, "{:>8}".format, lambda secret: f"{secret!r}"])
def test_a_secret_prints_masked(shown: Callable[[Secret], str]) -> None:
    text = shown(Secret(CANARY))

    assert (MASK in text, "canary" in text) == (True, False)


def test_a_secret_is_masked_in_logs_containers_and_tracebacks(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret(CANARY)
    logging.getLogger("test").warning("with %s and %r", secret, {"key": [secret]})
    trace = "".join(traceback.TracebackException.from_exception(ValueError(secret), capture_locals=True).format())

    assert caplog.messages == ["with *** and {'key': [Secret(***)]}"]
    assert "canary" not in trace


def test_only_reveal_gives_the_value() -> None:
    secret = Secret(CANARY)

    assert (secret.reveal(), len(secret)) == (CANARY, len(CANARY))
    assert not hasattr(secret, "__dict__")


def test_secrets_are_compared_by_value_and_with_secrets_only() -> None:
    same, other = Secret(CANARY), Secret("another")

    assert (Secret(CANARY) == same, same == other, same == CANARY) == (True, False, False)


@pytest.mark.parametrize("leak", [hash, pickle.dumps, copy.copy, copy.deepcopy, json.dumps, "".join])
def test_a_side_door_is_closed(leak: Callable[[object], object]) -> None:
    with pytest.raises(TypeError) as caught:
        leak([Secret(CANARY)] if leak == "".join else Secret(CANARY))

    assert "canary" not in str(caught.value)


@given(value=values, before=st.text(max_size=10), after=st.text(max_size=10))
def test_no_form_of_a_secret_survives(value: str, before: str, after: str) -> None:
    written = {name: form(value) for name, form in FORMS.items()}
    assume(not any(one in before + MASK + after for one in written.values()))
    redact = Redactor([Secret(value)])

    assert [name for name, one in written.items() if one in redact(before + one + after)] == []


@given(secrets=st.lists(values, max_size=5))
def test_a_secret_that_contains_another_leaves_no_part_behind(secrets: list[str]) -> None:
    nested = [*secrets, *(f"{value}-and-more" for value in secrets)]
    redacted = Redactor(map(Secret, nested))("\n".join(f"<{value}>" for value in nested))

    assert [part for part in (*nested, "-and-more") if part in redacted] == []


@given(text=st.text())
def test_a_redactor_that_knows_nothing_changes_nothing(text: str) -> None:
    assert Redactor()(text) == text


@pytest.mark.parametrize(("value", "shown"), [("", "an abcde f"), ("abcde", "an abcde f"), ("abcde ", "an ***f")])
def test_a_value_too_short_to_be_searched_for_stays(value: str, shown: str) -> None:
    assert Redactor([Secret(value)])("an abcde f") == shown


def test_what_is_learnt_later_is_redacted_too() -> None:
    redact = Redactor([Secret("first-one")])
    redact.learn([Secret("second-one")])

    assert redact("first-one second-one third-one") == "*** *** third-one"


def test_a_value_of_several_lines_is_found_line_by_line() -> None:
    key = "-----BEGIN KEY-----\nQUJDREVGRw\nfg==\n-----END KEY-----\n"
    redact = Redactor([Secret(key)])

    assert [redact(line) for line in key.splitlines()] == [MASK, MASK, "fg==", MASK]


@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        *((name, True) for name in ("PG_PASS", "pass", "SMTP_PASS_FILE", "DB_PWD", "db_password", "API_KEY", "wg_key")),
        *((name, True) for name in ("PGPASS", "REDISCLI_AUTH")),
        *(
            (name, False)
            for name in ("PWD", "OLDPWD", "SSH_ASKPASS", "COMPASS", "BYPASS_CACHE", "PASSENGER_PORT", "AUTHOR")
        ),
    ],
)
def test_a_variable_is_hidden_by_its_name(name: str, hidden: bool) -> None:
    assert (SECRET_NAME.search(name) is not None) == hidden


@pytest.mark.parametrize(
    "value",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "0f8fad5bd9cb469fa16570867728950e",
        "a1b2c3d4e5f6a7b8",
        "x7Kp9qLm",
        "https://chat.example/hooks/T0001/B0001/a1b2c3d4e5f6a7b8c9d0",
        "postgres://app:word@db/app",
    ],
)
def test_a_value_that_looks_random_is_secret_whatever_its_name(value: str) -> None:
    assert is_secret("ANYTHING", value)


@pytest.mark.parametrize(
    "value",
    [
        "production", "/usr/local/bin:/usr/bin", "Europe/Berlin", "en_US.UTF-8", "86400", "postgres", "app-server-2",
        "http://influxdb:8086", "2026-11-28T17:00:00Z", "DEBUG", "*", "--max-old-space-size=4096", "1.2.3-alpine3.20",
        "db.internal.example.com",
    ],
)  # fmt: skip
def test_an_ordinary_value_is_secret_by_its_name_only(value: str) -> None:
    assert not is_secret("ANYTHING", value)
    assert is_secret("DB_PASSWORD", value)


def test_a_long_value_is_looked_at_once() -> None:
    assert not is_secret("ANYTHING", "a" * (1 << 20))
