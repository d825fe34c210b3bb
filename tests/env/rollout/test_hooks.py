"""Hooks: commands around a release, with time-outs; what they say afterwards changes no result."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from conche.command import Invocation
from conche.env.rollout.hooks import run_after, run_first
from conche.errors import Refused
from conche.output import Output
from conche.release.records import Placed, Record, Result
from conche.stack import Deploy, Hook

WRITES = (
    "import os, sys; open(sys.argv[1], 'a').write(' '.join(os.environ['CONCHE_' + n] for n in sys.argv[2:]) + '\\n')"
)


def call(folder: Path) -> Invocation:
    return Invocation(folder, Output("env.deploy"))


def record(kind: str = "deploy") -> Record:
    placed = {"web": Placed("web@sha256:1", "", "", "", ()), "edge": Placed("nginx", "", "", "", ())}
    return Record(7, "prod", kind, "", "me", "here", "", "abc", dirty=False, services=placed)


def writes(*names: str) -> Hook:
    return Hook(command=(sys.executable, "-c", WRITES, "said", *names))


def fails(words: str = "no") -> Hook:
    return Hook(command=(sys.executable, "-c", f"import sys; sys.exit({words!r})"))


def deploy(**hooks: Hook) -> Deploy:
    return Deploy.model_validate({"hooks": {name.replace("_", "-"): hook for name, hook in hooks.items()}})


@pytest.mark.process
def test_a_hook_knows_the_release_and_stands_in_the_checkout(tmp_path: Path) -> None:
    run_first(
        call(tmp_path), deploy(pre_deploy=writes("ENVIRONMENT", "RELEASE", "KIND", "REVISION", "IMAGES")), record()
    )

    assert (tmp_path / "said").read_text() == "prod r7 deploy abc nginx web@sha256:1\n"


@pytest.mark.process
def test_a_hook_before_that_fails_refuses_in_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="the stars are wrong") as refused:
        run_first(call(tmp_path), deploy(pre_deploy=fails("the stars are wrong")), record())

    assert refused.value.code == "hook-failed"


@pytest.mark.process
@pytest.mark.parametrize(
    ("kind", "result", "run"),
    [
        ("deploy", Result.SUCCEEDED, ["post-deploy"]),
        ("rollback", Result.SUCCEEDED, ["post-deploy", "on-rollback"]),
        ("deploy", Result.RESTORED, ["on-failure"]),
        ("rollback", Result.FAILED, ["on-failure"]),
        ("deploy", Result.INTERRUPTED, ["on-failure"]),
    ],
)
def test_which_hooks_come_after(tmp_path: Path, kind: str, result: Result, run: list[str]) -> None:
    hooks = {name.replace("-", "_"): fails(name) for name in ("post-deploy", "on-failure", "on-rollback")}

    said = run_after(call(tmp_path), deploy(**hooks), record(kind), result)

    assert [words.split()[1] for words in said] == run
    assert all("which does not affect the result" in words for words in said)


@pytest.mark.process
def test_a_hook_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    slow = Hook(command=(sys.executable, "-c", "import signal; signal.pause()"), timeout=0.3)

    (said,) = run_after(call(tmp_path), deploy(post_deploy=slow), record(), Result.SUCCEEDED)

    assert "timed out after 0.3 s" in said


def test_a_hook_that_is_no_program_is_a_warning_afterwards_and_a_refusal_before(tmp_path: Path) -> None:
    missing = Hook(command=("no-such-program-anywhere",))

    (said,) = run_after(call(tmp_path), deploy(post_deploy=missing), record(), Result.SUCCEEDED)

    assert "is not installed" in said
    with pytest.raises(Refused):
        run_first(call(tmp_path), deploy(pre_deploy=missing), record())


def test_without_hooks_nothing_is_run(tmp_path: Path) -> None:
    run_first(call(tmp_path), Deploy(), record())

    assert run_after(call(tmp_path), Deploy(), record(), Result.SUCCEEDED) == []
