"""secrets.*, as a user calls them: what they do to the checkout, what they say, and what they never show."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from conche.vault import keys
from tests import warm
from tests.secrets.declared import Checkout, mode

pytestmark = pytest.mark.process

# init


def test_init_makes_a_private_key_and_a_file_of_placeholders_that_git_may_have(checkout: Checkout) -> None:
    assert (mode(checkout.key_file), mode(checkout.key_file.parent)) == (0o600, 0o700)
    assert checkout.git("status", "--short", "--ignored").split() == ["!!", ".sops/"]
    assert "AGE-SECRET-KEY" not in checkout.git("log", "--patch")
    assert checkout.ok("secrets.get", "optional") == "your_key_here"


def test_init_again_changes_nothing(checkout: Checkout) -> None:
    files = [checkout.key_file, checkout.encrypted, checkout.folder / ".sops.yaml", checkout.folder / ".gitignore"]
    before = [file.read_bytes() for file in files]

    said = checkout.ok("secrets.init", "--generate")

    assert "Nothing to do" in said
    assert [file.read_bytes() for file in files] == before


def test_init_and_recipients_keep_the_rules_for_other_files(checkout: Checkout) -> None:
    config = checkout.folder / ".sops.yaml"
    config.write_text("stores: {json: {indent: 2}}\ncreation_rules:\n  - {path_regex: 'old\\.json$', age: age1old}\n")
    checkout.encrypted.unlink()
    _, another = keys.generate()

    checkout.ok("secrets.init")
    checkout.ok("secrets.recipients.add", another)

    said = yaml.safe_load(config.read_text())
    assert [rule["path_regex"] for rule in said["creation_rules"]] == [
        "^(secrets\\.enc\\.yaml|\\.sops/secrets\\.yaml)$",
        "old\\.json$",
    ]
    assert another in said["creation_rules"][0]["age"]
    assert said["stores"] == {"json": {"indent": 2}}


def test_init_takes_a_key_that_is_there_and_makes_values_that_can_be_made(checkout: Checkout) -> None:
    before = checkout.key_file.read_bytes()
    checkout.encrypted.unlink()

    checkout.ok("secrets.init", "--generate")

    assert checkout.key_file.read_bytes() == before
    assert re.fullmatch("[0-9a-f]{64}", checkout.ok("secrets.get", "shared_token"))
    assert re.fullmatch("[A-Za-z0-9]{24}", checkout.ok("secrets.get", "db_password"))
    assert checkout.ok("secrets.get", "api_key") == "your_key_here"


def test_init_replaces_the_demonstration_key_and_nobody_elses(checkout: Checkout) -> None:
    public = keys.public_of(checkout.key_file.read_text().splitlines()[-1])
    checkout.small.replace("stack.yaml", "secrets:\n", f"secrets:\n  demonstration: [{public}]\n")
    assert json.loads(checkout.call("secrets.check", "--json").stdout)["value"][0]["kind"] == "demonstration-key"
    checkout.key_file.unlink()

    checkout.ok("secrets.init")

    assert public not in checkout.encrypted.read_text()
    assert checkout.ok("secrets.get", "api_key") == "your_key_here"


# set, get, unset, list


@pytest.mark.parametrize(("options", "kept"), [((), "one line"), (("--raw",), "one line\n")], ids=["cut", "raw"])
def test_set_takes_what_is_piped_in(checkout: Checkout, options: tuple[str, ...], kept: str) -> None:
    checkout.ok("secrets.set", "optional", *options, stdin="one line\n")

    assert checkout.ok("secrets.get", "optional") == kept


def test_set_takes_a_file_or_makes_a_value(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "value").write_text("from a $file\n")

    checkout.ok("secrets.set", "optional", "--from-file", str(tmp_path / "value"))
    checkout.ok("secrets.set", "shared_token", "--generate")

    assert checkout.ok("secrets.get", "optional") == "from a $file"
    assert re.fullmatch("[0-9a-f]{64}", checkout.ok("secrets.get", "shared_token"))


@pytest.mark.parametrize(
    ("words", "stdin", "code", "status"),
    [
        (("set", "optional"), "", "value-empty", 2),
        (("set", "optional", "--from-file", "/nowhere"), "", "file-unreadable", 2),
        (("set", "optionl"), "x", "secret-not-declared", 6),
        (("set", "optional"), "a\\'$\r", "value-not-representable", 2),
        (("get", "optionl"), "", "no-such-secret", 6),
        (("unset", "optionl", "--yes"), "", "no-such-secret", 6),
        (("unset", "optional"), "", "confirmation-needed", 2),
        (("run",), "", "no-command", 2),
        (("diff", "--revision", "nowhere"), "", "no-such-revision", 6),
        (("recipients.add", "age1nobody"), "", "recipient-malformed", 2),
        (("render", "--env-only", "--files-only"), "", "options-exclude-each-other", 2),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    checkout: Checkout, words: tuple[str, ...], stdin: str, code: str, status: int
) -> None:
    task, *rest = words
    before = checkout.encrypted.read_bytes()

    done = checkout.call(f"secrets.{task}", *rest, stdin=stdin)

    assert (done.returncode, done.stdout) == (status, "")
    assert f"[{code}]" in done.stderr
    assert checkout.encrypted.read_bytes() == before


def test_the_same_value_again_is_no_change(checkout: Checkout) -> None:
    before = checkout.encrypted.read_bytes()

    done = json.loads(checkout.ok("secrets.set", "api_key", "--json", stdin="the-value-of-api-key"))

    assert done["value"] == {"name": "api_key", "changed": False}
    assert checkout.encrypted.read_bytes() == before


def test_a_dry_run_writes_nothing(checkout: Checkout) -> None:
    before = {path: path.stat().st_mtime_ns for path in checkout.folder.rglob("*") if path.is_file()}

    checkout.ok("secrets.set", "api_key", "--dry-run", stdin="new")
    checkout.ok("secrets.unset", "api_key", "--dry-run")
    checkout.ok("secrets.render", "--dry-run")
    checkout.ok("secrets.rotate", "--identity", "--dry-run")
    checkout.ok("secrets.recipients.add", keys.generate()[1], "--dry-run")

    files = {path: path.stat().st_mtime_ns for path in checkout.folder.rglob("*") if path.is_file()}
    tool = {path: time for path, time in files.items() if "__pycache__" not in path.parts and path.suffix != ".lock"}
    assert tool == {path: time for path, time in before.items() if path in tool}


def test_get_at_a_terminal_shows_a_value_only_when_told_to(checkout: Checkout) -> None:
    shown = {}
    for options in ((), ("--show",), ("--length",)):
        ours, theirs = pty.openpty()
        try:
            done = warm.run(
                checkout.small.argv("secrets.get", "api_key", *options),
                cwd=checkout.folder,
                env=checkout.environment({}),
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            os.write(theirs, b"<end>")
            seen = b""
            while not seen.endswith(b"<end>"):
                seen += os.read(ours, 10_000)
            shown[options] = (done.returncode, seen.decode(), done.stderr)
        finally:
            os.close(theirs)
            os.close(ours)

    assert shown["--show",][:2] == (0, "the-value-of-api-key<end>")
    assert shown["--length",][:2] == (0, "20\r\n<end>")
    assert shown[()][:2] == (2, "<end>")
    assert "[value-not-shown]" in shown[()][2]


def test_a_fingerprint_tells_values_apart_and_not_what_they_are(checkout: Checkout) -> None:
    one = checkout.ok("secrets.get", "api_key", "--fingerprint")
    same = checkout.ok("secrets.get", "api_key", "--fingerprint")
    other = checkout.ok("secrets.get", "db_password", "--fingerprint")

    assert one == same != other
    assert re.fullmatch("[0-9a-f]{16}\n", one)


def test_unset_removes_a_secret_and_list_says_so(checkout: Checkout) -> None:
    checkout.ok("secrets.unset", "api_key", "--yes")

    states = {row["name"]: row["state"] for row in json.loads(checkout.ok("secrets.list", "--json"))["value"]}
    assert states["api_key"] == "missing"
    assert states["db_password"] == "found"
    assert states["optional"] == "placeholder"
    assert checkout.call("secrets.get", "api_key").returncode == 6


def test_list_needs_no_key_for_names(checkout: Checkout) -> None:
    checkout.key_file.unlink()

    listed = json.loads(checkout.ok("secrets.list", "--json"))["value"]

    assert [row["name"] for row in listed] == ["api_key", "db_password", "shared_token", "renamed", "optional"]
    assert {row["length"] for row in listed} == {None}
    assert checkout.call("secrets.get", "api_key").returncode == 8


def test_a_key_that_others_can_read_stops_everything_with_the_way_out(checkout: Checkout) -> None:
    checkout.key_file.chmod(0o644)

    done = checkout.call("secrets.get", "api_key")

    assert (done.returncode, done.stdout) == (8, "")
    assert f"chmod 600 '{checkout.key_file}'" in done.stderr


# check


def problems(checkout: Checkout, **extra: str) -> tuple[int, set[str]]:
    done = checkout.call("secrets.check", "--json", **extra)
    return done.returncode, {row["kind"] for row in json.loads(done.stdout)["value"]}


def test_check_finds_nothing_only_when_there_is_nothing(checkout: Checkout) -> None:
    assert problems(checkout) == (1, {"placeholder"})

    checkout.ok("secrets.set", "shared_token", "--generate")

    assert problems(checkout) == (0, set())


def test_check_finds_drift_leaks_and_loose_modes(checkout: Checkout) -> None:
    checkout.ok("secrets.render")
    checkout.ok("secrets.set", "shared_token", "--generate")
    checkout.small.replace("stack.yaml", "    optional:", "    another: {}\n    optional_too:")
    (checkout.folder / ".env").chmod(0o644)
    (checkout.folder / ".gitignore").write_text(".sops/*\n")
    (checkout.folder / "docker/secrets").chmod(0o755)
    checkout.git("add", "docker/secrets")

    code, found = problems(checkout)

    assert code == 1
    assert {"missing", "undeclared", "mode", "not-ignored", "tracked", "stale"} <= found


def test_check_says_that_git_would_take_what_render_writes_down(checkout: Checkout) -> None:
    checkout.ok("secrets.render")
    (checkout.folder / ".gitignore").write_text(".sops/*\n.env\n*.txt\n")

    said = json.loads(checkout.call("secrets.check", "--json").stdout)["value"]

    assert [row["next_command"] for row in said if row["kind"] == "not-ignored"] == [
        "echo '/docker/secrets/.rendered' >> .gitignore"
    ]


@pytest.mark.parametrize("content", ["", "api_key: plain\n", "sops: {}\n", "a: [1]\n"])
def test_check_names_a_damaged_file_and_goes_no_further(checkout: Checkout, content: str) -> None:
    checkout.encrypted.write_text(content)

    assert problems(checkout) == (1, {"secrets-damaged"})
    assert checkout.call("secrets.set", "api_key", stdin="new").returncode == 8
    assert checkout.encrypted.read_text() == content


# render and run


def test_render_writes_private_files_and_then_leaves_them_alone(checkout: Checkout) -> None:
    (checkout.folder / ".env").write_text("# mine\nMINE=1\nAPI_KEY=old\n")
    assert checkout.call("secrets.render", "--check").returncode == 1

    first = json.loads(checkout.ok("secrets.render", "--json"))["value"]
    second = json.loads(checkout.ok("secrets.render", "--json"))["value"]

    assert first["files"] == {".env": "changed", "docker/secrets/db_password.txt": "created"}
    assert set(second["files"].values()) == {"same"}
    assert checkout.call("secrets.render", "--check").returncode == 0
    env = (checkout.folder / ".env").read_text().splitlines()
    assert env[:2] == ["# mine", "MINE=1"]
    assert [line for line in env if line.startswith("API_KEY")] == ["API_KEY=the-value-of-api-key"]
    file = checkout.folder / "docker/secrets/db_password.txt"
    assert file.read_text() == "the-value-of-db-password"
    assert [mode(path) for path in (checkout.folder / ".env", file, file.parent)] == [0o600, 0o600, 0o700]


def test_render_says_what_to_restart_when_a_value_changed(checkout: Checkout) -> None:
    checkout.ok("secrets.render")
    checkout.ok("secrets.set", "db_password", "--generate")

    assert checkout.call("secrets.render", "--check", "--env-only").returncode == 0
    assert checkout.call("secrets.render", "--check", "--files-only").returncode == 1
    assert json.loads(checkout.ok("secrets.render", "--json"))["value"]["restart"] == ["database"]


def test_decrypt_is_another_name_for_render(checkout: Checkout) -> None:
    checkout.ok("secrets.decrypt", "--env-only")

    assert "API_KEY=the-value-of-api-key\n" in (checkout.folder / ".env").read_text()
    assert not (checkout.folder / "docker/secrets").exists()


def test_run_gives_a_command_the_secrets_and_no_key_and_ends_as_it_does(checkout: Checkout) -> None:
    checkout.ok("secrets.set", "renamed", stdin="line one\nX=injected")
    shown = "import json, os, sys; print(json.dumps(dict(os.environ))); sys.exit(7)"
    key = checkout.key_file.read_text()

    done = checkout.call("secrets.run", "--", "python3", "-c", shown, SOPS_AGE_KEY=key)

    environment = json.loads(done.stdout)
    assert done.returncode == 7
    assert environment["API_KEY"] == "the-value-of-api-key"
    assert environment["OTHER_NAME"] == "line one\nX=injected"
    assert not {"X", "RENAMED", "DB_PASSWORD"} & environment.keys()
    assert [name for name in environment if name.startswith("SOPS_")] == []


def test_run_gives_only_what_was_asked_for(checkout: Checkout) -> None:
    said = checkout.ok("secrets.run", "--only", "renamed", "--", "env")

    assert "OTHER_NAME=" in said
    assert "API_KEY=" not in said
