"""Reads a Compose file as written, without Compose, which would need its variables and its other files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from conche import shallow_yaml
from conche.errors import Refused

__all__ = ["named_in", "services"]


class _ComposeLoader(yaml.SafeLoader):
    """A SafeLoader that ignores Compose's own tags, such as !reset."""


_ComposeLoader.add_multi_constructor("!", lambda _loader, _tag, _node: None)


def services(file: Path) -> Mapping[str, Any]:
    """Return the services that a file describes, by name; their definitions are not validated.

    Raises:
        Refused: it is not YAML.
    """
    try:
        content = shallow_yaml.load(file.read_text(encoding="utf-8"), _ComposeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Refused(
            "compose-file-invalid",
            f"{file.name} is not YAML.",
            looked_at=[str(file)],
            evidence=str(error).splitlines()[-3:],
            next_command=f"docker compose --file '{file}' config --quiet    # shows more",
        ) from error
    found = content.get("services") if isinstance(content, dict) else None
    return found if isinstance(found, dict) else {}


def named_in(files: Iterable[Path], variables: Mapping[str, str]) -> dict[str, str]:
    """Return those variables whose names are words of the files: interpolated, or given to a container as they are."""
    words = {word for file in files for word in re.findall(r"\w+", file.read_text(encoding="utf-8"), re.ASCII)}
    return {name: value for name, value in variables.items() if name in words}
