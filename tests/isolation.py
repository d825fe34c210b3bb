"""What tests may know of their surroundings: little, and the same everywhere.

The environment is cleared once, before anything is collected, because fixtures of a module or a session run outside
those of a test. What tests may inherit is listed; all else is the business of whoever runs them.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import locale
import os
import pwd
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

__all__ = ["IN_CI", "isolate", "kept", "one_at_a_time"]

INHERITED = {
    "PATH", "TMPDIR", "VIRTUAL_ENV", "LOCPATH",
    # How Python and pytest were told to run.
    "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "PYTHONWARNDEFAULTENCODING", "PYENV_ROOT",
    # Behind a proxy that signs anew, nothing can be fetched without its authority.
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO",
}  # fmt: skip
"""Names that tests inherit."""

FAMILIES = ("CONCHE_TEST_", "PIP_", "UV_", "PYTEST_", "COV_", "COVERAGE_")
"""Beginnings of further names that they inherit: where packages come from, and what the test runner passes on."""

ENGINE = "CONCHE_TEST_DOCKER_HOST"
"""The engine for tests, where it is not the usual one."""

IN_CI = bool(os.environ.get("CI") or os.environ.get("CONCHE_TEST_CI"))
"""Whether a runner runs the tests, where nothing may be skipped; pytest-xdist's workers learn it by the second name."""


def kept(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that tests inherit."""
    return {name: value for name, value in environment.items() if name in INHERITED or name.startswith(FAMILIES)}


def isolate(environment: MutableMapping[str, str], checkout: Path) -> None:
    """Clear this process's environment, and give it a home, a locale, a time zone and a umask of its own."""
    pip_cache = _pip_cache(environment)
    left = kept(environment)
    home = Path(tempfile.mkdtemp(prefix="conche-tests-home-"))
    atexit.register(_remove, home, os.getpid())
    # A checkout that a runner has mounted may belong to another user; git then refuses it.
    (home / ".gitconfig").write_text(f'[safe]\n\tdirectory = "{checkout}"\n', "utf-8")
    _share_plugins(_home(environment), home)
    environment.clear()
    environment.update(
        {"HOME": str(home), "LANG": "C.UTF-8", "TZ": "UTC", "GIT_CONFIG_NOSYSTEM": "1", "PIP_CACHE_DIR": pip_cache}
    )
    environment.update(left)
    if IN_CI:
        environment["CONCHE_TEST_CI"] = "1"
    if ENGINE in left:
        environment["DOCKER_HOST"] = left[ENGINE]
    time.tzset()
    # What is written and read without an encoding named follows the locale of this process.
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    os.umask(0o022)
    # A shell has its background jobs ignore Ctrl-C, and Python then leaves that as it is.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def one_at_a_time(what: str) -> Iterator[None]:
    """Wait until no other process of this user's tests does this."""
    path = Path(tempfile.gettempdir()) / f"conche-tests-{os.getuid()}-{what}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _home(environment: Mapping[str, str]) -> Path | None:
    """The user's own home; None for one that has none."""
    try:
        return Path(environment.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


def _pip_cache(environment: Mapping[str, str]) -> str:
    home = _home(environment)
    return environment.get("PIP_CACHE_DIR") or str((home or Path("/nonexistent")) / ".cache/pip")


def _share_plugins(theirs: Path | None, home: Path) -> None:
    """Compose may be a plugin in the user's own folder."""
    if theirs is None:
        return
    plugins = theirs / ".docker/cli-plugins"
    if os.access(plugins, os.R_OK | os.X_OK):
        (home / ".docker").mkdir()
        (home / ".docker/cli-plugins").symlink_to(plugins)


def _remove(home: Path, owner: int) -> None:
    # A child that was forked ends with the same list of things to do.
    if os.getpid() == owner:
        shutil.rmtree(home, ignore_errors=True)
