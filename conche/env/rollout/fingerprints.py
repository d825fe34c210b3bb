"""What a release knows of its secrets and configs besides their values: which it keeps, and how changes are noticed."""

from __future__ import annotations

from collections.abc import Mapping

from conche.command import Invocation
from conche.engine.compose import Configuration
from conche.engine.rendered import plain
from conche.env.contents import contents_of_service
from conche.release.document import CONFIGS, SECRETS
from conche.secret import Secret
from conche.vault.values import unsealed_files
from conche.vault.vault import fingerprint

__all__ = ["fingerprinted", "marks", "unsealed"]


def unsealed(call: Invocation, name: str, configuration: Configuration) -> dict[str, str]:
    """Return secret of the files -> its name in stack.yaml, for those whose value no release keeps."""
    files = {str(file): one for file, one in unsealed_files(call.stack, call.root, name).items()}
    given = (configuration.rendered.get("secrets") or {}).items()
    return {key: files[file] for key, said in given if (file := plain(said.get("file"))) in files}


def fingerprinted(salt: bytes, contents: Mapping[str, bytes]) -> dict[str, str]:
    """Return config or secret -> fingerprint of its content."""
    return {key: fingerprint(salt, Secret(content.decode(errors="replace"))) for key, content in contents.items()}


def marks(configuration: Configuration, prints: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return service -> one label with the fingerprints of its secrets, and one with those of its configs."""
    found: dict[str, dict[str, str]] = {}
    for name in configuration.services:
        for content in contents_of_service(configuration.rendered, name):
            if str(content) not in prints:
                continue
            label = SECRETS if content.kind == "secret" else CONFIGS
            had = found.setdefault(name, {}).get(label)
            found[name][label] = f"{had}-{prints[str(content)]}" if had else prints[str(content)]
    return found
