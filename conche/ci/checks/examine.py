"""Everything that is checked in workflows: our own rules, the commands in their steps, and what the tools find."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from conche.ci.checks import commands, rules, tools
from conche.ci.checks.findings import Complaint
from conche.ci.workflows.surroundings import Surroundings
from conche.ci.workflows.workflow import Workflow

__all__ = ["examine"]


def examine(root: Path, read: Sequence[Workflow], around: Surroundings) -> list[Complaint]:
    """Return the findings of the rules and the tools, in the order of the files."""
    found = tools.examine(root, read) if read else []
    for workflow in read:
        found += [*rules.examine(workflow, around), *commands.examine(workflow, around)]
    return sorted(set(found))
