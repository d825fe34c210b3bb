"""The registry's password file: what may stand in it, and when it is left alone."""

from __future__ import annotations

from pathlib import Path

import bcrypt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from conche.errors import Refused
from conche.secret import Secret
from conche.vault import htpasswd
from conche.vault.htpasswd import LONGEST, line


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(htpasswd, "ROUNDS", 4)


def test_a_line_is_the_user_and_a_bcrypt_hash_that_fits(tmp_path: Path, canary: str) -> None:
    made = line(tmp_path / "none", Secret("admin"), Secret(canary))

    user, _, hashed = made.removesuffix(b"\n").partition(b":")
    assert user == b"admin"
    assert hashed.startswith(b"$2b$04$")
    assert bcrypt.checkpw(canary.encode(), hashed)
    assert canary.encode() not in made


def test_a_line_that_fits_is_kept_and_any_other_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "htpasswd.txt"
    file.write_bytes(line(file, Secret("admin"), Secret("one")))

    assert line(file, Secret("admin"), Secret("one")) == file.read_bytes()
    assert line(file, Secret("admin"), Secret("two")) != file.read_bytes()
    assert line(file, Secret("other"), Secret("one")) != file.read_bytes()


@pytest.mark.parametrize(
    "kept", [b"", b"admin", b"admin:", b"admin:plain\n", b"\xff\xfe:\x00", b"admin:$2b$04$short\n"]
)
def test_a_damaged_file_is_written_anew(tmp_path: Path, kept: bytes) -> None:
    file = tmp_path / "htpasswd.txt"
    file.write_bytes(kept)

    made = line(file, Secret("admin"), Secret("one"))

    assert bcrypt.checkpw(b"one", made.removesuffix(b"\n").partition(b":")[2])


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("", "qwertz"),
        ("a:b", "qwertz"),
        ("a\nb", "qwertz"),
        ("a", ""),
        ("a", "y" * (LONGEST + 1)),
        ("a", "ü" * (LONGEST // 2 + 1)),
        ("a", "x\0y"),
    ],
)
def test_what_cannot_stand_in_it_is_refused(tmp_path: Path, user: str, password: str) -> None:
    with pytest.raises(Refused) as refused:
        line(tmp_path / "htpasswd.txt", Secret(user), Secret(password))

    assert refused.value.code == "htpasswd-impossible"
    assert not password or password not in refused.value.message


@settings(max_examples=25, deadline=None)
@given(some.text(min_size=1, max_size=18).filter(lambda text: "\0" not in text))
def test_any_password_that_is_not_refused_opens(password: str) -> None:
    try:
        encoded = password.encode()
    except UnicodeEncodeError:
        return
    made = line(Path("/nonexistent/htpasswd.txt"), Secret("admin"), Secret(password))

    assert made.count(b"\n") == 1
    assert bcrypt.checkpw(encoded, made.removesuffix(b"\n").partition(b":")[2])
