"""Backups against the documented script (tar czf and cp) and restic, on the same generated data, in the same run.

What it must reach stands beside each figure; exit code 1 when one does not.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import os
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conche.backup import manifest
from conche.backup.verify import check
from conche.errors import CheckFailed
from conche.vault.keys import generate as new_key

PARTS = ("speed", "again", "flips", "offsite")
ROOT = Path(__file__).resolve().parents[2]
INVOKE = (sys.executable, "-m", "invoke")
MB = 1_000_000
WORDS = [f"{first}{last}" for first in ("def ", "self.", "return ", "import ", "# why ") for last in "abcdefghijklmnop"]

STACK = """\
name: bench
registry: localhost:5000
secrets: {declared: {restic: {}}}
backup:
  recipients: [RECIPIENT]
  offsite: {repository: ../offsite, password: restic, daily: 20}
  components:
    influxdb: {driver: archive, paths: [influxdb]}
    models: {driver: files, paths: [models]}
    code: {driver: archive, paths: [src, scripts, docs]}
    logs: {driver: logs, paths: ["logs/*.log"]}
environments: {dev: {compose: [compose.yaml]}}
"""

SCRIPT = """\
set -e
to=$1; mkdir -p "$to/influxdb" "$to/models" "$to/code" "$to/logs"
tar czf "$to/influxdb/influxdb_data.tar.gz" influxdb
cp -r models/. "$to/models/"
for one in src scripts docs; do tar czf "$to/code/$one.tar.gz" "$one"; done
find logs -name '*.log' -mtime -7 -exec cp {} "$to/logs/" ';'
"""


COPY = """\
import pathlib, shutil, sys
newest = max(pathlib.Path(sys.argv[1]).iterdir())
to = pathlib.Path(sys.argv[2])
to.mkdir()
for number, path in enumerate(newest.rglob("*")):
    if path.is_file() and path.stat().st_nlink == 1:
        shutil.copyfile(path, to / str(number))
