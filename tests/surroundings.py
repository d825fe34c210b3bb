"""Run tests in surroundings unlike ours: another locale, umask, user, home, folder, or a runner's variables.

    python tests/surroundings.py                        the names
    python tests/surroundings.py latin-1 -- pytest -m unit
    python tests/surroundings.py latin-1+umask-002 -- pytest -m unit
    python tests/surroundings.py --together             all of them, in few runs

Each run has a copy of the checkout in a temporary folder. A surrounding that cannot be made is an error, not a skip.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

if not __package__:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.stacks import ROOT, tracked_files

__all__ = [
    "SOMEBODY",
    "SURROUNDINGS",
    "TOGETHER",
    "Surrounding",
    "as_user",
    "combined",
    "copy_checkout",
    "main",
    "readable_toolkit",
]

SOMEBODY = 54321
"""A user id without an entry in the user database."""

SOCKET = Path("/var/run/docker.sock")

NOWHERE = "http://127.0.0.1:1"
"""An address where nothing listens."""


@dataclass(frozen=True)
class Surrounding:
    """Where tests are run.

    Attributes:
        environment: variables to set, with `{folder}` for the temporary folder; None unsets one.
        umask: of the tests' process.
        user: who runs the process: "" for the caller, root, ordinary (made for the run), docker (ordinary, with
            access to the engine) or nameless (an id without a name).
        checkout: name of the folder with the copy.
        closed: whether the folder above the copy can be entered by its owner only.
        locale: source and character set of a locale to make, as localedef(1) names them.
        git: the user's git configuration.
    """

    environment: Mapping[str, str | None] = field(default_factory=dict)
    umask: int = 0o022
    user: str = ""
    checkout: str = "conche"
    closed: bool = False
    locale: tuple[str, str] | None = None
    git: str = ""


def _runner(*, prefixes: Sequence[str]) -> dict[str, str | None]:
    """Return what a runner sets for each step, once for each server's prefix."""
    names = {
        "ACTIONS": "true", "ACTOR": "somebody", "API_URL": f"{NOWHERE}/api/v1", "BASE_REF": "main", "ACTION": "1",
        "EVENT_NAME": "push", "EVENT_PATH": "{folder}/tmp/event.json", "HEAD_REF": "feature/x", "JOB": "quick",
        "REF": "refs/heads/feature/x", "REF_NAME": "feature/x", "REF_TYPE": "branch", "RUN_ATTEMPT": "1",
        "REPOSITORY": "somebody/something", "REPOSITORY_OWNER": "somebody", "RUN_ID": "1", "RUN_NUMBER": "1",
        "SHA": "0" * 40, "SERVER_URL": NOWHERE,
        "TOKEN": "not-a-token", "WORKFLOW": "ci", "WORKSPACE": "{folder}", "OUTPUT": "{folder}/tmp/output",
        "ENV": "{folder}/tmp/env", "PATH": "{folder}/tmp/path", "STEP_SUMMARY": "{folder}/tmp/summary",
        "STATE": "{folder}/tmp/state",
    }  # fmt: skip
    return {f"{prefix}_{name}": value for prefix in prefixes for name, value in names.items()}


