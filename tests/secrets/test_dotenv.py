"""A .env file is read alike by python-dotenv and by the real Compose, or its values are refused by name."""

from __future__ import annotations

import json
import shutil
import subprocess
import traceback
from collections.abc import Mapping
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from conche.errors import Refused
from conche.process import environment
from conche.secret import Secret
from conche.stack import SecretDeclaration, Secrets
from conche.vault.dotenv import parse, quote, render
from conche.vault.render import stage

FORMS = {
    # bare
    "": "",
    "abc-1.2_3~^%+,=:@/": "abc-1.2_3~^%+,=:@/",
    "QUJDREVGRw==": "QUJDREVGRw==",
    # single quotes, everything literal
    "a b": "'a b'",
    "a$b${c}$$": "'a$b${c}$$'",
    'say "hi" # now': "'say \"hi\" # now'",
    "two\nlines": "'two\nlines'",
    r"C:\new\table": r"'C:\new\table'",
    # double quotes, escaped
    "it's": '"it\'s"',
    "'wrapped'": "\"'wrapped'\"",
    'it\'s "his"\n': '"it\'s \\"his\\"\\n"',
    "cr\r\nlf": r'"cr\r\nlf"',
    r"\\server": r'"\\\\server"',
    "it's \\\n": r'''"it's \\\n"''',
    # single quotes, escaped
    "it's $5": r"'it\'s $5'",
    "it's \\\"": r"""'it\'s \"'""",
    # unquoted
    "ends with \\": "ends with \\",
    r"a\'b\"c#d": r"a\'b\"c#d",
}

REFUSED = {
    "NUL": "a\0b",
    "lone surrogate": "a\ud800b",
    "CR with $": "a\r$b",
    "CR before a backslash at the end": "a\r\\",
    "two backslashes with $": r"a\\$b",
    "backslash at the end with $": "$a\\",
    "backslash at the end after a newline": "a\nb\\",
    "backslash at the end after a comment": "a #b\\",
    "backslash at the end after a comment behind NBSP": "a\u00a0#b\\",
    "backslash at the end, space at the start": " a\\",
    "backslash at the end, NBSP at the start": "\u00a0a\\",
    "backslash at the end, quote at the start": "'a\\",
    "backslash at the end, double quote at the start": '"a\\',
    "backslash at the end, # at the start": "#a\\",
    r"\' and \" with $": r"""\'\"$""",
    r"\' and \", then a space": r"""a\'\" """,
}

NASTY = [
    *FORMS,
    # spaces, and what is nearly one
    *(" ", "  ", " a", "a ", "\t", "\ta\t", "\u00a0", "\u00a0a\u00a0", "a\u00a0#b", "\u3000a\u2028", "\u0085", "\x1c"),
    *("\ufeff", "\ufeffa", "a\u200b", "\x0b\x0c", "\x01\x1b[31m\x7f"),
    # comments
    *("#", "#a", "a#b", "a #b", "a # b", "a\t#b", " #", "a\n# b"),
    # expansion
    *("$", "$$", "$$$", "a$b", "${", "a${", "${}", "$HOME", "${HOME}", "${X:-y}", "${X:?z}", "$(id)", "`id`"),
    *(r"\$a", r"\${a}", "$V1", "${V1}", "'${V1}'", '"$V1"'),
    # quotes
    *("'", '"', "''", '""', "'''", "a'", 'a"', "'a", '"a', "'a'", '"a"', "'\"", "\"'", "a'b\"c", "'a\" #$", "$'"),
    # lines
    *("\n", "\n\n", "a\n", "\na", "a\n\nb", "a\nB=c", "a\nexport B=c\n", "'\n", "$\n'", "a\u2028b", "a\u0085b"),
    *("\r", "\r\n", "a\r", "\ra", "a\rb", "'\r\"", "a\r\nB=c", "\r\\n"),
    "-----BEGIN KEY-----\nQUI=\n-----END KEY-----\n",
    # backslashes
    *("\\", "\\\\", "\\\\\\", "a\\", "a\\\\", "a b\\", r"\a", r"\n", r"\\n", r"a\nb", r"\t\r\0", r"\x41\u0041\101"),
    *(r"\'", r"\"", r"\\'", r"\ ", r"\#", "\\\n"),
    # other syntax
    *("=", "==", "=a", "a=b", "A=b", "export A=b", ": a", "a: b", "- a", "{a}", "[a]", "!a", "&a", "*a", "|", ">"),
    *("%a", "@a", "~", "null", "true", "007", "1e5", "a;b", "a&&b", "a|b", "<a>", "&lt;", "(a)", "?", "*", r"\u003c"),
    # what secrets look like
    "$2b$12$abc/DEF.ghiJKLmnoPQRstuVWXyz0123456789abcdefghijkl",
    "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b/dWRWJTmaaJObG",
    "eyJhbGciOiJIUzI1NiJ9.e30.ZRrHA1JJJW8opsbCGfG_HACGpVUMN_a9IV7pAx_Zmeo",
    "postgres://user:p%40ss@host:5432/db?sslmode=disable&x='y'",
    '{"type": "service_account", "key": "a\\nb"}',
    # letters
    *("grüße", "пароль", "密码 密码", "🍫", "👩\u200d🍳 $5 'é'", "e\u0301", "\u202eabc", "\U0010ffff"),
    # sizes
    "x" * 2**20,
    "x $'" * 2**18,
]  # fmt: skip

