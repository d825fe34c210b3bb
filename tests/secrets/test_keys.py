"""secrets, keys: which one is used, and which is refused before sops sees it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from conche.errors import KeyUnusable
from conche.vault import keys


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with nothing in it, apart from the checkout."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def root(home: Path, tmp_path: Path) -> Path:
    """An empty checkout."""
    folder = tmp_path / "my checkout"
    folder.mkdir()
    return folder


def identity() -> str:
    return keys.generate()[0].reveal()


def place(path: Path, content: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())
    path.chmod(mode)
    return path


def test_the_first_place_that_has_a_key_decides(root: Path, home: Path) -> None:
    in_variable, in_named, in_checkout, in_home = (identity() for _ in range(4))
    named = place(home / "named.txt", in_named)
    local = place(root / ".sops/age-key.txt", in_checkout)
    place(home / ".config/sops/age/keys.txt", in_home)
    both = {"SOPS_AGE_KEY": in_variable, "SOPS_AGE_KEY_FILE": str(named)}

    found = [keys.require(root, both), keys.require(root, {"SOPS_AGE_KEY_FILE": str(named)}), keys.require(root, {})]
    local.unlink()
    found.append(keys.require(root, {}))

    expected = [in_variable, in_named, in_checkout, in_home]
    assert [key.identities.reveal() for key in found] == expected
    assert [key.public for key in found] == [(keys.public_of(one),) for one in expected]
    assert found[0].source == "SOPS_AGE_KEY"


@pytest.mark.parametrize("broken", ["SOPS_AGE_KEY", "SOPS_AGE_KEY_FILE"])
def test_a_broken_key_is_not_passed_over_for_a_good_one(root: Path, broken: str) -> None:
    place(root / ".sops/age-key.txt", identity())

    with pytest.raises(KeyUnusable):
        keys.find(root, {broken: "/nowhere"})


@pytest.mark.parametrize(
    "written",
    [
        "{key}\n",
        "\n\n  {key}  \n\n",
        '"{key}"',
        "'{key}'\n",
        ' "{key}" ',
        "{key}\r\n",
        "# created: 2026-01-01\r\n# public key: age1x\r\n{key}\r\n",
        '"# created: today\n{key}\n"',
        "# with BOM or not\n\t{key}",
    ],
)
@pytest.mark.parametrize("where", ["variable", "file"])
def test_quotes_carriage_returns_comments_and_spaces_around_a_key_do_not_matter(
    root: Path, written: str, where: str
) -> None:
    key = identity()
    text = written.format(key=key)
    place(root / ".sops/age-key.txt", text)

    found = keys.require(root, {"SOPS_AGE_KEY": text} if where == "variable" else {})

    assert found.identities.reveal() == key


def test_several_keys_stand_one_a_line(root: Path) -> None:
    one, two = identity(), identity()

    found = keys.require(root, {"SOPS_AGE_KEY": f"{one}\n# the other\n{two}\n"})

    assert found.identities.reveal() == f"{one}\n{two}"
    assert found.public == (keys.public_of(one), keys.public_of(two))


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda key: key[:-1],
        lambda key: key[:-1] + ("Q" if key[-1] != "Q" else "P"),
        lambda key: f"{key} {key}",
        lambda key: key + "\ngarbage",
        keys.public_of,
        lambda key: "# only a comment",
        lambda key: '""',
        lambda key: "-----BEGIN OPENSSH PRIVATE KEY-----\n" + key,
    ],
    ids=["short", "checksum", "two on a line", "garbage after", "public", "comment", "quotes", "ssh"],
)
def test_what_is_no_key_is_refused_without_being_shown(root: Path, spoilt: Callable[[str], str]) -> None:
    key = identity()

    with pytest.raises(KeyUnusable) as refused:
        keys.find(root, {"SOPS_AGE_KEY": spoilt(key)})

    assert (refused.value.code, refused.value.status) == ("key-malformed", 8)
    assert key[20:40] not in str(refused.value.as_json())
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o777])
def test_a_key_file_that_others_can_read_is_refused_with_the_command_that_mends_it(root: Path, mode: int) -> None:
    file = place(root / ".sops/age-key.txt", identity(), mode)

    with pytest.raises(KeyUnusable) as refused:
        keys.find(root, {})

    assert refused.value.code == "key-readable-by-others"
    assert refused.value.next_command == f"chmod 600 '{file}'"
    assert refused.value.looked_at == (f"{file}, mode {mode:04o}",)


def test_a_key_file_that_is_missing_a_folder_or_a_pipe_is_refused(root: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)

    codes = []
    for named in ("/nowhere/key", str(tmp_path), str(tmp_path / "pipe")):
        with pytest.raises(KeyUnusable) as refused:
            keys.find(root, {"SOPS_AGE_KEY_FILE": named})
        codes.append(refused.value.code)

    assert codes == ["key-unreadable", "key-not-a-file", "key-not-a-file"]


def test_the_home_sign_in_a_file_name_is_understood(root: Path, home: Path) -> None:
    key = identity()
    place(home / "my-key", key)

    assert keys.require(root, {"SOPS_AGE_KEY_FILE": "~/my-key"}).identities.reveal() == key


@pytest.mark.parametrize("given", [{}, {"SOPS_AGE_KEY": "", "SOPS_AGE_KEY_FILE": ""}, {"SOPS_AGE_KEY": " \n"}])
def test_without_any_key_the_error_says_where_was_looked(root: Path, home: Path, given: dict[str, str]) -> None:
    assert keys.find(root, given) is None

    with pytest.raises(KeyUnusable) as refused:
        keys.require(root, given)

    assert refused.value.code == "key-missing"
    assert [line.split(" (")[0] for line in refused.value.looked_at] == [
        "SOPS_AGE_KEY",
        "SOPS_AGE_KEY_FILE",
        f"{root}/.sops/age-key.txt",
        f"{home}/.config/sops/age/keys.txt",
    ]
    assert "invoke secrets.init" in refused.value.next_command


def test_a_key_does_not_show_itself(root: Path) -> None:
    key = identity()

    assert key not in repr(keys.require(root, {"SOPS_AGE_KEY": key}))


def test_a_new_key_is_another_each_time_and_has_its_recipient() -> None:
    (one, public), (two, _) = keys.generate(), keys.generate()

    assert one != two
    assert keys.public_of(one.reveal()) == keys.public_or_none(one.reveal()) == public
    assert keys.public_or_none("AGE-SECRET-KEY-1GARBAGE") == ""
