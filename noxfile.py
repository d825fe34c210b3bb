"""Sessions that check the code. They use the environment nox runs in, which `scripts/test` makes from the lock file."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests", "app"]

# The tools are beside the Python that runs nox, whether or not its environment is activated.
os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))

# Most tests spend half their time waiting for the engine, so two workers more than there are cores keep the cores busy.
# A file stays with one worker: what its tests share is made once, and each test finds it as the earlier ones left it.
PARALLEL = ["-n", str((os.cpu_count() or 1) + 2), "--dist", "loadfile"]

# Unit tests hardly wait, and one worker more would collect them once more.
UNIT = ["-n", str(os.cpu_count() or 1), "--dist", "loadfile", "-m", "unit"]

# pytest rewrites the tests' assertions, which takes each worker seconds unless the result may be cached.
CACHED = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(Path(".nox/pycache").absolute())}

EVERY_STEP = [
    *(f"tests/faults/test_{name}.py" for name in ("create_faulted", "restore_faulted", "undo_faulted", "cron_faulted")),
    "tests/faults/test_online_restore_killed.py",
    "tests/env/rollout/test_swarm.py",
]
"""Tests that leave steps out unless they are asked for each."""

MARKED = {
    "faults": ["tests/faults"],
    "releases": ["tests/env"],
    "backups": ["tests/backup", "tests/formats"],
    "roads": ["tests/e2e", "tests/strangers", "tests/images", "tests/ci", "tests/test_bootstrap.py"],
}
"""Where the tests marked long are."""

LONG = {
    "order": ["-p", "randomly", "-m", "unit"],
    "properties": ["--hypothesis-profile", "long", "-m", "hypothesis"],
    "exclusion": ["--every-pair", "tests/faults/test_exclusion.py"],
    "steps": ["--every-step", "--timeout=3600", *EVERY_STEP],
    "compose": ["--whole-corpus", "tests/compose", "tests/compose/random_files.py"],
    **{part: ["--long", "-m", "long", *folders] for part, folders in MARKED.items()},
}
"""The parts of `nox -s long` that are runs of their own, each with the options it adds to a run of all tests."""

PARTS = [*LONG, "engines", "coverage"]
"""The parts of `nox -s long`. CI runs one, chosen by the commit; if that is the last, CI's run of all tests serves as
that part, since counting the lines of every process that tests start makes most tests twice as slow."""

PLATFORMS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "aarch64-apple-darwin")
"""Where every dependency has a wheel: the index is asked before each release, since the locked versions change."""

PYTHONS = ("3.11", "3.12", "3.13")
"""Those of the classifiers in pyproject.toml."""

LATER = "forky"
"""The Debian release whose engine and Compose are tried beside this machine's: the newest ones in packages."""

ROOTLESS = (
    "tests/doctor/test_doctor.py", "tests/env/rollout/test_deploy.py",
    "tests/e2e/test_leave.py::test_a_stack_goes_back_to_plain_compose_as_the_guide_says[guestbook]",
)  # fmt: skip
"""The tests that show that rootless mode works."""

APP = Path("src/fastapi-app")
SCRIPTS = [str(path) for path in sorted(Path("scripts").iterdir())] + [".ci/run"]
RUNNER = [str(path) for path in sorted(Path("docker/runner").iterdir())]


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, import contracts, yamllint, hadolint, shellcheck."""
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("lint-imports", "--no-cache")
    session.run("yamllint", "--strict", ".")
    session.run("hadolint", *(str(path) for path in sorted(Path("docker").glob("*.Dockerfile"))))
    session.run("shellcheck", *SCRIPTS, *map(str, Path("conche/backup/drivers").glob("*.sh")), *RUNNER)


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict, over the toolkit and its tests."""
    session.run("mypy", *session.posargs)


@nox.session
def unit(session: nox.Session) -> None:
    """What needs no engine and starts no process of ours, in half a minute."""
    session.run("pytest", *UNIT, *session.posargs, env=CACHED)


@nox.session
def tests(session: nox.Session) -> None:
    """Everything, on the real engine; -- --changed: what the change since main can reach; -- -k NAME passes through."""
    if os.environ.get("CI") and not session.posargs and _part_of_commit() == "coverage":
        _count_lines(session)
    else:
        session.run("pytest", *PARALLEL, *session.posargs, env=CACHED)


