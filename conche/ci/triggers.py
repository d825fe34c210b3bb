"""Which workflows an event starts: the branch filters, which act leaves out.

Source: https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-syntax#filter-pattern-cheat-sheet
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from conche.ci.workflow import Workflow

__all__ = ["matches", "starts"]

_SIGN = re.compile(r"\*\*/|\*\*|\*|\[[^\]]*\]|\\.|.", re.DOTALL)


def starts(workflow: Workflow, event: str, branch: str) -> bool:
    """Whether an event on a branch starts a workflow; for a pull request the branch is the one it goes into."""
    if event not in workflow.triggers:
        return False
    filters = workflow.triggers[event]
    if "branches" in filters:
        return matches(branch, _patterns(filters["branches"]))
    if "branches-ignore" in filters:
        return not matches(branch, _patterns(filters["branches-ignore"]))
    return event != "push" or not ({"tags", "tags-ignore"} & set(filters))


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name passes the patterns: the last one that fits decides, and `!` in front of it means no."""
    passes = False
    for pattern in patterns:
        wanted = not pattern.startswith("!")
        if re.fullmatch(_regex(pattern.removeprefix("!")), name):
            passes = wanted
    return passes


def _patterns(said: Any) -> Sequence[str]:
    return [said] if isinstance(said, str) else [str(one) for one in said or []]


def _regex(pattern: str) -> str:
    """`*` stops at a slash and `**` does not; `?` and `+` repeat what stands before them, as in an expression."""
    parts = []
    for sign in _SIGN.findall(pattern):
        if sign == "**/":
            parts.append("(?:.*/)?")
        elif sign == "**":
            parts.append(".*")
        elif sign == "*":
            parts.append("[^/]*")
        elif sign in ("?", "+"):
            parts.append(sign if parts else re.escape(sign))
        elif sign.startswith("[") and len(sign) > 2:
            parts.append(sign.replace("\\", r"\\"))
        else:
            parts.append(re.escape(sign.removeprefix("\\") or "\\"))
    return "".join(parts)
