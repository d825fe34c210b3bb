"""Isolate tests from their surroundings, so that they see the same everywhere.

The environment is cleared once, before anything is collected, because fixtures of a module or session run outside
those of a test. What tests may inherit is listed; all else belongs to whoever runs them.
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
    # How Python and pytest are to run.
    "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "PYTHONWARNDEFAULTENCODING", "PYENV_ROOT",
    # Behind a proxy that re-signs TLS, nothing can be fetched without its certificate authority.
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO",
}  # fmt: skip
"""Variables that tests inherit."""

FAMILIES = ("CONCHE_TEST_", "PIP_", "UV_", "PYTEST_", "COV_", "COVERAGE_")
"""Prefixes of further variables that they inherit: where packages come from, and what the test runner passes on."""

ENGINE = "CONCHE_TEST_DOCKER_HOST"
"""Variable with the engine for tests, if it is not the usual one."""

IN_CI = bool(os.environ.get("CI") or os.environ.get("CONCHE_TEST_CI"))
"""Whether the tests run in CI, where nothing may be skipped; the second variable tells pytest-xdist's workers."""


def kept(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an environment that tests inherit."""
    return {name: value for name, value in environment.items() if name in INHERITED or name.startswith(FAMILIES)}


def isolate(environment: MutableMapping[str, str], checkout: Path) -> None:
    """Clear this process's environment, and give it a home, a locale, a time zone and a umask of its own."""
    pip_cache = _pip_cache(environment)
    left = kept(environment)
    home = Path(tempfile.mkdtemp(prefix="conche-tests-home-"))
    atexit.register(_remove, home, os.getpid())
    # A checkout mounted by a runner may belong to another user, and git would refuse it.
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
    # Reading and writing without a named encoding follows this process's locale.
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
    os.umask(0o022)
    # Shells make background jobs ignore Ctrl-C, and Python keeps that setting.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def one_at_a_time(what: str) -> Iterator[None]:
    """Hold a lock, so that of this user's test processes only one at a time does this."""
    path = Path(tempfile.gettempdir()) / f"conche-tests-{os.getuid()}-{what}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _home(environment: Mapping[str, str]) -> Path | None:
    """Return the user's own home; None for a user without one."""
    try:
        return Path(environment.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


def _pip_cache(environment: Mapping[str, str]) -> str:
    home = _home(environment)
    return environment.get("PIP_CACHE_DIR") or str((home or Path("/nonexistent")) / ".cache/pip")


def _share_plugins(theirs: Path | None, home: Path) -> None:
    """Link the user's own folder of plugins, where Compose may be."""
    if theirs is None:
        return
    plugins = theirs / ".docker/cli-plugins"
    if os.access(plugins, os.R_OK | os.X_OK):
        (home / ".docker").mkdir()
        (home / ".docker/cli-plugins").symlink_to(plugins)


def _remove(home: Path, owner: int) -> None:
    # A forked child inherits this exit function.
    if os.getpid() == owner:
        shutil.rmtree(home, ignore_errors=True)
