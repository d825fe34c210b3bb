"""Turns what the Compose files say into the document of a release; pure, so the same input gives the same document.

Images are pinned by digest. Secrets and configs become values that Compose copies into the containers: a release must
depend neither on a folder that a CI runner removes nor on the present value of a variable. What an edge serves gets the
release's id as label, variable and network alias. Other services that run an image of the stack are told the release
they came with; they keep it as long as their definition stays the same, and are not replaced for nothing.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

from conche.engine.rendered import altered, flat, plain
from conche.errors import Refused
from conche.formats import DOCUMENT
from conche.secret import MASK, Secret

__all__ = ["CONFIGS", "RELEASE", "SECRETS", "Document", "alias", "definition", "make", "shape"]

RELEASE = "io.conche.release"
"""Label of the containers of a release."""

SECRETS = "io.conche.secrets"
"""Label with a fingerprint of the secrets that a service is given, so that a changed secret changes the definition."""

CONFIGS = "io.conche.configs"
"""Label with a fingerprint of its configs, likewise."""

VARIABLE = "CONCHE_SECRET_"

LARGEST = 1 << 20
"""Most bytes of a config, as each release keeps it."""

EMPTY = "\n"
"""Content of a config that is empty: Compose makes no file without content."""

TOLD = ("CONCHE_RELEASE", "CONCHE_IMAGE_DIGEST")
"""Variables by which a container knows what it is: no part of its definition."""


@dataclass(frozen=True)
class Template:
    """What an edge's configurations are made from; kept with each release.

    Attributes:
        text: the configuration's, with `@words@` to fill in.
        port: the one on which the service behind the edge listens.
        drain: seconds that requests under way are given to end.
    """

    text: str
    port: int
    drain: float


@dataclass(frozen=True)
class Document:
    """A release's Compose document, with what it interpolates.

    Attributes:
        variables: values for Compose's environment; secret.
        hidden: further values that stand in the body and must not be shown.
        unsealed: variable -> secret whose present value it has, whenever the release was made.
        masked: it was kept by a version that read its values from redacted text, and some of them are `***`.
        template: the edge's; None without an edge, and in what earlier versions have kept.
    """

    body: Mapping[str, Any] = field(repr=False)
    variables: Mapping[str, str] = field(repr=False, default_factory=dict)
    hidden: tuple[str, ...] = field(repr=False, default=())
    masked: bool = False
    template: Template | None = field(repr=False, default=None)
    unsealed: Mapping[str, str] = field(default_factory=dict)

    def content(self) -> bytes:
        """Return it as Compose reads it."""
        return json.dumps(self.body).encode()

    def packed(self) -> bytes:
        """Return all of it, to be sealed, without the values that no release keeps."""
        kept = {name: value for name, value in self.variables.items() if name not in self.unsealed}
        said = {"body": self.body, "variables": kept, "hidden": self.hidden, "masked": self.masked}
        said |= {"unsealed": self.unsealed} if self.unsealed else {}
        template = {"template": asdict(self.template)} if self.template else {}
        return json.dumps(DOCUMENT.stamped({**said, **template})).encode()

    @classmethod
    def unpacked(cls, content: bytes) -> Document:
        """Read what `packed` has made.

        Versions that masked values did not say so; what later ones have kept may really contain a value of `***`.

        Raises:
            WrittenByNewer: a later version has kept it in a format that this one does not know.
        """
        said = DOCUMENT.opened(json.loads(content))
        masked = said.get("masked", MASK in json.dumps(said["body"]))
        template = Template(**said["template"]) if said.get("template") else None
        unsealed = said.get("unsealed", {})
        return cls(said["body"], said["variables"], tuple(said.get("hidden", ())), masked, template, unsealed)

    def valued(self, values: Mapping[str, Secret]) -> Document:
        """Return a copy in which the secrets that no release keeps have these values, as far as they are known."""
        known = {one: values[name].reveal() for one, name in self.unsealed.items() if name in values}
        return replace(self, variables={**self.variables, **known})

    def secrets(self) -> list[Secret]:
        """Return every value of it that must not be shown."""
        return [Secret(value) for value in (*self.variables.values(), *self.hidden)]

    def masked_in(self) -> dict[str, list[str]]:
        """Return service -> what of it holds `***`: variables by name, anything else by its key."""
        found = {}
        for name, service in self.body["services"].items():
            environment = service.get("environment") or {}
            keys = [f"environment.{key}" for key, value in environment.items() if MASK in str(value)]
            others = {key: value for key, value in service.items() if key != "environment"}
            keys += [key for key, value in others.items() if MASK in json.dumps(value)]
            if keys:
                found[name] = sorted(keys)
        return found

    def scaled(self, replicas: Mapping[str, int]) -> Document:
        """Return a copy with this many containers of these services, as far as it has them."""
        body = copy.deepcopy(dict(self.body))
        for name in replicas.keys() & body["services"].keys():
            body["services"][name].setdefault("deploy", {})["replicas"] = replicas[name]
        return replace(self, body=body)

    def altered(self, before: Document | None) -> dict[str, tuple[str, ...]]:
        """Return service -> the keys of its definition that differ from an earlier release."""
        if before is None:
            return {}
        both = self.body["services"].keys() & before.body["services"].keys()
        return {name: altered(*(flat(_lasting(one.body, name)) for one in (before, self))) for name in both}

    def renumbered(self, serves: str | None, before: str, release: str) -> Document:
        """Return a copy under the id of another release."""
        if serves is None:
            # Going back replaces every service that is told its release, so each can be told the new one.
            body = copy.deepcopy(dict(self.body))
            for service in body["services"].values():
                if all(name in (service.get("environment") or {}) for name in TOLD):
                    service["environment"]["CONCHE_RELEASE"] = release
            return replace(self, body=body)
        text = json.dumps(self.body).replace(json.dumps(alias(serves, before)), json.dumps(alias(serves, release)))
        body = json.loads(text)
        body["services"][serves]["labels"][RELEASE] = release
        body["services"][serves]["environment"]["CONCHE_RELEASE"] = release
        return replace(self, body=body)

    def with_images(self, images: Mapping[str, str]) -> Document:
        """Return a copy with other images, by service; services that are told their image are told the new one."""
        body = copy.deepcopy(dict(self.body))
        for name, image in images.items():
            service = body["services"][name]
            service["image"] = image
            if "CONCHE_IMAGE_DIGEST" in (service.get("environment") or {}):
                del service["environment"]["CONCHE_IMAGE_DIGEST"]
                service["environment"].update(_known(image))
        return replace(self, body=body)

    def after(self, before: Document, serves: str | None) -> Document:
        """Return a copy in which services that have not changed keep what they were told, as their containers do."""
        body, earlier = copy.deepcopy(dict(self.body)), before.body
        for name, service in body["services"].items():
            same = name in earlier["services"] and definition(body, name) == definition(earlier, name)
            if name == serves or not same or not service.get("environment"):
                continue
            then = earlier["services"][name].get("environment") or {}
            plain = {key: value for key, value in service["environment"].items() if key not in TOLD}
            service["environment"] = {**plain, **{key: then[key] for key in TOLD if key in then}}
            if not service["environment"]:
                del service["environment"]
        return replace(self, body=body)


def alias(service: str, release: str) -> str:
    """Return the name under which the edge finds the containers of a release."""
    return f"{service}-{release}"


def make(  # noqa: PLR0913 - each is a part of the document
    rendered: Mapping[str, Any],
    *,
    release: str,
    pins: Mapping[str, str],
    contents: Mapping[str, bytes],
    marks: Mapping[str, Mapping[str, str]],
    serves: str | None,
    replicas: Mapping[str, int],
    told: Collection[str] = (),
    swarm: bool = False,
    unsealed: Mapping[str, str] = MappingProxyType({}),
) -> Document:
    """Make the document of a release.

    Args:
        rendered: Compose's own rendering of the files, with interpolated values.
        pins: image reference -> the same by digest.
        contents: config or secret, as `config rules` -> its content.
        marks: service -> labels with fingerprints of its secrets and configs.
        serves: the service behind the edge.
        replicas: service -> number of containers, if other than the files say.
        told: other services whose containers are told their release.
        swarm: it is for a swarm, which gives secrets the owner and mode they ask for.
        unsealed: secret of the files -> its name in stack.yaml, if no release keeps its value.
    """
    body = copy.deepcopy(dict(rendered))
    for name, service in body["services"].items():
        service["image"] = pins.get(service["image"], service["image"])
        service.pop("build", None)
        if name in replicas:
            service.setdefault("deploy", {})["replicas"] = replicas[name]
        if marks.get(name):
            service["labels"] = {**(service.get("labels") or {}), **marks[name]}
        for given in () if swarm else service.get("secrets") or []:
            # Compose 2.26 copies a value with mode 0444 and reads any other mode as a decimal number; with an owner
            # the engine fails for a user that the image's passwd does not name. Only the container sees the file.
            for unsafe in ("uid", "gid", "mode"):
                given.pop(unsafe, None)
        for given in () if swarm else service.get("configs") or []:
            _as_mounted(given, (body.get("configs") or {}).get(given["source"]) or {})
    variables = _hold(body, contents)
    for name in {*told, *([serves] if serves else [])}:
        _tell(body["services"][name], release)
    if serves is not None:
        _mark(body["services"][serves], serves, release)
    given = body.get("secrets") or {}
    return Document(body, variables, unsealed={given[key]["environment"]: name for key, name in unsealed.items()})


def _hold(body: Mapping[str, Any], contents: Mapping[str, bytes]) -> dict[str, str]:
    """Give configs and secrets contents in place of their sources in the checkout; return variables that hold them.

    A secret is kept in a variable, so that no document shows it; a config may be larger than a variable can be.
    """
    variables: dict[str, str] = {}
    for key, secret in (body.get("secrets") or {}).items():
        if f"secret {key}" in contents:
            secret.pop("file", None)
            secret["environment"] = _variable(key, variables)
            variables[secret["environment"]] = _secret_text(key, contents[f"secret {key}"])
    for key, config in (body.get("configs") or {}).items():
        if f"config {key}" in contents:
            for source in ("file", "environment"):
                config.pop(source, None)
            # Compose interpolates what it reads.
            config["content"] = (_config_text(key, contents[f"config {key}"]) or EMPTY).replace("$", "$$")
    return variables


def definition(body: Mapping[str, Any], service: str) -> str:
    """Return a digest of a service's definition, without what changes with every release."""
    return hashlib.sha256(json.dumps(_lasting(body, service), sort_keys=True).encode()).hexdigest()[:16]