hostile = st.text(
    st.sampled_from([*"aB0 \t\n\r\\\\'\"$#={}:-`\u00a0\u2028\u0085\x1cé🍫", "n", "\\", "'", '"']), max_size=12
)
anything = st.text(st.characters(codec="utf-8"))


def secrets(values: Mapping[str, str]) -> dict[str, Secret]:
    return {name: Secret(value) for name, value in values.items()}


def numbered(values: list[str]) -> dict[str, str]:
    return {f"V{number}": value for number, value in enumerate(values)}


# The readers


@pytest.fixture(scope="module")
def representable() -> dict[str, str]:
    """The nasty values, and some thousand hostile ones that have a form."""
    collected: dict[str, None] = dict.fromkeys(NASTY)

    @settings(
        max_examples=1000,
        phases=[Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(hostile | anything, min_size=10, unique=True))
    def collect(values: list[str]) -> None:
        collected.update(dict.fromkeys(values))

    collect()
    return numbered([value for value in collected if quote(value) is not None])


@pytest.fixture(scope="module")
def read(representable: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str | None]]:
    """What each reader makes of one file that holds them all."""
    folder = tmp_path_factory.mktemp("dotenv")
    file = folder / "values.env"
    file.write_bytes(render(secrets(representable), ["all of them"]))
    compose = config(
        folder,
        {
            "file": {"image": "none", "env_file": str(file)},
            "interpolated": {"image": "none", "environment": {name: f"${{{name}}}" for name in representable}},
        },
        file,
    )
    return {"python-dotenv": dotenv_values(file, interpolate=False), **compose}


def config(folder: Path, services: object, env_file: Path) -> dict[str, dict[str, str | None]]:
    """The environment of each service, as the real Compose has it. It needs no engine for that."""
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    (folder / "compose.yaml").write_text(json.dumps({"name": "t", "services": services}))
    argv = ["docker", "compose", "--env-file", str(env_file), "config", "--format", "json"]
    done = subprocess.run(argv, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # `config` doubles each `$`, so that its output is a Compose file again.
    shown = json.loads(done.stdout.replace("$$", "$"))
    return {name: service["environment"] for name, service in shown["services"].items()}


@pytest.mark.process
@pytest.mark.parametrize("reader", ["python-dotenv", "file", "interpolated"])
def test_every_reader_reads_what_was_meant(
    reader: str, representable: dict[str, str], read: dict[str, dict[str, str | None]]
) -> None:
    differences = {
        value[:80]: read[reader].get(name) for name, value in representable.items() if read[reader].get(name) != value
    }

    assert differences == {}
    assert len(read[reader]) == len(representable) > 2000


@settings(deadline=None)
@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]*", fullmatch=True), hostile | anything))
def test_what_has_a_form_is_read_back(values: dict[str, str]) -> None:
    kept = {name: value for name, value in values.items() if quote(value) is not None}

    assert parse(render(secrets(kept)).decode()) == kept