# fmt: off
SURROUNDINGS: Mapping[str, Surrounding] = {
    "plain": Surrounding(),
    "runner": Surrounding(
        {
            **_runner(prefixes=("GITHUB", "FORGEJO", "GITEA")),
            "CI": "true", "RUNNER_OS": "Linux", "RUNNER_ARCH": "X64", "RUNNER_TEMP": "{folder}/tmp",
            "RUNNER_DEBUG": "1", "RUNNER_TOOL_CACHE": "{folder}/tmp/tools", "ACTIONS_CACHE_URL": NOWHERE,
            "ACT": "true",
            "ACTIONS_RUNTIME_URL": f"{NOWHERE}/", "ACTIONS_RUNTIME_TOKEN": "not-a-token", "SOPS_AGE_KEY": "not-a-key",
        }
    ),
    "umask-077": Surrounding(umask=0o077),
    "umask-002": Surrounding(umask=0o002),
    "locale-C": Surrounding({"LC_ALL": "C", "LANG": None}),
    "locale-POSIX": Surrounding({"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0"}),
    "ascii": Surrounding({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
    "latin-1": Surrounding(locale=("de_DE", "ISO-8859-1")),
    "turkish": Surrounding(locale=("tr_TR", "UTF-8")),
    "kiritimati": Surrounding({"TZ": "Pacific/Kiritimati"}),
    "st-johns": Surrounding({"TZ": "America/St_Johns"}),
    "home-unset": Surrounding({"HOME": None}),
    "home-read-only": Surrounding({"HOME": "/proc"}),
    "blanks": Surrounding({"TMPDIR": "{folder}/tmp/with two blanks"}, checkout="Fabrik für Süßes  ñ"),
    "closed": Surrounding(closed=True),
    "root": Surrounding(user="root"),
    "ordinary-user": Surrounding(user="ordinary"),
    "docker-group": Surrounding(user="docker"),
    "nameless-user": Surrounding(user="nameless"),
    "git": Surrounding(
        {"GIT_AUTHOR_DATE": "2001-01-01T00:00:00Z", "GIT_DIR": "/nonexistent", "GIT_INDEX_FILE": "/nonexistent"},
        git="[init]\n\tdefaultBranch = trunk\n[commit]\n\tgpgsign = true\n[tag]\n\tgpgsign = true\n"
        "[user]\n\tuseConfigOnly = true\n[core]\n\tautocrlf = true\n\thooksPath = /nonexistent\n\tquotePath = false\n"
        "[safe]\n\tdirectory = /nonexistent\n[status]\n\tshowUntrackedFiles = no\n[color]\n\tui = always\n",
    ),
    "no-engine": Surrounding({"CONCHE_TEST_DOCKER_HOST": "unix:///nonexistent/docker.sock"}),
    "settings": Surrounding(
        {
            "DOCKER_HOST": "tcp://127.0.0.1:1", "DOCKER_CONTEXT": "nowhere", "DOCKER_CONFIG": "/nonexistent",
            "DOCKER_DEFAULT_PLATFORM": "linux/s390x", "BUILDKIT_PROGRESS": "rawjson", "COMPOSE_FILE": "other.yaml",
            "COMPOSE_PROJECT_NAME": "other", "COMPOSE_PROFILES": "other", "SOPS_AGE_KEY_FILE": "/nonexistent",
            "SOPS_AGE_RECIPIENTS": "age1nobody", "EDITOR": "false", "VISUAL": "false", "PAGER": "false",
            "XDG_CONFIG_HOME": "/nonexistent", "XDG_STATE_HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent",
            "XDG_DATA_HOME": "/nonexistent", "XDG_RUNTIME_DIR": "/nonexistent", "http_proxy": NOWHERE,
            "https_proxy": NOWHERE, "HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE, "ALL_PROXY": "socks5://127.0.0.1:1",
            "FORCE_COLOR": "1", "COLUMNS": "20", "TERM": "dumb", "INVOKE_RUN_ECHO": "1",
            "RESTIC_REPOSITORY": "/dev/null", "RESTIC_PASSWORD": "other",
            "INFLUX_TOKEN": "other", "CONCHE_PORT": "1", "PYTHONHASHSEED": "7",
        }
    ),
}
# fmt: on

TOGETHER = (
    "plain+root+runner+umask-077+latin-1+kiritimati+home-unset",
    "ordinary-user+locale-C+umask-002+st-johns+blanks",
    "docker-group+locale-POSIX+settings+closed",
    "nameless-user+turkish+home-read-only",
    "ascii+git+no-engine",
)
"""Every surrounding once, combined into as few runs as possible; rerun the parts of a red one separately."""


class CannotBeMade(Exception):
    """This machine, or this user, cannot make a surrounding."""


def main(arguments: Sequence[str]) -> int:
    """Run a program in a surrounding; return its exit code."""
    if not arguments:
        sys.stdout.write("".join(f"{name}\n" for name in SURROUNDINGS))
        return 0
    if arguments == ["--together"]:
        sys.stdout.write("".join(f"{names}\n" for names in TOGETHER))
        return 0
    name, dashes, *argv = [*arguments, "", ""][: max(len(arguments), 3)]
    if not set(name.split("+")) <= set(SURROUNDINGS) or dashes != "--" or not argv or not argv[0]:
        sys.stderr.write(f"usage: {sys.argv[0]} NAME -- pytest …\nnames: {', '.join(SURROUNDINGS)}\n")
        return 2
    signal.signal(signal.SIGTERM, _ended)
    try:
        return _run(combined(name.split("+")), argv)
    except CannotBeMade as error:
        sys.stderr.write(f"{name} cannot be made here: {error}\n")
        return 2


def combined(names: Sequence[str]) -> Surrounding:
    """Return one surrounding that combines all of these.

    Errors:
        CannotBeMade: two of them ask for different values of the same thing.
    """
    plain, environment, changed = Surrounding(), dict[str, str | None](), dict[str, Any]()
    for name in names:
        for field_, value in vars(SURROUNDINGS[name]).items():
            into = environment if field_ == "environment" else changed
            asked = value if field_ == "environment" else {field_: value} if value != getattr(plain, field_) else {}
            twice = [key for key in asked if into.get(key, asked[key]) != asked[key]]
            if twice:
                raise CannotBeMade(f"{name} contradicts another in {', '.join(twice)}")
            into.update(asked)
    return Surrounding(environment, **changed)


def _ended(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _run(wanted: Surrounding, argv: Sequence[str]) -> int:
    words = [sys.executable, "-m", *argv] if argv[0] == "pytest" else list(argv)
    with _folder() as folder, _user(wanted.user, folder) as (owner, groups):
        checkout = copy_checkout(folder / "closed" / wanted.checkout, wanted.umask)
        environment = _environment(wanted, folder)
        _give(folder, owner)
        (folder / "closed").chmod(0o700 if wanted.closed else 0o755)
        prefix = as_user(owner, folder, groups) if owner is not None else []
        _reachable(prefix, checkout)
        return subprocess.run(
            [*prefix, *words], cwd=checkout, env=environment, umask=wanted.umask, check=False
        ).returncode


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="conche-surroundings-"))
    folder.chmod(0o755)
    try:
        for name in ("home", "tmp", "closed"):
            (folder / name).mkdir()
        yield folder
    finally:
        shutil.rmtree(folder)


def copy_checkout(target: Path, umask: int) -> Path:
    """Clone the checkout, because some tests ask git about it, and add what is not committed."""
    _make(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(target)])
    wanted = set(tracked_files(ROOT))
    for gone in set(tracked_files(target)) - wanted:
        (target / gone).unlink()
    for file in wanted:
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, target / file)
    for path in (target, *target.rglob("*")):
        path.chmod(path.stat().st_mode & ~umask)
    return target


