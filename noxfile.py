"""Sessions that check the code. They use the environment nox runs in, which `scripts/test` makes from the lock file."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests", "app"]

# The tools stand beside the Python that runs nox, whether or not its environment is activated.
os.environ["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))

APP = Path("src/fastapi-app")
SCRIPTS = [str(path) for path in sorted(Path("scripts").iterdir())] + [".ci/run"]


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, import contracts, yamllint, hadolint, shellcheck."""
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("lint-imports", "--no-cache")
    session.run("yamllint", "--strict", ".")
    session.run("hadolint", *(str(path) for path in sorted(Path("docker").glob("*.Dockerfile"))))
    session.run("shellcheck", *SCRIPTS)


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict, over the toolkit and its tests."""
    session.run("mypy", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Unit, contract, faults, architecture and engine-backed tests; -- -k NAME passes through."""
    session.run("pytest", *session.posargs)


@nox.session
def app(session: nox.Session) -> None:
    """The application's own tests, in an environment from its own lock file."""
    folder = Path(session.cache_dir).absolute() / "app"
    python = str(folder / "bin" / "python")
    lock = APP / "requirements-test.lock"
    stamp = folder / "made-from"
    if not stamp.is_file() or stamp.read_bytes() != lock.read_bytes():
        session.run("python", "-m", "venv", "--clear", str(folder))
        session.run(python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(lock), external=True)
        stamp.write_bytes(lock.read_bytes())
    with session.chdir(APP):
        session.run(python, "-m", "pytest", *session.posargs, external=True)


@nox.session
def e2e(session: nox.Session) -> None:
    """Only the end-to-end tests: a user's intent, from the command line to the container."""
    session.run("pytest", "-m", "e2e", *session.posargs)


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
    for extra, target in (([], "requirements.lock"), (["--group", "dev"], "requirements-dev.lock")):
        session.run(
            "uv", "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--python-version", "3.11",
            "--no-header", "--no-annotate", "--no-emit-index-url", *extra, "pyproject.toml", "--output-file", target,
            *session.posargs,
        )  # fmt: skip


@nox.session
def schema(session: nox.Session) -> None:
    """Write conche/stack.schema.json anew from the model."""
    session.run("python", "-c", "from conche.stack import write_schema; write_schema()")
