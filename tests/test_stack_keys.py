"""No key of stack.yaml goes without a word: each that there has been is one still, or says what to write now."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from conche.stack.replaced import replaced
from tests.stacks import ROOT

EVER = (ROOT / "tests/data/stack-keys.txt").read_text().split()
"""Every key, and every value of one that takes only some; `*` stands for a name or number. Lines are only added."""

SCHEMA = json.loads((ROOT / "conche/stack.schema.json").read_text())


def keys(node: Any, path: str = "", within: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the keys that a part of the schema allows, and the values where it names them."""
    if not isinstance(node, Mapping):
        return
    name = str(node.get("$ref", "")).rpartition("/")[2]
    if name and name not in within:
        yield from keys(SCHEMA["$defs"][name], path, (*within, name))
    for one in (*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())):
        yield from keys(one, path, within)
    yield from (f"{path}={value}" for value in (*node.get("enum", ()), *([node["const"]] if "const" in node else [])))
    yield from (f"{path}.{key}" for key in node.get("propertyNames", {}).get("enum", ()))
    for key, below in node.get("properties", {}).items():
        there = f"{path}.{key}".lstrip(".")
        yield there
        yield from keys(below, there, within)
    for below in (node.get("additionalProperties"), node.get("items"), *node.get("patternProperties", {}).values()):
        yield from keys(below, f"{path}.*", within)


def test_every_key_that_there_has_been_is_one_still_or_says_what_to_write_now() -> None:
    now = set(keys(SCHEMA))

    silent = [one for one in EVER if one not in now and replaced(one.partition("=")[0].split(".")) is None]

    assert silent == [], "a key is gone: conche/stack/replaced.py has to say what to write instead"
    assert sorted(now - set(EVER)) == [], "a key is new: add it to tests/data/stack-keys.txt, where it stays for ever"
