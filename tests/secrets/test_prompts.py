"""Ctrl-D at a prompt is an answer too: nothing is written, and there is no traceback."""

from __future__ import annotations

import os
import pty
import subprocess

import pytest

from tests.secrets.declared import Checkout

pytestmark = pytest.mark.process


@pytest.mark.parametrize("words", [("secrets.set", "api_key"), ("secrets.backup-key", "copy.age")], ids=" ".join)
def test_the_end_of_input_is_refused(checkout: Checkout, words: tuple[str, ...]) -> None:
    before = checkout.encrypted.read_bytes()
    ours, theirs = pty.openpty()
    argv = checkout.small.argv(*words)
    with subprocess.Popen(
        argv, cwd=checkout.folder, env=checkout.environment({}), stdin=theirs, stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        said = b""
        # What is typed before the prompt is thrown away by getpass.
        while not said.endswith(b": ") and (sign := process.stderr.read(1)):
            said += sign
        os.write(ours, b"\x04")
        said += process.stderr.read()
    os.close(ours)
    os.close(theirs)

    assert process.returncode == 2, said
    assert b"[input-ended]" in said
    assert b"Traceback" not in said
    assert checkout.encrypted.read_bytes() == before
    assert not (checkout.folder / "copy.age").exists()
