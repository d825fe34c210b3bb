"""The workflows of a repository: where they are, and what they refer to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from conche.ci.workflows.document import read_all
from conche.ci.workflows.runners import LABELS
from conche.ci.workflows.surroundings import AUTOMATIC
from conche.ci.workflows.workflow import parse
from conche.errors import ConcheError
from conche.init.compose import Rendered

__all__ = ["FOLDERS", "WorkflowFacts", "look"]

FOLDERS = (".gitea/workflows", ".forgejo/workflows", ".github/workflows")
"""Where Gitea, Forgejo and GitHub look for workflows; Gitea and Forgejo also look in the last one."""


@dataclass(frozen=True)
class WorkflowFacts:
    """What stack.yaml can say about the workflows.

    Attributes:
        folder: of the workflow files; empty if there are none.
        labels: of runners that no Compose file describes.
        secrets: Actions secrets that are used.
        problem: why the workflows could not be read.
    """

    folder: str = ""
    labels: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    problem: str = ""


def look(root: Path, rendered: Mapping[str, Rendered]) -> WorkflowFacts:
    """Look at the first folder with workflows."""
    folder = next((one for one in FOLDERS if any((root / one).glob("*.y*ml"))), "")
    if not folder:
        return WorkflowFacts()
    try:
        documents = read_all(root, Path(folder))
    except ConcheError as error:
        return WorkflowFacts(folder, problem=error.message)
    labels = {label for one in documents for job in parse(one).jobs.values() for label in job.runs_on}
    used = {name for one in documents for name in re.findall(r"\bsecrets\.([A-Z_][A-Z0-9_]*)", one.text)}
    return WorkflowFacts(folder, tuple(sorted(labels - _described(rendered))), tuple(sorted(used - AUTOMATIC)))


def _described(rendered: Mapping[str, Rendered]) -> set[str]:
    """Return the labels of the runners among the services."""
    found: set[str] = set()
    for one in rendered.values():
        for body in one.services.values():
            said = body.get("environment") or {}
            text = next((str(said[name]) for name in LABELS if said.get(name)), "")
            found |= {label.strip().partition(":")[0] for label in text.split(",") if label.strip()}
    return found