def _environment(wanted: Surrounding, folder: Path) -> dict[str, str]:
    changes = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), **wanted.environment}
    if wanted.locale is not None:
        changes |= {"LC_ALL": ".".join(wanted.locale), "LOCPATH": str(_locale(folder / "locale", *wanted.locale))}
    if wanted.git:
        (folder / "home/.gitconfig").write_text(wanted.git, "utf-8")
    if wanted.user not in ("", "root"):
        changes["CONCHE_TEST_WITHOUT"] = "root"
    merged = {**os.environ, **changes}
    made = {name: value.format(folder=folder) if name in changes else value for name, value in merged.items() if value}
    Path(made["TMPDIR"]).mkdir(exist_ok=True)
    return made


def _locale(folder: Path, source: str, charset: str) -> Path:
    folder.mkdir()
    # The C library looks for the character set's name in lower case without dashes.
    name = f"{source}.{charset.lower().replace('-', '')}"
    _make(
        ["localedef", "--inputfile", source, "--charmap", charset, str(folder / name)], hint="apt-get install locales"
    )
    return folder


@contextlib.contextmanager
def _user(kind: str, folder: Path) -> Iterator[tuple[int | None, list[int]]]:
    """Provide the id of the user who runs the tests, None for the current one, and their groups."""
    root = os.geteuid() == 0
    if kind in ("root", "nameless", "docker") and not root:
        raise CannotBeMade("it needs root")
    groups = [SOCKET.stat().st_gid] if kind == "docker" else []
    if kind == "nameless":
        yield SOMEBODY, groups
    elif kind in ("ordinary", "docker") and root:
        name = f"conche{os.getpid()}"
        _make(["useradd", "--no-create-home", "--home-dir", str(folder / "home"), "--shell", "/bin/sh", name])
        try:
            yield int(subprocess.run(["id", "-u", name], capture_output=True, check=True).stdout), groups
        finally:
            subprocess.run(["userdel", "--force", name], check=True, capture_output=True)
    else:
        yield None, groups


