"""invoke env.config"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from conche.command import Invocation
from conche.env.contents import ignored
from conche.outcome import Outcome
from conche.secret import MASK, SECRET_NAME
from conche.session import open_compose

__all__ = ["config"]

USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
"""User and password in a URL."""


def config(call: Invocation, name: str) -> Outcome:
    """Show the Compose files as Compose understands them, with secrets masked."""
    import yaml

    call.environment(name)
    compose = open_compose(call, name)
    configuration = compose.configuration(hashed=False)
    rendered = dict(configuration.rendered)
    services = {name: {**body, **_hidden(body)} for name, body in rendered["services"].items()}
    masked = json.loads(compose.redact(json.dumps(_urls({**rendered, "services": services}))))
    return Outcome(value=masked, raw=yaml.safe_dump(masked, sort_keys=False), warnings=ignored(configuration))


def _hidden(service: Mapping[str, Any]) -> dict[str, Any]:
    """Return a service's variables, with the values of those named like a secret masked."""
    variables = service.get("environment") or {}
    hidden = {
        name: MASK if value and SECRET_NAME.search(name) and not str(value).startswith("/run/secrets/") else value
        for name, value in variables.items()
    }
    return {"environment": hidden} if variables else {}


def _urls(value: Any) -> Any:
    """Mask users and passwords in URLs."""
    if isinstance(value, dict):
        return {key: _urls(below) for key, below in value.items()}
    if isinstance(value, list):
        return [_urls(below) for below in value]
    return USERINFO.sub(MASK, value) if isinstance(value, str) else value
