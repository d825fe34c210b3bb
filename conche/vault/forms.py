"""The forms of a sops file: YAML, JSON and dotenv, flat or nested; and the names of its values here.

A value in a nested file is found by its keys, joined by dots. If stack.yaml gives it no name, one is made of the keys.
How sops tells the forms apart, and what it writes beside the values: https://github.com/getsops/sops
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import yaml

from conche.shallow_yaml import NestedTooDeeply, require_shallow

__all__ = ["NAME", "Path_", "called", "flat", "form_of", "nested", "new_path", "tree_of"]

Path_ = tuple[str, ...]
"""The keys that lead to a value."""

NAME = re.compile(r"(?!sops)[a-z][a-z0-9_]*(?<!_unencrypted)")
"""A secret's name: one that a shell, dotenv and sops all accept unchanged. sops stores `*_unencrypted` in clear."""

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The loader in C, which is many times as fast, if PyYAML was built with it."""


def form_of(file: str) -> str:
    """Return the form that sops assumes for a file, by its extension."""
    return {".json": "json", ".env": "dotenv"}.get(PurePath(file).suffix, "yaml")


def tree_of(content: bytes, form: str) -> Any:
    """Parse a file, with sops's metadata under `sops`.

    Raises:
        ValueError: it is not of this form, or repeats a key; the message says what is wrong.
    """
    try:
        text = content.decode()
        if form == "json":
            return json.loads(text, object_pairs_hook=_once)
        return _dotenv(text) if form == "dotenv" else _yaml(text)
    except (NestedTooDeeply, RecursionError) as error:
        raise ValueError("is nested too deeply") from error
    except yaml.composer.ComposerError as error:
        raise ValueError("is not one flat mapping") from error
    except (UnicodeDecodeError, json.JSONDecodeError, yaml.YAMLError) as error:
        raise ValueError(
            f"is not {form if form == 'dotenv' else form.upper()}: truncated, or edited by hand"
        ) from error


def _yaml(text: str) -> Any:
    require_shallow(text)
    loader: Any = _Loader(text)
    node = loader.get_single_node()
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("is not one flat mapping")
    _require_once(str(key.value) for key, _ in node.value)
    try:
        return loader.construct_document(node)
    except (ValueError, LookupError, AttributeError) as error:
        raise ValueError("has a value that is not what it looks like, such as the date 2024-99-99") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _require_once(key for key, _ in pairs)
    return dict(pairs)


def _require_once(keys: Iterable[str]) -> None:
    if twice := sorted(key for key, times in Counter(keys).items() if times > 1):
        raise ValueError(f"has {', '.join(twice)} twice")


def _dotenv(text: str) -> dict[str, Any]:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not all("=" in line for line in lines):
        raise ValueError("is not dotenv: truncated, or edited by hand")
    said = _once([(line.partition("=")[0], line.partition("=")[2]) for line in lines])
    values = {key: value for key, value in said.items() if not key.startswith("sops_")}
    beside = {key.removeprefix("sops_"): value for key, value in said.items() if key.startswith("sops_")}
    recipients = [value for key, value in beside.items() if re.fullmatch(r"age__list_\d+__map_recipient", key)]
    others = {key.partition("__list_")[0]: True for key in beside if "__list_" in key and not key.startswith("age__")}
    metadata = {**beside, **others, "age": [{"recipient": one} for one in recipients]}
    return {**values, "sops": metadata} if beside else values


def flat(tree: Mapping[str, Any], above: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Yield each value with its path, in the file's order; a list is a value."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, (*above, str(key)))
        else:
            yield (*above, str(key)), value


def called(path: Path_) -> str:
    """Make a name for a value that stack.yaml does not name."""
    words = re.sub(r"[^a-z0-9_]+", "_", "_".join(path).lower()).strip("_")
    return words if NAME.fullmatch(words) else f"secret_{words}"


def new_path(name: str, form: str) -> Path_:
    """Return where to put a secret that is not in the file yet, and for which stack.yaml names no place."""
    return (name.upper() if form == "dotenv" else name,)


def nested(values: Mapping[Path_, Any]) -> dict[str, Any]:
    """Rebuild the tree that `flat` has flattened."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        below = tree
        for key in path[:-1]:
            below = below.setdefault(key, {})
        below[path[-1]] = value
    return tree
