"""Plaintext is imported whole, or refused with the line that is in the way and without a word of a value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conche.errors import Refused
from conche.secrets import plaintext
from tests.secrets.declared import Checkout

SECRET = "hidden-value"

REFUSED = {
    "names that differ in case": ("old.env", b"TOKEN=hidden-value\nToken=other\n", "line 1, line 2"),
    "a name twice": ("old.env", b"A=1\nTOKEN=hidden-value\n\nTOKEN=other\n", "line 2, line 4"),
    "an open quote": ("old.env", b"TOKEN='hidden-value\nDB_PASS=fine\n", "line 1"),
    "an open double quote": ("old.env", b'A=1\n\nTOKEN="hidden-value\n', "line 3"),
    "a quote closed by the next": ("old.env", b"TOKEN='hidden-value\nDB_PASS='fine'\n", "line 1"),
    "a quote closed by an empty one": ("old.env", b"TOKEN='hidden-value\nDB_PASS='\n", "line 1"),
    "a quote closed far below": ("old.env", b"A='hidden-value\nB=x\nC=y'\n", "line 1"),
    "something after the quote": ("old.env", b"TOKEN='a' hidden-value\n", "line 1"),
    "no equals sign": ("old.env", b"A=1\nhidden-value\n", "line 2"),
    "export without a value": ("old.env", b"A=1\nexport TOKEN\n", "line 2"),
    "a shell's command": ("old.env", b"A=1\nsource hidden-value=x\n", "line 2"),
    "a key over many lines": ("old.env", b"KEY=-----BEGIN KEY-----\nhidden-value\n-----END KEY-----\n", "line 2"),
    "YAML": ("x.env", b"TOKEN: hidden-value\n", "line 1"),
    "YAML with an equals sign": ("x.env", b"TOKEN: hidden-value=\n", "line 1"),
    "a YAML list": ("x.env", b"- TOKEN=hidden-value\n", "line 1"),
    "JSON": ("x.env", b'{"token": "hidden-value"}\n', "line 1"),
    "JSON over lines": ("x.env", b'{\n"token": "hidden-value"\n}\n', "line 1, 2, 3"),
    "no name": ("x.env", b"=hidden-value\n", "line 1"),
    "a name with a dash": ("x.env", b"hidden-value=x\n", "line 1"),
    "nothing": ("x.env", b"# a comment\n", "no values"),
    "a NUL": ("x.env", b"A=1\nTOKEN=hidden-value\0x\n", "Line 2"),
    "Latin-1": ("x.env", b"A=1\nTOKEN=hidden-value\xe9\n", "Line 2"),
    "UTF-16": ("x.env", "TOKEN=hidden-value\n".encode("utf-16"), "Line 1"),
    "UTF-16 without its mark": ("x.env", "TOKEN=hidden-value\n".encode("utf-16-le"), "Line 1"),
    "UTF-16 JSON": ("x.json", '{"token": "hidden-value"}'.encode("utf-16-le"), "Line 1"),
    "nested YAML": ("x.yaml", b"a: b\ntoken:\n  inner: hidden-value\n", "line 2"),
    "a list in YAML": ("x.yaml", b"a: b\ntoken: [hidden-value]\n", "line 2"),
    "a YAML name twice": ("x.yaml", b"token: hidden-value\na: b\ntoken: c\n", "line 1, line 3"),
    "a YAML number as a name": ("x.yaml", b"a: b\n1: hidden-value\n", "line 2"),
    "a YAML null as a name": ("x.yaml", b"a: b\n~: hidden-value\n", "line 2"),
    "a YAML list as a name": ("x.yaml", b"a: b\n? [hidden-value]\n: c\n", "line 2"),
    "a YAML merge": ("x.yaml", b"<<: hidden-value\n", "line 1"),
    "binary in YAML": ("x.yaml", b"token: !!binary aGlkZGVuLXZhbHVl\n", "line 1"),
    "broken YAML": ("x.yaml", b"a: b\ntoken: 'hidden-value\n", "line"),
    "a control character in YAML": ("x.yaml", b"a: b\ntoken: hidden-value\x01\n", "line 2"),
    "two YAML documents": ("x.yaml", b"token: hidden-value\n---\na: b\n", "line 2"),
    "a .env called YAML": ("x.yaml", b"TOKEN=hidden-value\nA=b\n", "lines ….env"),
    "an empty YAML file": ("x.yaml", b"", "flat mapping"),
    "an empty mapping": ("x.yaml", b"{}\n", "no values"),
    "a JSON name twice": ("x.json", b'{"token": "hidden-value", "token": "x"}', "entry 1, entry 2"),
    "a JSON number": ("x.json", b'{"a": "hidden-value", "token": 1}', "token"),
    "nested JSON": ("x.json", b'{"token": {"inner": "hidden-value"}}', "token"),
    "a NUL in JSON": ("x.json", b'{"a": "b", "token": "hidden-value\\u0000"}', "token"),
    "half a character in JSON": ("x.json", b'{"token": "hidden-value\\ud800"}', "token"),
    "a JSON name that is none": ("x.json", b'{"a": "b", "hidden-value": "x"}', "entry 2"),
    "broken JSON": ("x.json", b'{"a": "b",\n"token": "hidden-value}', "line 2"),
    "a JSON list": ("x.json", b'["hidden-value"]', "flat mapping"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_taken_as_it_is_is_refused_by_its_place(case: str) -> None:
    name, content, where = REFUSED[case]

    with pytest.raises(Refused) as refused:
        plaintext.read(content, name)

    said = json.dumps(refused.value.as_json(), ensure_ascii=False)
    assert where in refused.value.message
    assert SECRET not in said
    assert "shred" not in said


TAKEN = {
    "plain": ("a.env", b"TOKEN=a\nOTHER='b c'\n", {"token": "a", "other": "b c"}),
    "export": ("a.env", b"export TOKEN=a\n", {"token": "a"}),
    "Windows": ("a.env", b"\xef\xbb\xbfTOKEN=a\r\nOTHER=b\r\n", {"token": "a", "other": "b"}),
    "YAML with a mark": ("a.yaml", b"\xef\xbb\xbftoken: a\n", {"token": "a"}),
    "JSON with a mark": ("a.json", b'\xef\xbb\xbf{"token": "a"}', {"token": "a"}),
    "no expansion": ("a.env", b"TOKEN=a$HOME${X}\n", {"token": "a$HOME${X}"}),
    "empty": ("a.env", b"TOKEN=\n", {"token": ""}),
    "a key in quotes": ("a.env", b'KEY="-----BEGIN-----\nAB==\nabcd=\n-----END-----\n"\nB=c\n',
                        {"key": "-----BEGIN-----\nAB==\nabcd=\n-----END-----\n", "b": "c"}),
    "equals signs in values": ("a.env", b"OPTS=a=b\nMORE='c=d e=f'\n", {"opts": "a=b", "more": "c=d e=f"}),
    "text of numbers": ("a.yaml", b"token: 007\nother: yes\n", {"token": "007", "other": "yes"}),
    "an alias": ("a.yaml", b"token: &x a\nother: *x\n", {"token": "a", "other": "a"}),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKEN)
def test_what_is_whole_is_taken_as_it_is_written(case: str) -> None:
    name, content, expected = TAKEN[case]

    assert {name: value.reveal() for name, value in plaintext.read(content, name).items()} == expected


@pytest.mark.process
@pytest.mark.parametrize("how", ["--merge", "--replace"])
@pytest.mark.parametrize("case", ["names that differ in case", "an open quote", "YAML"])
def test_a_refused_file_changes_nothing_and_is_to_be_kept(
    checkout: Checkout, tmp_path: Path, case: str, how: str
) -> None:
    name, content, where = REFUSED[case]
    (tmp_path / name).write_bytes(content)
    before = checkout.encrypted.read_bytes()

    done = checkout.call("secrets.encrypt", str(tmp_path / name), how)

    assert (done.returncode, done.stdout) == (2, "")
    assert where in done.stderr
    assert "shred" not in done.stderr
    assert SECRET not in done.stderr
    assert checkout.encrypted.read_bytes() == before


@pytest.mark.process
def test_the_plaintext_may_be_deleted_once_every_value_was_read_back(checkout: Checkout, tmp_path: Path) -> None:
    source = tmp_path / "it's old.env"
    source.write_text("API_KEY='a b'\nNEW_ONE=x\n")

    for said in ("encrypted: api_key, new_one", "encrypted: nothing new"):
        shown = checkout.ok("secrets.encrypt", str(source), "--merge")
        assert said in shown
        assert "All 2 values" in shown
        assert "under secrets.declared in stack.yaml: new_one: {}" in shown

    assert shown.splitlines()[-1].startswith("Next: delete the plaintext: shred -u ")
    assert checkout.ok("secrets.get", "new_one") == "x"


@pytest.mark.process
def test_check_says_once_how_to_declare_what_was_imported(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "old.env").write_text("".join(f"NAME_{number}=x\n" for number in range(23)))
    checkout.ok("secrets.encrypt", str(tmp_path / "old.env"), "--merge")

    found = json.loads(checkout.call("secrets.check", "--json").stdout)["value"]

    [undeclared] = [one for one in found if one["kind"] == "undeclared"]
    assert "name_0: {}, name_1: {}" in undeclared["next_command"]
    assert "name_22" in undeclared["what"]
    assert "unset" not in json.dumps(found)


@pytest.mark.process
def test_a_value_that_only_a_file_has_is_to_be_taken_in_and_not_deleted(checkout: Checkout) -> None:
    (checkout.folder / "docker/secrets").mkdir(mode=0o700, parents=True)
    (checkout.folder / "docker/secrets/optional.txt").write_text("only here")

    found = json.loads(checkout.call("secrets.check", "--json").stdout)["value"]

    [left] = [one for one in found if one["kind"] == "left-over"]
    assert left["next_command"].startswith("invoke secrets.set optional --from-file ")
