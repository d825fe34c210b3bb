"""Select tests: by markers set from the fixtures a test asks for, by share, and by what a change reaches.

pytest finds the hooks by their names in `tests/conftest.py`, which imports them.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.isolation import IN_CI
from tests.reach import reached

MAY_LACK = frozenset({"root", "IPv6", "systemd-analyze"})
"""What a machine that runs tests may be without on purpose, as the reason of a skip names it."""

WITHOUT = frozenset(os.environ.get("CONCHE_TEST_WITHOUT", "").split())
"""What this one is without: an ordinary user lacks root, a runner's container IPv6 as well."""

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that select tests beyond -k and -m."""
    group = parser.getgroup("conche")
    group.addoption(
        "--changed", nargs="?", const="main", metavar="REVISION",
        help="only the tests that the changes since REVISION (main) can reach, uncommitted ones included",
    )  # fmt: skip
    group.addoption(
        "--every-pair", action="store_true",
        help="each command beside each that it excludes, and not one of each kind",
    )  # fmt: skip
    group.addoption(
        "--whole-corpus", action="store_true",
        help="each Compose file of the corpus, and some put together at random, beside the one with all keys",
    )  # fmt: skip
    group.addoption(
        "--every-step", action="store_true",
        help="a kill at each step of what takes long, and not at one of several",
    )  # fmt: skip
    group.addoption(
        "--long", action="store_true",
        help="the tests marked long as well, in files that are not named on the command line too",
    )  # fmt: skip
    group.addoption("--share", metavar="K/N", help="only the K-th of N shares of the test files")


NO_UNIT = re.compile(r"^pytestmark = .*\bpytest\.mark\.(engine|process|large|e2e)\b", re.MULTILINE)
"""A file that says that none of its tests is a unit test."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave such files out of a run of the unit tests before they are imported, which takes each worker a second."""
    if config.option.markexpr != "unit" or collection_path.suffix != ".py":
        return None
    return NO_UNIT.search(collection_path.read_text(encoding="utf-8")) is not None or None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None]:
    """Mark every test and leave out what was not asked for; where others shuffle, keep files in order that want it."""
    _choose(config, items)
    written = {item: place for place, item in enumerate(items)}
    yield
    if config.pluginmanager.hasplugin("randomly"):
        _order(items, written)


def _choose(config: pytest.Config, items: list[pytest.Item]) -> None:
    if WITHOUT - MAY_LACK:
        raise pytest.UsageError(f"CONCHE_TEST_WITHOUT takes {', '.join(sorted(MAY_LACK))}, not {', '.join(WITHOUT)}")
    for item in items:
        _mark(item)
    _keep(config, items, _in_share(config.getoption("--share")))
    if not config.getoption("--long"):
        named = {Path(argument.partition("::")[0]).resolve() for argument in config.args}
        _keep(config, items, lambda item: item.get_closest_marker("long") is None or item.path in named)
    revision = config.getoption("--changed")
    if revision:
        files = reached(ROOT, revision)
        _keep(config, items, lambda item: item.path.relative_to(ROOT).as_posix() in files)


def _order(items: list[pytest.Item], written: Mapping[pytest.Item, int]) -> None:
    """Put the tests of each file that is marked `in_order` into the order in which they are written."""
    places: dict[Path, list[int]] = {}
    for place, item in enumerate(items):
        if item.get_closest_marker("in_order"):
            places.setdefault(item.path, []).append(place)
    for taken in places.values():
        tests = sorted((items[place] for place in taken), key=written.__getitem__)
        for place, test in zip(taken, tests, strict=True):
            items[place] = test


def _mark(item: pytest.Item) -> None:
    fixtures = getattr(item, "fixturenames", ())
    if "engine" in fixtures:
        item.add_marker("engine")
    if not any(item.get_closest_marker(name) for name in ("engine", "e2e", "process", "large")):
        item.add_marker("unit")


def _in_share(share: str | None) -> Any:
    if share is None:
        return lambda item: True
    mine, _, shares = share.partition("/")
    if not (mine.isdigit() and shares.isdigit() and 1 <= int(mine) <= int(shares)):
        raise pytest.UsageError(f"--share takes K/N, the K-th of N, not {share}")
    return lambda item: zlib.crc32(item.path.relative_to(ROOT).as_posix().encode()) % int(shares) == int(mine) - 1


def _keep(config: pytest.Config, items: list[pytest.Item], wanted: Any) -> None:
    left_out = [item for item in items if not wanted(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if wanted(item)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn skips into failures in CI: what a test needs is installed, or the test fails and names it.

    What a run is without on purpose (`WITHOUT`), other runs have.
    """
    report = yield
    if report.skipped and IN_CI and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not any(re.search(rf"\b{re.escape(one)}\b", reason) for one in WITHOUT):
            report.outcome = "failed"
            report.longrepr = f"CI skips nothing. {reason}"
    return report
