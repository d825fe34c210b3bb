"""invoke secrets.get: shows a value only if somebody asks for it."""

from __future__ import annotations

import hashlib
import hmac
import sys

from conche.command import Invocation
from conche.errors import NotFound, Refused
from conche.outcome import Outcome
from conche.output import at_terminal
from conche.secret import Secret
from conche.vault import keys
from conche.vault.values import called, opened

__all__ = ["get"]


def get(call: Invocation, name: str, *, show: bool, length: bool, fingerprint: bool) -> Outcome:
    """Write one value unchanged to a pipe; on a terminal only with `show`."""
    _, store = opened(call.stack, call.root)
    values = store.read()
    if name not in values:
        raise NotFound(
            "no-such-secret",
            f"{store.file.name} has no secret {called(name, values)}",
            next_command="invoke secrets.list",
        )
    value = values[name]
    if length:
        return Outcome(value={"name": name, "length": len(value)}, raw=f"{len(value)}\n")
    if fingerprint:
        digest = _fingerprint(keys.require(call.root).identities, value)
        return Outcome(value={"name": name, "fingerprint": digest}, raw=f"{digest}\n")
    if at_terminal(sys.stdout) and not show:
        raise Refused(
            "value-not-shown",
            f"{name} is not shown on a terminal.",
            next_command=f"invoke secrets.get {name} --show\ninvoke secrets.get {name} | wc -c",
        )
    if call.output.as_json:
        return Outcome(value={"name": name, "value": value.reveal()})
    return Outcome(raw=value.reveal())


def _fingerprint(identity: Secret, value: Secret) -> str:
    """Hash a value with the age key: a plain hash of a short value could be found by brute force."""
    return hmac.new(identity.reveal().encode(), value.reveal().encode(), hashlib.sha256).hexdigest()[:16]
