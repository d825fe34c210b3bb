"""Decide which workflows an event starts, by the branch and path filters, which act ignores.

Source: https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-syntax#filter-pattern-cheat-sheet
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from conche.ci.workflows.workflow import Workflow

__all__ = ["matches", "starts"]

_SIGN = re.compile(r"\*\*/|\*\*|\*|\[[^\]]*\]|\\.|.", re.DOTALL)


def starts(workflow: Workflow, event: str, branch: str, changed: Collection[str] | None = None) -> bool:
    """Return whether an event on a branch starts a workflow; a pull request's branch is the one it goes into.

    Args:
        changed: the files that the event changes; None if unknown, and then every path filter lets it pass.
    """
    if event not in workflow.triggers:
        return False
    filters = workflow.triggers[event]
    if changed is not None and not _brings(filters, changed):
        return False
    if "branches" in filters:
        return matches(branch, _patterns(filters["branches"]))
    if "branches-ignore" in filters:
        return not matches(branch, _patterns(filters["branches-ignore"]))
    return event != "push" or not ({"tags", "tags-ignore"} & set(filters))


def _brings(filters: Mapping[str, Any], changed: Collection[str]) -> bool:
    """Return whether the path filters ask for one of the changed files."""
    if "paths" in filters:
        return any(matches(file, _patterns(filters["paths"])) for file in changed)
    if "paths-ignore" in filters:
        return any(not matches(file, _patterns(filters["paths-ignore"])) for file in changed)
    return True


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether a name passes the patterns: the last match decides, and one that begins with `!` excludes."""
    passes = False
    for pattern in patterns:
        wanted = not pattern.startswith("!")
        if re.fullmatch(_regex(pattern.removeprefix("!")), name):
            passes = wanted
    return passes


def _patterns(said: Any) -> Sequence[str]:
    return [said] if isinstance(said, str) else [str(one) for one in said or []]


def _regex(pattern: str) -> str:
    """Translate a pattern: `*` stops at a slash, `**` does not; `?` and `+` are quantifiers, as in a regex."""
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