@nox.session
def coverage(session: nox.Session) -> None:
    """The tests with every line and branch counted; fails below what an earlier commit reached."""
    _count_lines(session)


def _count_lines(session: nox.Session) -> None:
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *PARALLEL, *session.posargs, env=CACHED)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report", f"--fail-under={_floor()}")


def _floor() -> float:
    """Return the highest percentage that pyproject.toml has asked for in any commit, so that it can only rise."""
    argv = ["git", "log", "--format=", "--patch", "-G", "^fail_under", "HEAD", "--", "pyproject.toml"]
    history = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    now = Path("pyproject.toml").read_text(encoding="utf-8")
    return max(float(figure) for figure in re.findall(r"^\+?fail_under = ([\d.]+)$", history + now, re.MULTILINE))


@nox.session
def surroundings(session: nox.Session) -> None:
    """The unit tests as other machines run them: locales, masks, zones, users, folders; -- NAME ... for some."""
    argv = [sys.executable, "-m", "tests.surroundings", "--together"]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True)
    for name in session.posargs or shown.stdout.split():
        session.log(f"surroundings {name}")
        session.run("python", "-m", "tests.surroundings", name, "--", "pytest", *UNIT, "-q")


@nox.session
def engines(session: nox.Session) -> None:
    """The tests that need an engine, on that of a later Debian release; -- PATH ... for some of them."""
    chosen = session.posargs or ["-m", "engine", "tests"]
    session.run("python", "-m", "tests.engines", LATER, "--", "pytest", *PARALLEL, *chosen, env=CACHED)


@nox.session
def rootless(session: nox.Session) -> None:
    """Tests of releases and a backup as a user, on an engine in rootless mode; -- PATH ... for others."""
    chosen = session.posargs or ROOTLESS
    # The user may write nowhere in this checkout.
    session.run("python", "-m", "tests.rootless", "--", "pytest", "-p", "no:cacheprovider", *PARALLEL, *chosen)


@nox.session
def long(session: nox.Session) -> None:
    """What takes longer than a push should wait; -- PART ... for some, -- --by-commit for the one that HEAD decides."""
    asked = [*session.posargs] or PARTS
    if asked == ["--by-commit"]:
        asked = [_part_of_commit()]
        if asked == ["coverage"]:
            session.log("part coverage: CI counts the lines of this commit in its run of all tests")
            return
    for part in asked:
        if part not in PARTS:
            session.error(f"no part {part}; there are {', '.join(PARTS)}")
        session.log(f"part {part}")
        if part == "coverage":
            _count_lines(session)
        elif part == "engines":
            compose = ["tests/compose", "tests/strangers", "tests/env/rollout"]
            session.run("python", "-m", "tests.engines", LATER, "--", "pytest", *PARALLEL, *compose, env=CACHED)
        else:
            session.run("pytest", *PARALLEL, *LONG[part], env=CACHED)


def _part_of_commit() -> str:
    """Return the part of `long` that HEAD's hash chooses."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
    return PARTS[int(commit, 16) % len(PARTS)]


@nox.session
def app(session: nox.Session) -> None:
    """The application's own tests, in an environment from its own lock file."""
    folder = "" if os.environ.get("CONCHE_ENVIRONMENTS") else str(Path(session.cache_dir).absolute() / "app")
    argv = ["scripts/bootstrap", "--lock", str(APP / "requirements-test.lock")]
    environment = {**os.environ, "CONCHE_VENV": folder}
    made = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    with session.chdir(APP):
        session.run(f"{made}/bin/python", "-m", "pytest", *session.posargs, external=True)


@nox.session
def e2e(session: nox.Session) -> None:
    """Only the end-to-end tests: a user's intent, from the command line to the container."""
    session.run("pytest", "-m", "e2e", *session.posargs)


@nox.session
def real(session: nox.Session) -> None:
    """The documented roads on real servers, timed; -- SERVER ... for some, --keep to look. 9: an image is missing."""
    ended = subprocess.run([sys.executable, "-m", "tests.real", *session.posargs], check=False).returncode
    if ended:
        raise SystemExit(ended)