def _lasting(body: Mapping[str, Any], service: str) -> dict[str, Any]:
    said = copy.deepcopy(dict(body["services"][service]))
    said.get("labels", {}).pop(RELEASE, None)
    if isinstance(said.get("environment"), dict):
        for variable in TOLD:
            said["environment"].pop(variable, None)
        if not said["environment"] and body["services"][service]["environment"]:
            del said["environment"]
    for network in (said.get("networks") or {}).values():
        if network:
            network.pop("aliases", None)
    return said


def shape(rendered: Mapping[str, Any], service: str, root: str) -> str:
    """Return a digest of what the files say of a service, equal in every checkout and before and after a release."""
    said = json.dumps(rendered["services"][service], sort_keys=True)
    rooted = json.dumps(root.replace("$", "$$"))[1:-1]
    return hashlib.sha256(said.replace(rooted, ".").encode()).hexdigest()[:16]


def _tell(service: dict[str, Any], release: str) -> None:
    told = {"CONCHE_RELEASE": release, **_known(service["image"])}
    service["environment"] = {**(service.get("environment") or {}), **told}


def _known(image: str) -> dict[str, str]:
    """Return what a container is told of its image: its digest, or the id of one that no registry has."""
    digest = image.rpartition("@")[2]
    return {"CONCHE_IMAGE_DIGEST": digest} if digest.startswith("sha256:") else {}


