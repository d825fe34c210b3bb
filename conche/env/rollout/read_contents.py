"""Reads what a release keeps of configs and secrets, so that it depends neither on the checkout nor on a variable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from conche.command import Invocation
from conche.engine.compose import Compose, Configuration
from conche.engine.rendered import plain
from conche.env.contents import contents_of_service, is_rendered, value_of
from conche.env.preflight import LOST
from conche.errors import Refused
from conche.secret import Secret
from conche.vault.values import used_by

__all__ = ["read_contents", "with_configs"]


def read_contents(
    call: Invocation, name: str, compose: Compose, configuration: Configuration, secrets: Mapping[str, Secret]
) -> dict[str, bytes]:
    """Return the content of each config and secret that a service has: from the secrets, files or variables.

    Raises:
        Refused: a file cannot be read, or a variable is not set.
    """
    section = call.stack.secrets
    staged: dict[str, bytes] = {}
    if section is not None and (secrets or call.vault.key is not None):  # else only the files tell what they say
        from conche.vault import render

        optional = render.emptied(call.root, section, used_by(section, name))
        staged = {str(one.path): one.content for one in render.files(call.root, section, {**optional, **secrets})}
    contents: dict[str, bytes] = {}
    for service in configuration.services:
        for content in contents_of_service(configuration.rendered, service):
            if str(content) in contents:
                continue
            path = plain(content.said.get("file", ""))
            value = staged[path] if path in staged else value_of(content, compose)
            again = "invoke secrets.render" if is_rendered(path, section) else LOST
            contents[str(content)] = _read(path, str(content), again) if value is None else value
    return contents


def with_configs(configuration: Configuration) -> Configuration:
    """Return a copy with the contents of its configs' files: a release must not depend on the checkout."""
    configs = dict(configuration.rendered.get("configs") or {})
    for key, said in configs.items():
        if said.get("file"):
            text = _decoded(_read(plain(said["file"]), f"config {key}"), key)
            kept = {one: value for one, value in said.items() if one != "file"}
            configs[key] = {**kept, "content": text.replace("$", "$$")}
    return replace(configuration, rendered={**configuration.rendered, "configs": configs})


def _decoded(content: bytes, key: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Refused(
            "config-not-text",
            f"The file of the config {key} is not text, so it cannot be kept with a release.",
            next_command="mount it from a volume instead, or build it into the image",
        ) from error


def _read(path: str, what: str, next_command: str = LOST) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Refused(
            "file-missing",
            f"The file of the {what} cannot be read: {error.strerror}.",
            looked_at=[path],
            next_command=next_command,
        ) from error
