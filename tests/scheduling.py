"""Make pytest-xdist share out test files correctly after a worker is killed.

xdist 3.8 hands a dead worker's whole share to the next one, including the test that killed it and finished files.
The workers then wait for ever. Source: https://github.com/pytest-dev/pytest-xdist/issues/1378
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

__all__ = ["ByFile", "pytest_report_to_serializable", "pytest_xdist_make_scheduler"]


LONG = ("tests/e2e/", "tests/faults/")
"""Where files take minutes. xdist begins with the files of many tests, and these have few."""


class ByFile(LoadFileScheduling):
    """Gives each file to one worker; after a worker's death others get the tests that were not begun."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        """Give a worker its next file, the long ones first: at the end it would have one alone, and the others none."""
        for file in [file for file in reversed(self.workqueue) if file.startswith(LONG)]:
            self.workqueue.move_to_end(file, last=False)
        super()._assign_work_unit(node)

    def remove_node(self, node: WorkerController) -> str | None:
        """Take back what a worker has not run; return the test that killed it, if it died."""
        workload = self.assigned_work.pop(node)
        fatal = next(((unit, test) for unit in workload.values() for test, done in unit.items() if not done), None)
        if fatal is None:
            return None
        unit, test = fatal
        unit[test] = True
        self.workqueue.update({file: unit for file, unit in workload.items() if not all(unit.values())})
        for other in self._ready():
            self._reschedule(other)
        return test

    def schedule(self) -> None:
        """Share out the files, or give what is left to workers that joined later."""
        if self.collection is None:
            super().schedule()
            return
        for node in self._ready():
            # A worker begins a test only once it knows the next one, or that there is none.
            while self.workqueue and self._pending_of(self.assigned_work[node]) < 2:
                self._assign_work_unit(node)
        if not self.workqueue:
            for node in self._ready():
                node.shutdown()

    def _ready(self) -> list[WorkerController]:
        """Return the workers that can be given tests; a new one has not collected them yet."""
        return [node for node in self.nodes if node in self.registered_collections and not node.shutting_down]


def pytest_report_to_serializable(report: object) -> None:
    """Send no names of markers and folders with what passed: nobody reads them, and they are most of each message."""
    if isinstance(report, pytest.TestReport) and report.passed:
        report.keywords = {}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile | None:
    """Use our scheduler for `--dist loadfile`; None leaves the choice to xdist."""
    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None
