"""A SOPS file that is there is read and changed as it is: YAML, JSON or dotenv, flat or nested, with comments."""

from __future__ import annotations

import json

import pytest
import yaml

from conche.errors import KeyUnusable
from conche.vault.dotenv import parse
from conche.vault.encrypted import examine
from conche.vault.forms import called, flat, nested
from tests.secrets.declared import Checkout

PLAIN = {
    "app.enc.yaml": "# who may\ndatabase:\n  # for the app\n  password: of the database\n  port: 5432\ntoken: t\n",
    "app.enc.json": json.dumps({"database": {"password": "of the database", "port": 5432}, "token": "t"}),
    "app.enc.env": "# who may\nDB_PASSWORD=of the database\nDB_PORT=5432\nTOKEN=t\n",
}

PLACES = {"db_password": "database.password", "db_port": "database.port"}


def adopted(checkout: Checkout, file: str) -> None:
    """A file that somebody has encrypted by hand with plain sops, for the checkout's own key."""
    [public] = [one["recipient"] for one in json.loads(checkout.ok("secrets.recipients.list", "--json"))["value"]]
    declared = "".join(f"    {n}: {{{'' if file.endswith('.env') else f'path: {p}'}}}\n" for n, p in PLACES.items())
    text = (checkout.folder / "stack.yaml").read_text().partition("secrets:\n")[0]
    section = f"secrets:\n  file: {file}\n  declared:\n{declared}    token: {{}}\n"
    checkout.small.write("stack.yaml", text + section)
    checkout.small.write(file, PLAIN[file])
    rule = f"creation_rules:\n  - path_regex: ^{file}$\n    age: [{public}]\n"
    checkout.small.write(".sops.yaml", rule)
    done = checkout.sops("encrypt", "--in-place", file)
    assert done.returncode == 0, done.stderr


@pytest.mark.process
@pytest.mark.parametrize("file", PLAIN)
def test_a_file_that_plain_sops_has_made_is_read_and_changed_in_its_form(file: str, checkout: Checkout) -> None:
    adopted(checkout, file)

    values = {name: checkout.ok("secrets.get", name) for name in ("db_password", "db_port", "token")}
    checkout.ok("secrets.set", "db_password", stdin="another\n")
    checkout.ok("secrets.rotate")

    assert values == {"db_password": "of the database", "db_port": "5432", "token": "t"}
    key = checkout.key_file.read_text().splitlines()[-1]
    plain = checkout.sops("decrypt", file, SOPS_AGE_KEY=key)
    assert plain.stdout == PLAIN_AFTER[file], plain.stderr
    assert checkout.call("secrets.check").returncode == 0


PLAIN_AFTER = {
    "app.enc.yaml": "# who may\ndatabase:\n    # for the app\n    password: another\n    port: 5432\ntoken: t\n",
    "app.enc.json": json.dumps({"database": {"password": "another", "port": 5432}, "token": "t"}, indent="\t") + "\n",
    "app.enc.env": "# who may\nDB_PASSWORD=another\nDB_PORT=5432\nTOKEN=t\n",
}
"""What plain sops shows of them afterwards."""


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("a.json", b"{", "is not JSON"),
        ("a.json", b'{"a": 1, "a": 2}', "has a twice"),
        ("a.json", b"[]", "not one flat mapping"),
        ("a.json", b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "is nested too deeply"),
        ("a.yaml", b"a: 1\na: 2\n", "has a twice"),
        ("a.yaml", b"a: 2024-99-99\n", "has a value that is not what it looks like"),
        ("a.env", b"TOKEN", "is not dotenv"),
        ("a.env", b"TOKEN=x\n", "NOT ENCRYPTED"),
    ],
)
def test_a_damaged_file_of_each_form_is_named(file: str, content: bytes, said: str) -> None:
    with pytest.raises(KeyUnusable, match=said):
        examine(content, file)


