"""Forgejo's own command, by which `ci.setup` makes an account and a token; what it says is that of Forgejo 15."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import pytest

from conche.ci.forge import own as module
from conche.ci.forge.own import PASSWORD, READ_LOG, LogForm, OwnForge
from conche.ci.provision.server import account
from conche.command import Invocation
from conche.engine.compose import Compose
from conche.engine.connection import Engine
from conche.errors import KeyUnusable
from conche.output import Output
from conche.process import Completed, ToolFailed
from conche.secret import Captured

LISTED = """\
ID   Username Email                 IsActive IsAdmin 2FA
1    us       us@example.org        true     true    false
2    guest    guest@example.org     true     false   false
"""

MADE = """\
generated random password is 'q1w2e3r4t5z6'
New user 'us' has been successfully created!
"""

TOKEN = "0123456789abcdef0123456789abcdef01234567"


class Said:
    """Forgejo's answers, in the place of `docker compose exec`; what it was asked."""

    def __init__(self, text: str, exit_code: int = 0) -> None:
        self.text, self.exit_code = text, exit_code
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, argv: Sequence[str], **_: Any) -> Completed:
        self.asked.append(tuple(argv[argv.index("forgejo", argv.index("git")) :]))
        return Completed(tuple(argv), self.exit_code, Captured(self.text), Captured(""))


@pytest.fixture
def own() -> OwnForge:
    return OwnForge(Compose(Engine(), "t-git", (), {}), "forgejo", "http://localhost:3000")


@pytest.fixture
def call(tmp_path: Path) -> Invocation:
    return Invocation(tmp_path, Output("ci.setup"))


def answering(monkeypatch: pytest.MonkeyPatch, text: str, exit_code: int = 0) -> Said:
    said = Said(text, exit_code)
    monkeypatch.setattr(module, "run", said)
    return said


def test_accounts_are_read_from_its_table(monkeypatch: pytest.MonkeyPatch, own: OwnForge) -> None:
    said = answering(monkeypatch, LISTED)

    assert own.accounts() == ["us", "guest"]
    assert said.asked == [("forgejo", "forgejo", "admin", "user", "list")]


@pytest.mark.parametrize("password", ["q1w2e3r4t5z6", "q1'w2 e3'4t!"], ids=["as installed", "complex ones asked for"])
def test_the_first_password_of_an_account_is_kept_for_its_owner(
    monkeypatch: pytest.MonkeyPatch, own: OwnForge, call: Invocation, password: str
) -> None:
    answering(monkeypatch, MADE.replace("q1w2e3r4t5z6", password))

    own.make_account(call, "us")

    file = call.root / PASSWORD
    assert file.read_text() == f"us\n{password}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert password not in call.output.redact(f"the password is {password}")


def test_a_token_may_do_what_the_pipeline_needs_and_no_more(
    monkeypatch: pytest.MonkeyPatch, own: OwnForge, call: Invocation
) -> None:
    said = answering(monkeypatch, f"{TOKEN}\n")

    assert own.token(call, "us").reveal() == TOKEN
    [asked] = said.asked
    assert asked[asked.index("--scopes") + 1] == "write:repository,write:user"
    assert TOKEN not in call.output.redact(TOKEN)


def test_what_is_no_token_is_not_taken_for_one(
    monkeypatch: pytest.MonkeyPatch, own: OwnForge, call: Invocation
) -> None:
    answering(monkeypatch, "Access token was successfully created... \n")

    with pytest.raises(KeyUnusable):
        own.token(call, "us")


def test_a_command_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, own: OwnForge, call: Invocation) -> None:
    answering(monkeypatch, "Command error: user already exists", exit_code=1)

    with pytest.raises(ToolFailed, match="creating the account us"):
        own.make_account(call, "us")


@pytest.mark.parametrize(("exit_code", "kept"), [(0, LogForm.PLAIN), (3, LogForm.COMPRESSED), (4, LogForm.NOT_THERE)])
def test_a_log_is_read_where_the_server_keeps_it(
    monkeypatch: pytest.MonkeyPatch, own: OwnForge, exit_code: int, kept: LogForm
) -> None:
    said = answering(monkeypatch, "all passed\n" if exit_code == 0 else "", exit_code)

    assert own.log("us/shop", 513, 1000) == (kept, "all passed\n" if exit_code == 0 else "")
    assert said.asked[0][-2:] == ("us/shop/01/513.log", "1000")


@pytest.mark.parametrize("repository", ["../..", "us/..", "./shop", "us/shop/..", "us", "us/a shop", "us/shop\n"])
def test_a_name_that_no_repository_has_is_no_path(
    monkeypatch: pytest.MonkeyPatch, own: OwnForge, repository: str
) -> None:
    said = answering(monkeypatch, "")

    assert own.log(repository, 1, 1000) == (LogForm.NOT_THERE, "")
    assert said.asked == []


def test_a_container_that_cannot_be_asked_is_told(monkeypatch: pytest.MonkeyPatch, own: OwnForge) -> None:
    answering(monkeypatch, "service is not running", 1)

    with pytest.raises(ToolFailed, match="reading the log"):
        own.log("us/shop", 1, 1000)


def test_of_a_log_the_end_is_read_and_a_compressed_one_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "actions_log/us/shop/01"
    folder.mkdir(parents=True)
    (folder / "1.log").write_text("the beginning and the end\n")
    (folder / "257.log.zst").write_bytes(b"\x28")

    def read(task: int) -> tuple[int, str]:
        script = READ_LOG.replace("/var/lib/gitea", quote(f"{tmp_path}/elsewhere"))
        script = script.replace("/data/gitea", quote(str(tmp_path)))
        argv = ["sh", "-c", script, "sh", f"us/shop/01/{task}.log", "8"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    assert (read(1), read(257), read(513)) == ((0, "the end\n"), (3, ""), (4, ""))


@pytest.mark.parametrize(
    ("repository", "there", "login", "chosen"),
    [
        ("us/shop", ["guest"], "me", "us"),
        ("", ["us", "guest"], "me", "us"),
        ("", [], "me", "me"),
        ("", [], "admin", "owner"),
        ("", [], "me@example.org", "me-example-org"),
    ],
)
def test_whose_repository_it_is(
    monkeypatch: pytest.MonkeyPatch, repository: str, there: list[str], login: str, chosen: str
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: login)

    assert account(repository, there) == chosen