# The form


@pytest.mark.parametrize(("value", "form"), FORMS.items())
def test_the_first_rule_that_applies_gives_the_form(value: str, form: str) -> None:
    assert quote(value) == form


@settings(deadline=None)
@given(hostile | anything)
@example("x" * 2**20)
def test_every_value_without_backslash_cr_and_nul_has_a_form(value: str) -> None:
    for refusable in "\\\r\0":
        value = value.replace(refusable, "")

    assert quote(value) is not None


def test_every_nasty_value_has_a_form() -> None:
    assert [value for value in NASTY if quote(value) is None] == []


# The file


def test_a_file_is_its_header_and_the_values_in_the_given_order() -> None:
    values = secrets({"B_2": "two words", "A": "", "C": "1"})

    assert render(values, ["Written by Conche.", ""]) == b"# Written by Conche.\n#\nB_2='two words'\nA=\nC=1\n"
    assert render({}) == b""


def test_a_file_is_utf_8() -> None:
    assert render(secrets({"A": "é🍫"})) == "A='é🍫'\n".encode()


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "A.B", "A\n", "É", "export A"])
def test_a_name_that_is_none_is_a_bug(name: str) -> None:
    with pytest.raises(AssertionError, match="not the names of environment variables"):
        render(secrets({"A": "1", name: "canary"}))


@pytest.mark.parametrize(("header", "named"), [("\nOTHER=1", "more names"), ("\nOTHER='", "TOKEN")])
def test_a_file_that_is_not_read_back_as_meant_is_a_bug_that_shows_no_value(header: str, named: str) -> None:
    with pytest.raises(AssertionError) as caught:
        render(secrets({"TOKEN": "the canary", "SAME": "1"}), [header])

    assert str(caught.value) == f"a .env file does not read back as written: {named}"


# Refusals


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED)
def test_a_value_without_a_form_is_refused(value: str) -> None:
    assert quote(value) is None
    with pytest.raises(Refused) as caught:
        render({"TOKEN": Secret(value)})

    assert (caught.value.code, caught.value.status) == ("value-not-representable", 2)


def test_a_refusal_names_all_that_are_concerned_and_shows_none() -> None:
    values = {"FIRST": Secret("canary\r$"), "GOOD": Secret("fine-canary"), "REGISTRY_PASSWORD": Secret("canary\0")}
    with pytest.raises(Refused) as caught:
        render(values)

    assert caught.value.message == (
        "FIRST, REGISTRY_PASSWORD cannot be written to .env so that python-dotenv and Compose read the same value."
    )
    assert caught.value.next_command == (
        "invoke secrets.set first --generate    # or give it `outputs: [file]` in stack.yaml\n"
        "invoke secrets.set registry_password --generate    # or give it `outputs: [file]` in stack.yaml"
    )
    assert "canary" not in "".join(traceback.format_exception(caught.value)) + json.dumps(caught.value.as_json())


# Reading


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("# a comment\n\nA=1 # another\n", {"A": "1"}),
        ("export A='1'\r\nB=\"2\"\r\n", {"A": "1", "B": "2"}),
        ("A=1\nB=${A}\nC='$A'\nD=\"$A\"\n", {"A": "1", "B": "${A}", "C": "$A", "D": "$A"}),
        ("A\nB=\n", {"B": ""}),
        ("A=1\nA=2\n", {"A": "2"}),
    ],
)
def test_a_file_of_another_hand_is_read_without_expansion(text: str, values: dict[str, str]) -> None:
    assert parse(text) == values


def test_rendering_leaves_no_second_value_of_a_variable_however_it_was_written(tmp_path: Path) -> None:
    lines = ("token: decrypted", "export token=shell", "\ttoken = spaced", "tokens: other", "# token: said", "PORT=1")
    (tmp_path / ".env").write_text("".join(f"{line}\n" for line in lines))
    section = Secrets(declared={"token": SecretDeclaration(env="token")})

    [staged] = stage(tmp_path, section, {"token": Secret("new")}, env=True, files_=False)

    assert staged.content.decode().splitlines()[:3] == ["tokens: other", "# token: said", "PORT=1"]
    assert staged.content.count(b"token") == 3