def _give(folder: Path, owner: int | None) -> None:
    if owner is not None:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, owner, owner, follow_symlinks=False)


def as_user(owner: int, folder: Path, groups: Sequence[int] = (), needed: Sequence[Path] = ()) -> list[str]:
    """Return the prefix with which root runs a command line as another user.

    The other user can reach this very Python, even in a home that is closed to others: in the command's own mount
    namespace, a folder that contains nothing else covers the closed one.

    Args:
        folder: where the mounts are prepared; empty again when the command has ended.
        needed: further paths that must be reachable.
    """
    member = [f"--groups={','.join(map(str, groups))}"] if groups else ["--clear-groups"]
    # setpriv looks programs up as root could; the shell after it can look them up only as the other user.
    become = ["setpriv", f"--reuid={owner}", f"--regid={owner}", *member, "sh", "-c", 'exec "$@"', "sh"]
    places = {place.resolve() for place in (Path(sys.prefix), Path(sys.base_prefix), *needed)}
    closed = sorted({top for place in places for top in _closed(place)})
    steps = ["set -eu"]
    for number, top in enumerate(closed):
        stage = folder / f"stage-{number}"
        stage.mkdir()
        steps += _opened(top, {place for place in places if top in place.parents}, stage)
    return [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        "\n".join([*steps, 'exec "$@"']),
        "sh",
        *become,
    ]


def readable_toolkit(folder: Path) -> dict[str, str]:
    """Copy the toolkit to where another user can read it, unlike the checkout; return the environment that finds it."""
    copy = folder / "toolkit"
    for file in (ROOT / "conche").rglob("*"):
        if file.is_file() and file.suffix != ".pyc":
            target = copy / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    return {"PYTHONPATH": str(copy)}


def _closed(place: Path) -> list[Path]:
    """Return the topmost folder above a place that others may not enter, if any."""
    return [one for one in reversed(place.parents) if not one.stat().st_mode & 0o001][:1]


def _opened(top: Path, places: set[Path], stage: Path) -> list[str]:
    """Return shell lines that cover a closed folder with one that has only these places, in this mount namespace."""
    lines = [shlex.join(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(stage)])]
    for place in sorted(places):
        inside = str(stage / place.relative_to(top))
        lines += [shlex.join(["mkdir", "-p", inside]), shlex.join(["mount", "--bind", str(place), inside])]
    return [*lines, shlex.join(["mount", "--rbind", str(stage), str(top)])]


def _reachable(prefix: Sequence[str], checkout: Path) -> None:
    """Check that the tests can be run at all, before anything else is blamed."""
    _make([*prefix, sys.executable, "-c", "import pytest, os; os.listdir(os.getcwd())"], cwd=checkout)


def _make(argv: Sequence[str], *, cwd: Path | None = None, hint: str = "") -> None:
    try:
        done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError as error:
        raise CannotBeMade(f"{argv[0]} is not installed. {hint}") from error
    if done.returncode:
        raise CannotBeMade(f"{argv[0]} ended with {done.returncode}: {done.stderr.strip()} {hint}")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
