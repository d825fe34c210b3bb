"""What reading a stranger's manifest costs: a megabyte of it at most 64 of memory."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conche.backup import manifest
from tests.stacks import ROOT

Shape = Callable[[int], str]

HEAD = (
    '{"schema_": "conche-backup/2", "name": "a_daily_20260101_000000", "stack": "a", "kind": "daily", "seconds": 1,'
    ' "created": "2026-01-01T00:00:00Z", "complete": true'
)
SIZE = 1 << 20

MEASURE = """
import os, pathlib, sys
from conche.backup import manifest

def highest():
    return int(pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

for name in sys.argv[1:]:
    sys.stdout.flush()
    if not os.fork():
        before = highest()
        read = manifest.examined(pathlib.Path(name))
        print(highest() - before, read.error.code if read.error else "read")
        sys.stdout.flush()
        os._exit(0)
    os.wait()
"""
"""Prints for each backup how much more memory reading its manifest takes at its height, in kB, and what comes of it."""


def many(one: Callable[[int], str]) -> str:
    """As many of something as fill the size, with commas between them."""
    return ",".join(one(number) for number in range(SIZE // (len(one(SIZE)) + 1)))


def of(component: str) -> str:
    return f'"components": {{"m": {{"driver": "files", {component}}}}}'


COSTLY: dict[str, tuple[Callable[[], str], str]] = {
    "links": (lambda: of(f'"links": [{many(lambda n: f"""{{"path":"m/{n:x}","target":""}}""")}]'), "read"),
    "files": (lambda: of(f'"artifacts": [{many(lambda n: f"""{{"path":"m/{n:x}","size":0,"sha256":""}}""")}]'), "read"),
    "omissions": (lambda: of(f'"left_out": [{many(lambda n: """{"name":"","why":""}""")}]'), "read"),
    "facts": (lambda: of(f'"facts": {{{many(lambda n: f""""{n:x}":"" """)}}}'), "read"),
    "facts that are none": (lambda: of(f'"facts": {{{many(lambda n: f""""{n:x}":{{}}""")}}}'), "manifest-refused"),
    "files that are none": (lambda: of(f'"artifacts": [{many(lambda n: "{}")}]'), "manifest-refused"),
    "links that are numbers": (lambda: of(f'"links": [{many(lambda n: "1")}]'), "manifest-refused"),
    "a file with many keys": (
        lambda: of(f'"artifacts": [{{{many(lambda n: f""""{n:x}":0""")}}}]'), "manifest-refused",
    ),
    "keys that are unknown": (lambda: f'"components": {{}}, {many(lambda n: f""""{n:x}":0""")}', "manifest-refused"),
    "components": (
        lambda: f'"components": {{{many(lambda n: f""""{n:x}":{{"driver":""}}""")}}}', "manifest-refused",
    ),
    "images that are a list": (lambda: f'"components": {{}}, "images": [{many(lambda n: "[]")}]', "manifest-refused"),
    "brackets": (lambda: f'"components": {"[" * SIZE}', "manifest-damaged"),
}  # fmt: skip


def written(folder: Path, body: str) -> Path:
    """A manifest whose digest fits."""
    folder.mkdir()
    content = f"{HEAD}, {body}".encode()
    digest = hashlib.sha256(content + b"\n}\n").hexdigest().encode()
    (folder / manifest.FILE).write_bytes(content + b',\n "digest": "' + digest + b'"\n}\n')
    return folder


@pytest.mark.large
def test_a_megabyte_of_a_manifest_costs_at_most_64_of_memory(tmp_path: Path) -> None:
    folders = [written(tmp_path / str(number), body()) for number, (body, _) in enumerate(COSTLY.values())]

    argv = [sys.executable, "-c", MEASURE, *map(str, folders)]
    found = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()

    seen = {name: line.split() for name, line in zip(COSTLY, found, strict=True)}
    assert {name: how for name, (_, how) in seen.items()} == {name: how for name, (_, how) in COSTLY.items()}
    assert {name: cost for name, (cost, _) in seen.items() if int(cost) > 64 * SIZE // 1024} == {}
