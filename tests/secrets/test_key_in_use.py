"""doctor and secrets.check say whose key it is, and whether the encrypted file opens with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyrage import passphrase

from conche.vault import keys
from tests.secrets.declared import Checkout

pytestmark = pytest.mark.process

NO_ENGINE = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}


def finding(checkout: Checkout, **extra: str) -> dict[str, str]:
    found = json.loads(checkout.call("doctor", "--json", **NO_ENGINE, **extra).stdout)["value"]
    [key] = [one for one in found if one["name"] == "age key"]
    return dict(key)


def encrypted_copy(identity: str, armor: bool) -> bytes:
    return bytes(passphrase.encrypt(identity.encode(), "a passphrase", armored=armor))


def bad_key(kind: str) -> tuple[bytes, str]:
    """What stands in the key's place, and the code of the error that it is."""
    secret, _ = keys.generate()
    return {
        "junk": (b"junk\n", "key-malformed"),
        "bytes": (bytes(range(128, 256)), "key-malformed"),
        "nothing": (b"\n", "key-malformed"),
        "a public key": (keys.generate()[1].encode(), "key-malformed"),
        "a stranger's": (secret.reveal().encode(), "key-not-a-recipient"),
        "with a passphrase": (encrypted_copy(secret.reveal(), armor=False), "key-encrypted"),
        "with a passphrase, as text": (encrypted_copy(secret.reveal(), armor=True), "key-encrypted"),
    }[kind]


KINDS = ["junk", "bytes", "nothing", "a public key", "a stranger's", "with a passphrase", "with a passphrase, as text"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_opens_nothing_is_found(checkout: Checkout, kind: str) -> None:
    content, code = bad_key(kind)
    checkout.key_file.write_bytes(content)

    key = finding(checkout)
    checked = checkout.call("secrets.check")

    assert (key["state"], bool(key["next_command"])) == ("missing", True)
    assert checked.returncode in (1, 8)
    assert code in checked.stdout + checked.stderr
    assert f"{keys.PREFIX}Q" not in checked.stdout + checked.stderr + json.dumps(key)


def test_a_stranger_is_named(checkout: Checkout) -> None:
    secret, public = keys.generate()
    checkout.key_file.write_text(secret.reveal())

    assert public in finding(checkout)["found"]
    assert public in checkout.call("secrets.check").stdout


def test_a_key_that_opens_the_file_is_named_with_where_it_is(checkout: Checkout) -> None:
    public = keys.public_of(checkout.key_file.read_text().splitlines()[-1])
    checkout.ok("secrets.set", "shared_token", "--generate")

    key = finding(checkout)

    assert key["state"] == "ok"
    assert key["found"] == f"{public} in {checkout.key_file} opens secrets.enc.yaml: 5 secrets"
    assert checkout.ok("secrets.check") == (
        f"secrets.enc.yaml checked with {public} from {checkout.key_file}: nothing found.\n"
    )


def test_the_key_of_the_environment_comes_first(checkout: Checkout) -> None:
    assert finding(checkout, SOPS_AGE_KEY="junk")["state"] == "missing"
    assert finding(checkout, SOPS_AGE_KEY_FILE="/nowhere/key")["state"] == "missing"


def test_without_a_key_dev_still_comes_up(checkout: Checkout) -> None:
    checkout.key_file.unlink()

    assert finding(checkout)["state"] == "optional"
    assert "checked without a key" in checkout.call("secrets.check").stdout


@pytest.mark.parametrize("way", ["pipe", "file"])
@pytest.mark.parametrize(
    ("given", "kept"),
    [("one\n", "one"), ("one", "one"), ("two\nlines\n", "two\nlines\n"), ("two\nlines", "two\nlines")],
)
def test_several_lines_keep_their_end_and_one_line_does_not(
    checkout: Checkout, tmp_path: Path, way: str, given: str, kept: str
) -> None:
    (tmp_path / "value").write_text(given)
    from_file = ("--from-file", str(tmp_path / "value")) if way == "file" else ()

    checkout.ok("secrets.set", "db_password", *from_file, stdin=given if way == "pipe" else "")
    checkout.ok("secrets.render")

    assert checkout.ok("secrets.get", "db_password") == kept
    assert (checkout.folder / "docker/secrets/db_password.txt").read_text() == kept