def _mark(service: dict[str, Any], name: str, release: str) -> None:
    service.setdefault("labels", {})[RELEASE] = release
    for key, network in (service.get("networks") or {}).items():
        told = network or {}
        service["networks"][key] = {**told, "aliases": [*(told.get("aliases") or []), alias(name, release)]}


def _as_mounted(given: dict[str, Any], said: Mapping[str, Any]) -> None:
    """Make a config look as if Compose mounted its file: as the file is, whatever owner and mode were asked for.

    Of the file's own mode, keep whether it is executable.
    """
    if not said.get("file"):
        return
    for ignored in ("uid", "gid", "mode"):
        given.pop(ignored, None)
    if os.access(plain(said["file"]), os.X_OK):
        given["mode"] = 0o555


def _variable(key: str, taken: Mapping[str, str]) -> str:
    """Return an unused name of a variable for a secret, whatever characters its key has."""
    name = VARIABLE + re.sub(r"\W", "_", key.upper())
    while name in taken:
        name += "_"
    return name


def _secret_text(key: str, content: bytes) -> str:
    # An environment variable of a process has at most 128 KiB.
    text = _text(content)
    if text is None or len(content) > 120_000:
        raise Refused(
            "secret-not-text",
            f"The secret {key} cannot be given to a release: it is not text, or is longer than 120 kB.",
            next_command="mount it from a volume instead",
        )
    return text


def _config_text(key: str, content: bytes) -> str:
    text = _text(content)
    if text is None or len(content) > LARGEST:
        raise Refused(
            "config-not-text",
            f"The config {key} cannot be kept with a release: it is not text, or is longer than 1 MiB.",
            next_command="put it into the image, or mount it from a volume",
        )
    return text


def _text(content: bytes) -> str | None:
    """Return what is text without a zero byte; else None."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text
