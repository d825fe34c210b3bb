"""A class name means one thing in the whole toolkit."""

from __future__ import annotations

import ast
from collections import Counter

from tests.architecture.test_rules import SOURCES, parsed

REPEATED = {
    "Answer", "Candidate", "Change", "Configuration", "Decision", "Ending", "Entry", "Found", "Login", "Manifest",
    "Observed", "Pipeline", "Problem", "Record", "Rendered", "Result", "Service", "Watch", "Wishes", "_Loader",
}  # fmt: skip
"""Names that still mean more than one thing: each goes when its classes are renamed, and none comes."""


def test_no_two_classes_have_one_name() -> None:
    classes = Counter(
        node.name for source in SOURCES for node in ast.walk(parsed(source)) if isinstance(node, ast.ClassDef)
    )

    assert {name for name, times in classes.items() if times > 1} == REPEATED
