"""Tells which keys of a service's definition have changed: their names, never their values.

This machine remembers what a container was made from, under Compose's hash of it and as salted fingerprints. Of a
container that somebody else has made it only knows what inspecting it shows.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import secrets as random
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from conche.engine.compose import Configuration
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.engine.inspection import as_inspected, asked_for
from conche.engine.rendered import altered, flat
from conche.files import state_folder, write_atomic
from conche.formats import DEFINITIONS, WrittenByNewer

__all__ = ["altered_services", "remember"]


def altered_services(
    stack: str, engine: Engine, configuration: Configuration, found: Iterable[Container]
) -> dict[str, tuple[str, ...]]:
    """Return service -> keys that differ from what a container of it was made from, if the hash differs.

    Args:
        stack: its name.
    """
    services = configuration.services
    other = [one for one in found if one.service in services and one.config_hash not in services[one.service].hashes]
    if not other:
        return {}
    known: Mapping[str, Mapping[str, str]] = {}
    with contextlib.suppress(WrittenByNewer):
        salt, known = _read(_file(stack, configuration.project))
    keys: dict[str, tuple[str, ...]] = {}
    for one in other:
        body = configuration.rendered["services"][one.service]
        if one.config_hash in known:
            keys[one.service] = altered(known[one.config_hash], _prints(salt, body))
        elif inspected := as_inspected(engine, one.id):
            keys[one.service] = altered(flat(inspected), flat(asked_for(body, inspected)))
    return keys


def remember(stack: str, configuration: Configuration, found: Collection[Container]) -> None:
    """Remember what the containers were made from, and forget definitions that none of them carries.

    It is no fault if the folder cannot be written or a later version remembers something there: it only costs names.
    """
    file = _file(stack, configuration.project)
    try:
        salt, known = _read(file)
    except WrittenByNewer:
        return
    services = configuration.services
    current = {
        one.config_hash: _prints(salt, configuration.rendered["services"][one.service])
        for one in found
        if one.service in services and one.config_hash in services[one.service].hashes
    }
    kept = {one.config_hash: known[one.config_hash] for one in found if one.config_hash in known}
    said = {"salt": salt.hex(), "definitions": {**kept, **current}}
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(file, json.dumps(DEFINITIONS.stamped(said)).encode(), mode=0o600)
    except OSError:
        return


def _file(stack: str, project: str) -> Path:
    return state_folder() / stack / f"definitions-{project}.json"


def _prints(salt: bytes, body: Mapping[str, Any]) -> dict[str, str]:
    """Return a flat definition with a fingerprint in place of each value."""
    return {key: hmac.new(salt, value.encode(), "sha256").hexdigest()[:16] for key, value in flat(body).items()}


def _read(file: Path) -> tuple[bytes, Mapping[str, Mapping[str, str]]]:
    """Return the salt and the definitions by hash; a new salt and none if nothing can be read.

    Raises:
        WrittenByNewer: a later version remembers something there.
    """
    try:
        said = DEFINITIONS.opened(json.loads(file.read_bytes()))
        salt, definitions = bytes.fromhex(said["salt"]), said["definitions"]
        known = {str(name): {str(key): str(one) for key, one in keys.items()} for name, keys in definitions.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return random.token_bytes(32), {}
    return salt, known
