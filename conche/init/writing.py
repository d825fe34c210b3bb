"""Write the text of stack.yaml: what is known as keys, and what could not be decided as commented lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from conche import shallow_yaml
from conche.init.environments import ProposedEnvironment, slug
from conche.init.facts import Health
from conche.init.pipeline import FOLDERS
from conche.init.secrets import Declared
from conche.init.understanding import Understanding
from conche.init.volumes import Data
from conche.stack.model import FORMAT

__all__ = ["flow", "stack_text"]

HEAD = """\
# Written by `conche init`, and yours from now on: a second run proposes and changes nothing.
# What it could not decide is commented out: take the `#` away from what you choose. Every key: conche docs stack
"""

_PLAIN = re.compile(r"-?[A-Za-z0-9_./][A-Za-z0-9_./:@%+-]*")


def stack_text(seen: Understanding) -> str:
    """Return the text of stack.yaml; each commented line, or block of them, is valid there without its `#`."""
    parts = [
        [f"name: {flow(seen.name)}", f"format: {FORMAT}", *_registry(seen), *_images(seen)],
        ["environments:", *(line for one in seen.environments for line in _environment(seen, one))],
        list(_secrets(seen)),
        list(_backup(seen)),
        list(_pipeline(seen)),
    ]
    return HEAD + "\n".join("".join(f"{line}\n" for line in part) for part in parts if part)


def flow(value: object) -> str:
    """Format a value on one line of YAML, as people write it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(key)}: {flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(flow(one) for one in value) + "]"
    if isinstance(value, bool | int):
        return json.dumps(value)
    text = str(value)
    if _PLAIN.fullmatch(text) and not text.endswith(":") and shallow_yaml.load(text) == text:
        return text
    quotable = text.isprintable() and "\n" not in text
    return "'" + text.replace("'", "''") + "'" if quotable else json.dumps(text)


def _chosen(lines: Sequence[str], why: str = "") -> list[str]:
    """Comment out lines that are offered as a choice."""
    said = f"    # {why}" if why else ""
    return [f"# {line}{said if number == 0 else ''}" for number, line in enumerate(lines)]


def _within(indent: int, lines: Sequence[str]) -> list[str]:
    """Indent lines below a key, the `#` of commented ones too."""
    return [" " * indent + line for line in lines]


def _registry(seen: Understanding) -> Iterator[str]:
    if seen.pulled_from:
        yield f"registry: {flow(seen.pulled_from)}"
        return
    for host in seen.registries or ("localhost:5000",):
        yield from _chosen([f"registry: {flow(host)}"], "images are pushed there; without one they stay on the engine")


def _images(seen: Understanding) -> Iterator[str]:
    """Offer images for the Dockerfiles that no service is built from."""
    if not seen.dockerfiles:
        return
    lines = ["images:"]
    names: set[str] = set()
    for file in seen.dockerfiles:
        name = _image_name(file, names)
        names.add(name)
        said = {"dockerfile": str(file), "context": ".", "repository": f"{seen.name}-{name}"}
        lines.append(f"  {name}: {flow(said)}")
    yield from _chosen(lines, "Dockerfiles that no Compose file builds; an image is REGISTRY/repository:tag")


def _image_name(file: Path, taken: set[str]) -> str:
    plain = file.name.replace("Dockerfile", "").strip(".-_") or (file.parent.name if file.parent != Path() else "app")
    name, number = slug(plain, "image"), 2
    while name in taken:
        name, number = f"{slug(plain, 'image')}-{number}", number + 1
    return name


def _environment(seen: Understanding, one: ProposedEnvironment) -> Iterator[str]:
    yield f"  {one.name}:"
    yield f"    compose: {flow([str(file) for file in one.files])}"
    if one.otherwise:
        yield from _within(4, _chosen([f"compose: {flow([str(file) for file in one.otherwise])}"], "alternatively"))
    if one.project:
        yield f"    project: {flow(one.project)}    # as `docker compose` calls it: volumes keep their names"
    if one.rival:
        why = f"`docker compose` gives this and {one.rival} the same name; only one can keep it, with its volumes"
        yield from _within(4, _chosen([f"project: {flow(seen.rendered[one.rival].project)}"], why))
    if "CONCHE_PORT" in seen.mentioned and (url := seen.health.get(one.name)):
        yield from _within(4, _chosen([f"port: {_port(url.url)}"], "the Compose files mention CONCHE_PORT"))
    if one.protected:
        yield "    protected: true    # stopping or deleting anything asks for its name"
    yield from _within(4, _health(seen.health.get(one.name)))
    yield from _within(4, _chosen([f"branch: {'main' if one.protected else 'develop'}"], "git branch deployed here"))
    profiles = sorted(
        {name for body in seen.rendered[one.name].services.values() for name in body.get("profiles") or ()}
    )
    if profiles:
        yield from _within(4, _chosen([f"profiles: {flow(profiles)}"], "whose services start and stop with the others"))


def _health(url: Health | None) -> list[str]:
    if url is None:
        return _chosen(["health: http://localhost:8000/health"], "a URL that answers 2xx when it works")
    if not url.sure:
        return _chosen([f"health: {flow(url.url)}"], f"{url.why}: if it answers 2xx when it works")
    return [f"health: {flow(url.url)}    # guessed from {url.why}"]


def _port(url: str) -> int:
    match = re.search(r":(\d+)/", url)
    return int(match[1]) if match else 80


def _secrets(seen: Understanding) -> Iterator[str]:
    files = seen.sops.files
    if files:
        yield "secrets:"
        if seen.sops.shared:
            yield f"  file: {flow(str(seen.sops.shared.file))}"
        if seen.sops.own:
            yield f"  files: {flow({name: str(one.file) for name, one in seen.sops.own.items()})}"
        if seen.secrets_folder not in ("", "docker/secrets"):
            yield f"  folder: {flow(seen.secrets_folder)}"
        yield "  declared:"
        for one in seen.secrets:
            yield f"    {one.name}: {flow(_declaration(seen, one))}"
        if not seen.keyed:
            yield "  # required: false, as no age key was found here: values from .env or the shell still count."
    for file in seen.sops.others:
        yield f"# {file.file} is encrypted by sops and left alone: {file.why_not}."
    if files:
        return
    declared = [name for file in seen.sops.others for name in file.paths]
    declared += [slug(name, "secret").replace("-", "_") for name in seen.dotenv]
    if declared:
        moves = "conche docs adopt    # says how" if seen.sops.others else "invoke secrets.encrypt .env"
        lines = [f"    {name}: {{required: false}}" for name in dict.fromkeys(declared)]
        why = f"in one encrypted file of their own: invoke secrets.init, then {moves}"
        yield from _chosen(["secrets:", "  declared:", *lines], why)


def _declaration(seen: Understanding, one: Declared) -> dict[str, object]:
    outputs = [kind for kind, wanted in (("env", one.reads), ("file", one.file)) if wanted]
    return {
        **({"env": one.variable} if one.variable else {}),
        **({"path": one.path} if one.path else {}),
        **({"environments": list(one.environments)} if one.environments else {}),
        **({"outputs": outputs} if outputs != ["env"] else {}),
        **({"services": list(one.services)} if one.services else {}),
        **({} if seen.keyed else {"required": False}),
    }


def _backup(seen: Understanding) -> Iterator[str]:
    sure = [(name, data) for name, data in seen.data if data.driver]
    unsure = [(name, data) for name, data in seen.data if not data.driver]
    head = ["backup:", f"  target: {flow(f'../{seen.name}-backups')}", "  components:"]
    if not sure:
        if unsure:
            yield from _chosen([*head, *(line for name, data in unsure for line in _component(name, data))])
        return
    yield from head
    for name, data in sure:
        lines = list(_component(name, data))
        yield f"{lines[0]}    # {data.why}"
        yield from lines[1:]
    if seen.sops.files:
        why = "with the age key; needs backup.recipients: invoke backup.recovery-key makes one"
        yield from _within(4, _chosen(["secrets: {driver: secrets}"], why))
    for name, data in unsure:
        lines = [line[4:] for line in _component(name, data)]
        yield from _within(4, _chosen(lines, data.why))


def _component(environment: str, data: Data) -> Iterator[str]:
    said: dict[str, Any] = {"driver": data.driver or data.choice, "environment": environment, **data.fields}
    yield f"    {data.name}:"
    for key, value in said.items():
        yield f"      {key}: {flow(value)}"


def _pipeline(seen: Understanding) -> Iterator[str]:
    said = seen.pipeline
    if not said.folder:
        return
    lines = [f"  workflows: {flow(said.folder)}"] if said.folder != FOLDERS[0] else []
    lines += [f"  labels: {flow(said.labels)}"] if said.labels else []
    lines += [f"  secrets: {flow(said.secrets)}"] if said.secrets and said.secrets != ("SOPS_AGE_KEY",) else []
    if lines:
        yield "ci:"
        yield from lines
