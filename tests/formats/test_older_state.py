"""An environment whose releases were kept in an older format, on an engine: it goes on from there, and back to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyrage
import pytest

from conche import formats
from conche.engine.connection import Engine
from conche.engine.state import State
from conche.formats import BY, NUMBER, number_of
from conche.release.signing import SIGNED
from conche.vault.keys import PREFIX
from tests.edged import EdgedStack
from tests.formats.test_formats import EVER, identity

pytestmark = pytest.mark.engine

OLDER = [folder for folder in EVER if int(folder.name) <= formats.RELEASE.number]
"""What was kept in each format that releases have had."""


def like(content: Any, kept: Any) -> Any:
    """Return a content with only the keys that a kept one has, and with its stamp."""
    if not isinstance(kept, Mapping) or not isinstance(content, Mapping):
        return content
    return {key: kept[key] if key in (NUMBER, BY) else content[key] for key in kept}


def as_it_was(path: str, content: bytes, kept: Path) -> bytes:
    """Return a file of the state as the version that has kept the others would have written it."""
    said = json.loads(content)
    name = Path(path).name
    [*_, before] = sorted(kept.glob(f"**/{name}"))
    then = json.loads(before.read_text())
    if name not in SIGNED:
        return json.dumps(like(said, then)).encode()
    inner = like(said["content"], then["content"])
    if "services" in inner:
        placed = then["content"]["services"]["web"]
        inner["services"] = {service: like(one, placed) for service, one in inner["services"].items()}
    digest = hashlib.sha256(json.dumps(inner, sort_keys=True).encode()).hexdigest()
    return json.dumps({"sha256": digest, "content": inner}).encode()


def own_identity(stack: EdgedStack) -> Any:
    file = stack.folder.parent / "state/conche" / stack.name / "releases.age-key"
    [line] = [line for line in file.read_text().splitlines() if line.startswith(PREFIX)]
    return pyrage.x25519.Identity.from_str(line)


def age(stack: EdgedStack, state: State, kept: Path) -> None:
    """Rewrite the state of a stack as it would have been kept in an older format."""
    key, older = own_identity(stack), {}
    for path, content in state.read().items():
        if path.endswith(".json"):
            older[path] = as_it_was(path, content, kept)
        elif path.endswith("/document.age"):
            then = json.loads(pyrage.decrypt((kept / "releases/r1/document.age").read_bytes(), [identity()]))
            document = json.dumps(like(json.loads(pyrage.decrypt(content, [key])), then))
            older[path] = pyrage.encrypt(document.encode(), [key.to_public()])
    state.write(older)


@pytest.mark.parametrize(
    "folder",
    [
        pytest.param(folder, marks=[] if folder == OLDER[-1] else pytest.mark.long, id=f"format {folder.name}")
        for folder in OLDER
    ],
)
def test_an_older_state_is_released_over_rolled_back_to_and_recovered(
    folder: Path, fresh: EdgedStack, engine: Engine, base_image: str
) -> None:
    for name in ("one", "two"):
        done = fresh.deploy(fresh.version(name))
        assert done.returncode == 0, done.stderr
    state = State(engine, fresh.project, [base_image])
    age(fresh, state, folder / "releases")
    numbers = {number_of(json.loads(text)["content"]) for path, text in state.read().items() if "record" in path}
    assert numbers == {int(folder.name)}

    status = fresh.invoke("env.status", "--env", "prod")
    assert status.returncode == 0, status.stdout + status.stderr
    back = fresh.rollback("--to", "r1")
    assert (back.returncode, fresh.page()["version"]) == (0, "one"), back.stderr
    assert fresh.deploy(fresh.version("three")).returncode == 0
    again = fresh.rollback("--to", "r2")
    assert (again.returncode, fresh.page()["version"]) == (0, "two"), again.stderr

    assert [one["result"] for one in fresh.history()["releases"]] == ["succeeded"] * 5
    assert fresh.leftovers(engine) == []