@nox.session
def bench(session: nox.Session) -> None:
    """Speed, as ratios against named rivals in the same run; -- --only NAME for a part of it."""
    session.run("python", "tests/bench/bench.py", *session.posargs)


@nox.session
def images(session: nox.Session) -> None:
    """Build every image of the stack, for -- ENV or dev."""
    session.run("hadolint", *(str(path) for path in sorted(Path("docker").glob("*.Dockerfile"))))
    session.run("invoke", "images.build", "--env", *(session.posargs or ["dev"]))


@nox.session
def layers(session: nox.Session) -> None:
    """What a code-only change moves: rebuild the image and count the layers that differ."""
    session.run("pytest", "tests/images/test_layers.py", *session.posargs)


@nox.session
def lock(session: nox.Session) -> None:
    """Write the lock files anew from pyproject.toml."""
    for group, target in (([], "requirements.lock"), (["--group", "dev"], "requirements-dev.lock")):
        session.run(
            "uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--python-version", "3.11",
            "--no-header", "--no-annotate", "--no-emit-index-url", "--extra", "ci", *group, "pyproject.toml",
            "--output-file", target, *session.posargs,
        )  # fmt: skip


@nox.session
def schema(session: nox.Session) -> None:
    """Write conche/stack.schema.json anew from the model."""
    session.run("python", "-c", "from conche.stack import write_schema; write_schema()")


@nox.session
def build(session: nox.Session) -> None:
    """The sdist and the wheel of HEAD in dist/, built twice and equal, then used for -- PYTHON ... or this one."""
    _see_released(session)
    with tempfile.TemporaryDirectory() as folder:
        first, second = (_built(session, Path(folder) / name) for name in ("first", "second"))
        if first != second:
            session.error("two builds of one commit differ")
        Path("dist").mkdir(exist_ok=True)
        for old in Path("dist").glob("conche-*"):
            old.unlink()
        for name, content in first.items():
            Path("dist", name).write_bytes(content)
    sums = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(first.items())]
    Path("dist/SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    [wheel] = (name for name in first if name.endswith(".whl"))
    _see_wheels(session)
    session.run("python", "-m", "tests.installed", f"dist/{wheel}", *session.posargs)


def _see_released(session: nox.Session) -> None:
    """Check that a commit tagged as a version has that version's changes in CHANGELOG.md, with their date."""
    argv = ["git", "tag", "--points-at", "HEAD", "--list", "v[0-9]*"]
    for tag in subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split():
        heading = rf"^## \[{re.escape(tag[1:])}\] - \d{{4}}-\d\d-\d\d$"
        if not re.search(heading, Path("CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE):
            session.error(f"HEAD is tagged {tag}, and CHANGELOG.md has no section [{tag[1:]}] with a date")


def _see_wheels(session: nox.Session) -> None:
    """Check that all that is locked can be installed without a compiler where docs/reference/supported.md says so."""
    nowhere = str(Path(session.cache_dir) / "none")
    for platform, python in itertools.product(PLATFORMS, PYTHONS):
        session.run(
            "uv", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--only-binary", ":all:",
            "--target", nowhere, "--python-platform", platform, "--python-version", python,
            "--requirements", "requirements.lock",
        )  # fmt: skip
        session.log(f"every locked package has a wheel for Python {python} on {platform}")


def _built(session: nox.Session, folder: Path) -> dict[str, bytes]:
    """Build HEAD in a clone, without uncommitted files or old builds; return the made files by name."""
    source, out = folder / "source", folder / "out"
    session.run("git", "clone", "--quiet", ".", str(source), external=True)
    argv = ["git", "log", "-1", "--format=%ct"]
    moment = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    # Without isolation the build tools come from the lock file, not from today's index.
    session.run(
        "uv", "build", "--quiet", "--no-build-isolation", "--offline", "--python", sys.executable, "--out-dir",
        str(out), str(source), env={"SOURCE_DATE_EPOCH": moment},
    )  # fmt: skip
    return {file.name: file.read_bytes() for file in out.iterdir() if file.name.startswith("conche-")}