def test_a_tree_is_taken_apart_and_put_together() -> None:
    tree = {"a": {"b": "1", "c": {"d": "2"}}, "e": "3"}

    assert list(flat(tree)) == [(("a", "b"), "1"), (("a", "c", "d"), "2"), (("e",), "3")]
    assert nested(dict(flat(tree))) == tree


@pytest.mark.parametrize(
    ("path", "name"), [(("db", "Pass-Word"), "db_pass_word"), (("1",), "secret_1"), (("sops2",), "secret_sops2")]
)
def test_what_stack_yaml_does_not_name_is_called_by_its_path(path: tuple[str, ...], name: str) -> None:
    assert called(path) == name


QUOTED = {
    "plain": "of the database",
    "padded": " x ",
    "dollar": "pa$$word",
    "comment": "a #b",
    "both": 'it\'s "so"',
    "lines": "one\ntwo",
    "quotes": '"',
}


@pytest.mark.process
def test_a_value_in_dotenv_is_what_its_readers_take_it_for(checkout: Checkout) -> None:
    adopted(checkout, "app.enc.env")
    key = checkout.key_file.read_text().splitlines()[-1]
    quoted = checkout.sops("set", "app.enc.env", '["DB_PASSWORD"]', json.dumps("'two words'"), SOPS_AGE_KEY=key)
    assert quoted.returncode == 0, quoted.stderr

    assert checkout.ok("secrets.get", "db_password") == "two words"
    for value in QUOTED.values():
        checkout.ok("secrets.set", "token", "--raw", stdin=value)
        assert checkout.ok("secrets.get", "token") == value
        plain = checkout.sops("decrypt", "app.enc.env", SOPS_AGE_KEY=key).stdout
        assert parse(plain)["TOKEN"] == value


@pytest.mark.process
def test_a_file_of_others_keeps_what_is_no_secret_and_is_not_merged(checkout: Checkout) -> None:
    adopted(checkout, "app.enc.yaml")
    open_ = "app:\n    port_unencrypted: 80\n    hosts: [a, b]\n    nothing: null\n"
    key = checkout.key_file.read_text().splitlines()[-1]
    (checkout.folder / "app.enc.yaml").write_text(PLAIN["app.enc.yaml"] + open_)
    assert checkout.sops("encrypt", "--in-place", "app.enc.yaml").returncode == 0

    checkout.ok("secrets.set", "db_password", stdin="another")

    plain = yaml.safe_load(checkout.sops("decrypt", "app.enc.yaml", SOPS_AGE_KEY=key).stdout)
    assert plain["app"] == {"port_unencrypted": 80, "hosts": ["a", "b"], "nothing": None}
    assert plain["database"] == {"password": "another", "port": 5432}
    assert checkout.ok("secrets.get", "app_hosts") == '["a", "b"]'
    merged = checkout.call("secrets.merge", *["app.enc.yaml"] * 3)
    assert (merged.returncode, "[secrets-not-mergeable]" in merged.stderr) == (2, True), merged.stderr


@pytest.mark.process
def test_of_a_file_without_a_rule_the_recipients_are_written_down(checkout: Checkout) -> None:
    adopted(checkout, "app.enc.json")
    key = checkout.key_file.read_text()
    (checkout.folder / ".sops.yaml").unlink()
    before = (checkout.folder / "app.enc.json").read_bytes()
    refused = checkout.call("secrets.set", "token", stdin="new")
    assert "invoke secrets.init    # writes the recipients of app.enc.json there" in refused.stderr

    planned = json.loads(checkout.ok("secrets.init", "--dry-run", "--json"))["plan"]
    assert [step["subject"] for step in planned] == ["file .sops.yaml"]
    assert not (checkout.folder / ".sops.yaml").exists()
    checkout.ok("secrets.init")

    assert (checkout.folder / "app.enc.json").read_bytes() == before
    assert checkout.key_file.read_text() == key
    checkout.ok("secrets.set", "token", stdin="new")
    assert "Nothing to do" in checkout.ok("secrets.init")
    (checkout.folder / ".sops.yaml").write_text("creation_rules: [")
    assert "is broken" in checkout.call("secrets.init").stderr
