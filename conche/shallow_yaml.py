"""Reads YAML that may be a stranger's: only what is nested as files of people are.

A few kilobytes of brackets keep libyaml busy for a minute and PyYAML for seconds, because each looks through all open
brackets at every character; and what recurses in C over them can end the program.
"""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["NestedTooDeeply", "compose", "load", "require_shallow"]

DEEPEST = 100
"""Levels of mappings and lists; files of Compose, workflows and stacks have a tenth of that."""

_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The parser in C, which is many times as fast, if PyYAML was built with it."""


class NestedTooDeeply(yaml.MarkedYAMLError):
    """A text has more levels than any file for people."""


def require_shallow(text: str | bytes) -> None:
    """Check how deeply a text is nested, before anything is made of it; one that is not YAML is left to its reader.

    Raises:
        NestedTooDeeply: more than `DEEPEST` levels.
    """
    depth = 0
    try:
        event: Any
        for event in yaml.parse(text, Loader=_Parser):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > DEEPEST:
                problem = f"nested more than {DEEPEST} levels deep"
                raise NestedTooDeeply(problem=problem, problem_mark=event.start_mark)
    except NestedTooDeeply:
        raise
    except (yaml.YAMLError, ValueError):
        return


def compose(text: str | bytes, loader: Any = yaml.SafeLoader) -> yaml.Node | None:
    """Return the root node of a text; None if it is empty.

    Raises:
        yaml.YAMLError: it is not YAML, or is nested too deeply.
    """
    require_shallow(text)
    root: yaml.Node | None = yaml.compose(text, Loader=loader)
    return root


def load(text: str | bytes, loader: Any = yaml.SafeLoader) -> Any:
    """Return the value of a text.

    Args:
        loader: a SafeLoader, or one that makes even less.

    Raises:
        yaml.YAMLError: it is not YAML, or is nested too deeply.
    """
    require_shallow(text)
    return yaml.load(text, Loader=loader)  # noqa: S506 - as said above
