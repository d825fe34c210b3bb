"""The values of Actions secrets: CI's own age key, and declared secrets by their variable."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from conche.command import Invocation
from conche.secret import Secret
from conche.vault import keys

__all__ = ["AGE_KEY", "CI_KEY", "ci_key", "values"]

AGE_KEY = "SOPS_AGE_KEY"

CI_KEY = Path(".sops/ci-age-key.txt")
"""CI's own key, relative to stack.yaml: a recipient that can be removed without touching a person's key."""


def ci_key(root: Path) -> keys.Key | None:
    """Return CI's own key, if there is one.

    Raises:
        KeyUnusable: it is malformed or readable by others.
    """
    file = root / CI_KEY
    return keys.find(root, {"SOPS_AGE_KEY_FILE": str(file)}) if file.exists() else None


def values(call: Invocation, names: Iterable[str]) -> dict[str, Secret]:
    """Return the values for the Actions secrets of these names, leaving out those without one.

    `SOPS_AGE_KEY` is CI's key, or else the one in use here; any other comes from this shell's variable of that name,
    or from the declared secret with that variable.
    """
    found: dict[str, Secret] = {}
    wanted = set(names)
    if AGE_KEY in wanted:
        key = ci_key(call.root) or keys.find(call.root)
        if key is not None:
            found[AGE_KEY] = key.identities
    for name in sorted(wanted - {AGE_KEY}):
        if name in os.environ:
            found[name] = Secret(os.environ[name])
    missing = wanted - found.keys() - {AGE_KEY}
    section = call.stack.secrets
    if missing and section is not None and call.vault.key is not None:
        stored = call.vault.everything()
        by_variable = {declared.variable(name): name for name, declared in section.declared.items()}
        found |= {one: stored[by_variable[one]] for one in missing if by_variable.get(one) in stored}
    call.output.redact.learn(found.values())
    return found
