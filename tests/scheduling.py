"""How pytest-xdist gives test files to its workers, where a worker is killed.

xdist 3.8 hands the whole share of a dead worker to the next one, with the test it died of and with files that are done.
A run then ends with its workers waiting for ever. Source: https://github.com/pytest-dev/pytest-xdist/issues/1378
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

__all__ = ["ByFile", "pytest_xdist_make_scheduler"]


class ByFile(LoadFileScheduling):
    """A file is one worker's; of a dead worker's files others get what was not begun."""

    def remove_node(self, node: WorkerController) -> str | None:
        """Take back what a worker has not run; returns the test it died of, if it died."""
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
        """Share the files, or give a worker that has come later what is left."""
        if self.collection is None:
            super().schedule()
            return
        for node in self._ready():
            # A worker begins a test only when it knows of the next one, or that there is none.
            while self.workqueue and self._pending_of(self.assigned_work[node]) < 2:
                self._assign_work_unit(node)
        if not self.workqueue:
            for node in self._ready():
                node.shutdown()

    def _ready(self) -> list[WorkerController]:
        """The workers that can be given tests; one that has just been started has not collected them yet."""
        return [node for node in self.nodes if node in self.registered_collections and not node.shutting_down]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile | None:
    """Ours for `--dist loadfile`; None leaves it to xdist."""
    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None
