"""ci.secrets: CI's own key and the Actions secrets, over a real encrypted file and a stand-in server."""

from __future__ import annotations

import json
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conche.ci.act.credentials import CI_KEY, ci_key
from conche.testing.forge import FakeForge, serve
from conche.vault import keys
from tests.secrets.checkouts import Checkout

pytestmark = pytest.mark.process

TOKEN = "good-token-of-tests"


@pytest.fixture
def forge() -> Iterator[FakeForge]:
    with serve("forgejo-15") as fake:
        yield fake


@pytest.fixture
def checkout(tmp_path: Path, forge: FakeForge) -> Checkout:
    made = Checkout.create(tmp_path / "checkout")
    section = f"ci: {{server: '{forge.address}', repository: team/app, secrets: [SOPS_AGE_KEY, ALPHA]}}\n"
    file = made.folder / "stack.yaml"
    file.write_text(file.read_text() + section)
    made.put("alpha", "the value of alpha")
    return made


def secrets(checkout: Checkout, *words: str, **extra: str) -> Any:
    return json.loads(checkout.invoke("ci.secrets", *words, "--json", FORGEJO_TOKEN=TOKEN, **extra).stdout)


def test_a_key_of_its_own_is_made_added_and_put(checkout: Checkout, forge: FakeForge) -> None:
    document = secrets(checkout, "--new-key")

    key = ci_key(checkout.folder)
    assert document["value"]["created"] == ["SOPS_AGE_KEY", "ALPHA"]
    assert key is not None
    assert forge.secrets == {"SOPS_AGE_KEY": key.identities.reveal(), "ALPHA": "the value of alpha"}
    assert stat.S_IMODE((checkout.folder / CI_KEY).stat().st_mode) == 0o600
    with_ci_key = checkout.invoke("secrets.get", "alpha", SOPS_AGE_KEY=key.identities.reveal())
    assert with_ci_key.stdout == "the value of alpha"
    assert checkout.git("check-ignore", str(CI_KEY)).returncode == 0


def test_a_second_time_makes_no_second_key(checkout: Checkout, forge: FakeForge) -> None:
    secrets(checkout, "--new-key")
    first = dict(forge.secrets)

    again = secrets(checkout, "--new-key")

    assert again["value"]["created"] == []
    assert [step["action"] for step in again["plan"]] == ["put", "put"]
    assert forge.secrets == first


def test_without_a_key_of_its_own_the_one_in_use_is_put_with_a_warning(checkout: Checkout, forge: FakeForge) -> None:
    document = secrets(checkout)

    used = keys.find(checkout.folder, {})
    assert used is not None
    assert forge.secrets["SOPS_AGE_KEY"] == used.identities.reveal()
    assert "ci.secrets --new-key" in document["warnings"][0]


def test_a_dry_run_makes_and_puts_nothing(checkout: Checkout, forge: FakeForge) -> None:
    document = secrets(checkout, "--new-key", "--dry-run")

    assert [step["action"] for step in document["plan"]] == ["create", "add", "put", "put"]
    assert forge.secrets == {}
    assert not (checkout.folder / CI_KEY).exists()


def test_check_tells_what_is_missing_and_what_nobody_declared(checkout: Checkout, forge: FakeForge) -> None:
    forge.secrets = {"SOPS_AGE_KEY": "x", "OLD": "x"}

    done = checkout.invoke("ci.secrets", "--check", FORGEJO_TOKEN=TOKEN)

    assert done.returncode == 1
    assert "ALPHA          missing" in done.stdout
    assert "OLD is on the server but not in ci.secrets" in done.stderr
    secrets(checkout)
    assert checkout.invoke("ci.secrets", "--check", FORGEJO_TOKEN=TOKEN).returncode == 0


def test_a_secret_that_nobody_has_is_refused_before_anything_is_put(checkout: Checkout, forge: FakeForge) -> None:
    file = checkout.folder / "stack.yaml"
    file.write_text(file.read_text().replace("ALPHA]", "ALPHA, NOBODYS]"))

    error = secrets(checkout)["error"]

    assert (error["code"], error["exit_code"]) == ("secret-has-no-value", 8)
    assert "NOBODYS" in error["message"]
    assert forge.secrets == {}


def test_an_empty_value_is_refused_before_anything_is_put(checkout: Checkout, forge: FakeForge) -> None:
    error = secrets(checkout, ALPHA="")["error"]

    assert (error["code"], error["exit_code"]) == ("value-empty", 2)
    assert "ALPHA" in error["message"]
    assert [line for line in forge.asked if line.startswith("PUT")] == []


def test_no_value_is_in_any_stream_or_argv(checkout: Checkout, forge: FakeForge) -> None:
    done = checkout.invoke("ci.secrets", "--new-key", FORGEJO_TOKEN=TOKEN)

    said = done.stdout + done.stderr + " ".join(forge.asked)
    assert done.returncode == 0, done.stderr
    assert [value for value in (*forge.secrets.values(), TOKEN) if value in said] == []


def test_check_and_new_key_exclude_each_other(checkout: Checkout) -> None:
    assert secrets(checkout, "--check", "--new-key")["error"]["code"] == "options-exclude-each-other"


def test_after_a_kill_at_any_moment_the_next_run_finishes(checkout: Checkout, forge: FakeForge) -> None:
    moments = random.Random(20261123)
    for _ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-m", "invoke", "ci.secrets", "--new-key"], cwd=checkout.folder,
            env=checkout.environment(FORGEJO_TOKEN=TOKEN), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(moments.uniform(0.3, 1.2))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        key = ci_key(checkout.folder)
        assert key is None or len(key.public) == 1
        assert checkout.value("alpha") == "the value of alpha"

    assert secrets(checkout, "--new-key")["value"]["put"] == ["SOPS_AGE_KEY", "ALPHA"]

    key = ci_key(checkout.folder)
    assert key is not None
    assert forge.secrets["SOPS_AGE_KEY"] == key.identities.reveal()
    assert checkout.invoke("secrets.get", "alpha", SOPS_AGE_KEY=key.identities.reveal()).stdout == "the value of alpha"
    assert checkout.invoke("secrets.recipients.list").returncode == 0