"""
"""Copies what of the newest backup no other has: no file system without shared blocks stores a whole archive sooner."""


@dataclass
class Bench:
    """A checkout with generated data, and what was measured."""

    folder: Path
    runs: int
    missed: list[str] = field(default_factory=list)

    @property
    def checkout(self) -> Path:
        return self.folder / "bench"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RESTIC_PASSWORD": "bench",
            "RESTIC_CACHE_DIR": str(self.folder / "cache"),
            "XDG_STATE_HOME": str(self.folder / "state"),
        }

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            argv, cwd=self.checkout, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{argv}: {done.stdout}{done.stderr}")
        return done

    def in_turn(self, *rivals: tuple[Sequence[str], Callable[[], object]]) -> list[float]:
        """The median seconds of each, run in turn: A B A B …; what stands beside a command is done before it."""
        taken: list[list[float]] = [[] for _ in rivals]
        for _ in range(self.runs):
            for place, (argv, before) in enumerate(rivals):
                before()
                begun = time.perf_counter()
                self.run(*argv)
                taken[place].append(time.perf_counter() - begun)
        return [statistics.median(column) for column in taken]

    def peak(self, *argv: str) -> float:
        """MB that the largest of a command's processes had at its largest."""
        process = subprocess.Popen(argv, cwd=self.checkout, env=self.environment, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return usage.ru_maxrss * 1024 / MB

    def say(self, what: str, value: float, unit: str, limit: float, *, at_least: bool = False) -> None:
        good = value >= limit if at_least else value <= limit
        if not good:
            self.missed.append(what)
        bound = "at least" if at_least else "at most"
        sys.stdout.write(f"{what}: {value:.2f}{unit} ({bound} {limit:g}{unit}) {'ok' if good else 'MISSED'}\n")
        sys.stdout.flush()

    def note(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def text(source: random.Random, size: int) -> bytes:
    """Like source code or logs: words, numbers, lines."""
    lines = []
    length = 0
    while length < size:
        line = f"{source.choice(WORDS)} {source.choice(WORDS)}_{source.randrange(10_000)} = {source.random():.6f}\n"
        lines.append(line)
        length += len(line)
    return "".join(lines).encode()[:size]


def measurements(source: random.Random, size: int) -> bytes:
    """Like TSM files: series as InfluxDB stores them, of values with one decimal, with two, and computed ones."""
    # Other bytes for the same bytes: compressing costs the same, and nothing is alike that could be deduplicated.
    copies = (_series().translate(bytes(source.sample(range(256), 256))) for _ in range(size // len(_series()) + 2))
    begun = source.randrange(len(_series()))
    return b"".join(copies)[begun : begun + size]


@functools.cache
def _series() -> bytes:
    """Blocks of 1,000 values: one time and one interval, and each value's bits XORed with the one's before."""
    source, blocks = random.Random(7), []
    for number in range(700):
        level, values = source.uniform(5, 150), []
        for hour in range(1000):
            level += source.gauss(0, 0.5)
            value = level + 20 * math.sin(hour * math.tau / 24)
            values.append(round(value, number % 3) if number % 3 else value)
        head = struct.pack(">IHQQ", source.getrandbits(32), 17, 1_700_000_000 + number * 3_600_000, 3600)
        key = f"weather_data,data_source=aemet,station_id={5000 + number % 7}X#!~#temperature".encode()
        blocks.append(head + _gorilla(values) + key)
    return b"".join(blocks)


def _gorilla(values: Sequence[float]) -> bytes:
    """Floats as a TSM file has them (Pelkonen and others, "Gorilla", VLDB 2015, 4.1.2)."""
    bits: list[str] = []
    before, leading, trailing = 0, 65, 65
    for value in values:
        [number] = struct.unpack(">Q", struct.pack(">d", value))
        changed, before = number ^ before, number
        if not changed:
            bits.append("0")
            continue
        ahead, behind = min(64 - changed.bit_length(), 31), (changed & -changed).bit_length() - 1
        if ahead >= leading and behind >= trailing:
            bits.append("10")
        else:
            leading, trailing = ahead, behind
            bits.append(f"11{ahead:05b}{64 - ahead - behind & 63:06b}")
        bits.append(f"{changed >> trailing:0{64 - leading - trailing}b}")
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8)


def weights(source: random.Random, size: int) -> bytes:
    """Like a pickled model: floats of a narrow range."""
    values = struct.pack("<4096d", *(round(source.gauss(0, 1), 3) for _ in range(4096)))
    return b"".join(values[:16_384] + source.randbytes(16_384) for _ in range(size // 32_768 + 1))[:size]


def generate(folder: Path, scale: float) -> int:
    """The files; returns their bytes."""
    source = random.Random(20261123)
    kinds: list[tuple[str, int, int, Callable[[random.Random, int], bytes]]] = [
        ("influxdb/data/engine/{:04}.tsm", 60, 10 * MB, measurements),
        ("models/{:03}.pkl", 36, 6 * MB, weights),
        ("src/{folder:02}/{0:05}.py", 7000, 10_000, text),
        ("docs/{:04}.md", 1000, 12_000, text),
        ("scripts/{:02}.sh", 20, 2_000, text),
        ("logs/{:02}.log", 20, 4 * MB, text),
    ]
    written = 0
    for pattern, count, size, content in kinds:
        large = size > MB
        for number in range(count if large else max(1, int(count * scale))):
            path = folder / pattern.format(number, folder=number // 70)
            path.parent.mkdir(parents=True, exist_ok=True)
            written += path.write_bytes(content(source, int(size * scale) if large else size))
    return written


def change(folder: Path, day: int) -> None:
    """One file in a hundred gets another content, of the same size."""
    source = random.Random(day)
    files = sorted(
        path for top in ("influxdb", "models", "src", "docs", "logs") for path in (folder / top).rglob("*.*")
    )
    # By bytes: a hundredth of each size, or else one large file would be the whole day's change.
    for path in source.sample([one for one in files if one.stat().st_size < 100_000], len(files) // 100):
        path.write_bytes(text(source, path.stat().st_size))
    for path in (one for one in files if one.stat().st_size >= 100_000):
        size = path.stat().st_size
        with path.open("r+b") as stream:
            stream.seek(source.randrange(size - size // 100))
            stream.write(source.randbytes(size // 100))


def prepare(folder: Path, scale: float, runs: int) -> tuple[Bench, int]:
    bench = Bench(folder, runs)
    bench.checkout.mkdir()
    written = generate(bench.checkout, scale)
    (bench.checkout / "stack.yaml").write_text(STACK.replace("RECIPIENT", new_key()[1]))
    (bench.checkout / "compose.yaml").write_text("services: {web: {image: x}}\n")
    (bench.checkout / "tasks.py").write_text("from conche import namespace\nns = namespace(__file__)\n")
    (bench.checkout / "script.sh").write_text(SCRIPT)
    (bench.checkout / "copy_new.py").write_text(COPY)
    bench.run(*INVOKE, "secrets.init")
    bench.run(*INVOKE, "secrets.set", "restic", "--generate")
    return bench, written


def sources(bench: Bench) -> list[str]:
    return ["influxdb", "models", "src", "scripts", "docs", "logs"]


def speed(bench: Bench, size: int) -> None:
    """create, verify and restore."""
    repository = bench.folder / "restic"
    restic = ("restic", "--quiet", "--repo", str(repository))
    target, script, out = bench.folder / "bench-backups", bench.folder / "script", Path("/dev/shm/conche-bench")

    def no_repository() -> None:
        shutil.rmtree(repository, ignore_errors=True)
        bench.run(*restic, "init")

    create, by_script, by_restic = bench.in_turn(
        ((*INVOKE, "backup.create", "--new-target"), without(target)),
        (("bash", "script.sh", str(script)), without(script)),
        ((*restic, "backup", *sources(bench)), no_repository),
    )
    bench.note(f"create: {create:.2f} s; script {by_script:.2f} s; restic, first {by_restic:.2f} s")
    bench.say("create, times faster than the script", by_script / create, "", 8, at_least=True)
    bench.say("create, times faster than restic's first", by_restic / create, "", 2, at_least=True)
    bench.say("create, peak memory", bench.peak(*INVOKE, "backup.create"), " MB", 120)
    shutil.rmtree(target)
    bench.run(*INVOKE, "backup.create", "--new-target")

    verify, checked = bench.in_turn(
        ((*INVOKE, "backup.verify", "latest"), nothing), ((*restic, "check", "--read-data"), nothing)
    )
    bench.note(f"verify: {verify:.2f} s; restic check --read-data {checked:.2f} s")
    bench.say("verify", verify / (size / 1e9), " s/GB", 1.5)
    bench.say("verify, times faster than restic check --read-data", checked / verify, "", 2, at_least=True)

    restore, restored = bench.in_turn(
        ((*INVOKE, "backup.restore", "latest", "--target", str(out)), without(out)),
        ((*restic, "restore", "latest", "--target", str(out)), without(out)),
    )
    shutil.rmtree(out, ignore_errors=True)
    bench.note(f"restore on tmpfs: {restore:.2f} s; restic {restored:.2f} s")
    bench.say("restore on tmpfs, as a part of restic's time", restore / restored, "", 1)


def again(bench: Bench) -> None:
    """The backup after the first: where nothing has changed, little, and something inside every file."""
    restic = ("restic", "--quiet", "--repo", str(bench.folder / "restic"))
    ours, theirs = (*INVOKE, "backup.create"), (*restic, "backup", *sources(bench))
    bench.run(*restic, "init")
    bench.run(*ours)
    bench.run(*theirs)
    days = itertools.count(1)
    for what, changed in (("nothing changed", nothing), ("a little changed", little), ("every file changed", change)):

        def before(changed: Callable[..., None] = changed) -> None:
            if changed is not nothing:
                changed(bench.checkout, next(days))

        copy = ("python3", "copy_new.py", str(bench.folder / "bench-backups/daily"), str(bench.folder / "copied"))
        own, other, copying = bench.in_turn((ours, before), (theirs, nothing), (copy, without(bench.folder / "copied")))
        bench.note(f"create, {what}: {own:.2f} s; restic {other:.2f} s; cp of what is new {copying:.2f} s")
        bench.say(f"create, {what}, as a part of restic's time and that of cp", own / (other + copying), "", 1)


def little(folder: Path, day: int) -> None:
    """A hundredth of the code gets another content, and one of the data files grows."""
    source = random.Random(day)
    files = sorted((folder / "src").rglob("*.py"))
    for path in source.sample(files, len(files) // 100):
        path.write_bytes(text(source, path.stat().st_size))
    with sorted((folder / "influxdb").rglob("*.tsm"))[day % 60].open("ab") as stream:
        stream.write(measurements(source, 1 << 20))


def flips(bench: Bench, count: int) -> None:
    """Single bits, anywhere in a backup of a small checkout: how many verify finds."""
    bench.run(*INVOKE, "backup.create")
    [folder] = (bench.folder / "bench-backups/daily").iterdir()
    files = [path for path in folder.rglob("*") if path.is_file()]
    source, found = random.Random(1), 0
    for _ in range(count):
        file = source.choice(files)
        content = bytearray(file.read_bytes())
        place = source.randrange(len(content) * 8)
        content[place // 8] ^= 1 << place % 8
        whole = file.read_bytes()
        file.write_bytes(content)
        try:
            found += bool(check(folder, manifest.read(folder)))
        except CheckFailed:
            found += 1
        file.write_bytes(whole)
    bench.say("single flipped bits found", 100 * found / count, " %", 100, at_least=True)


def offsite(bench: Bench) -> None:
    """Fourteen days with one part in a hundred changed, in our repository and in restic's own."""
    own = bench.folder / "own"
    restic = ("restic", "--quiet", "--repo", str(own))
    bench.run(*restic, "init")
    for day in range(14):
        if day:
            change(bench.checkout, day)
        bench.run(*INVOKE, "backup.create")
        bench.run(*INVOKE, "backup.sync")
        bench.run(*restic, "backup", *sources(bench))
    ours, theirs = (disk(bench.folder / name) for name in ("offsite", "own"))
    bench.note(f"14 backups off-site: {ours / MB:.0f} MB; restic's own {theirs / MB:.0f} MB")
    bench.say("off-site, as a multiple of restic's own size", ours / theirs, "", 1.3)
    kept = disk(bench.folder / "bench-backups")
    bench.note(f"14 backups in the target: {kept / MB:.0f} MB")
    bench.say("in the target, as a multiple of restic's own size", kept / theirs, "", 2)


def without(folder: Path) -> Callable[[], None]:
    """What removes a folder."""
    return lambda: shutil.rmtree(folder, ignore_errors=True)


def nothing() -> None:
    """Nothing is to be done before."""


def disk(folder: Path) -> int:
    """Bytes of all files, a file of several names once."""
    seen = (path.stat() for path in folder.rglob("*") if path.is_file())
    return sum({one.st_ino: one.st_size for one in seen}.values())


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="1 is 1 GB")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_args(words)
    if shutil.which("restic") is None:
        sys.exit("restic is not installed: apt-get install restic")
    missed: list[str] = []
    parts: dict[str, tuple[float, Callable[[Bench, int], None]]] = {
        "speed": (chosen.scale, speed),
        "again": (chosen.scale, lambda bench, _: again(bench)),
        "flips": (chosen.scale / 500, lambda bench, _: flips(bench, 1500)),
        "offsite": (chosen.scale / 4, lambda bench, _: offsite(bench)),
    }
    for name, (scale, measure) in parts.items():
        if chosen.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                bench, size = prepare(Path(folder), scale, chosen.runs)
                bench.note(f"--- {name}: {size / MB:.0f} MB")
                measure(bench, size)
                missed += bench.missed
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
