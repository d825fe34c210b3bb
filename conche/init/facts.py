"""Facts from the rendered files of one environment, for the table and for stack.yaml."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conche.engine.builds import built_outside
from conche.engine.rendered import named_twice, published_ports
from conche.errors import Refused
from conche.init.compose import Rendered
from conche.init.env_files import example_of

__all__ = ["Health", "ServiceFacts", "health", "refuse_impossible", "relative", "services", "troubles"]

WEB = frozenset({80, 3000, 3001, 4000, 4200, 5000, 5173, 8000, 8001, 8008, 8080, 8081, 8088, 8888, 9000})
"""Ports on which applications usually serve HTTP."""

_URL = re.compile(
    r"(https?)://(?:localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1\]|\$\{?HOSTNAME\}?)(?::(\d+))?(/[^\s'\"|;)]*)?"
)


@dataclass(frozen=True)
class ServiceFacts:
    """One service, as the table shows it."""

    name: str
    image: str
    built: str
    ports: tuple[str, ...]
    profiles: tuple[str, ...]
    checked: bool


@dataclass(frozen=True)
class Health:
    """A URL that should answer when the application works.

    Attributes:
        why: what it was guessed from.
        sure: whether a healthcheck asks for it by plain http. Behind a mere port, `/` may well answer 302, 401 or 404,
            and a certificate for the inside of a container is rarely valid.
    """

    url: str
    why: str
    sure: bool = False


def services(root: Path, rendered: Rendered) -> list[ServiceFacts]:
    """Return the services of an environment, including those of inactive profiles."""
    found = []
    for name, body in rendered.services.items():
        build = body.get("build") or {}
        context = str(build.get("context") or "")
        target = f", target {build['target']}" if build.get("target") else ""
        where = relative(root, context) if context.startswith("/") else context
        said = (body.get("healthcheck") or {}).get("test")
        found.append(
            ServiceFacts(
                name,
                str(body["image"]),
                f"{where}{target}" if build else "",
                tuple(_ports(body)),
                tuple(body.get("profiles") or ()),
                bool(said) and said != ["NONE"],
            )
        )
    return found


def relative(root: Path, path: str) -> str:
    """Return a path in the repository as people type it; any other path unchanged."""
    return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path


def _ports(body: Mapping[str, Any]) -> Iterator[str]:
    for port in body.get("ports") or []:
        protocol = "" if port.get("protocol", "tcp") == "tcp" else f"/{port['protocol']}"
        address = f"{port['host_ip']}:" if port.get("host_ip") else ""
        yield f"{address}{port.get('published') or 'any'}->{port.get('target')}{protocol}"


def health(rendered: Rendered) -> Health | None:
    """Return the URL that a healthcheck names, else that of the first service that looks like a website.

    Of several, the first of a service that no other one depends on, so that the whole application is asked.
    """
    active = {name: body for name, body in rendered.services.items() if name in rendered.active}
    needed = {other for body in active.values() for other in body.get("depends_on") or ()}
    told = [(one, name in needed) for name, body in active.items() for one in _told(name, body, active)]
    if told:
        return min(told, key=lambda one: (not one[0].sure, one[1]))[0]
    ordered = sorted(active.items(), key=lambda item: not item[1].get("build"))
    for name, body in ordered:
        for port in body.get("ports") or []:
            if int(port.get("target") or 0) in WEB and (published := _first(port)):
                return Health(_at("http", port, published, "/"), f"port {port['target']} of {name}")
    return None


def _told(name: str, body: Mapping[str, Any], services: Mapping[str, Any]) -> Iterator[Health]:
    test = (body.get("healthcheck") or {}).get("test") or []
    match = _URL.search(" ".join(map(str, test)))
    if not match:
        return
    scheme = match[1]
    asked = int(match[2] or (443 if scheme == "https" else 80))
    for port in _reached(asked, body, services):
        if int(port.get("target") or 0) == asked and (published := _first(port)):
            url = _at(scheme, port, published, match[3] or "/")
            yield Health(url, f"the healthcheck of {name}", sure=scheme == "http")


def _reached(asked: int, body: Mapping[str, Any], services: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the ports by which a service is reached: its own, or those of the network that it shares."""
    mode = str(body.get("network_mode") or "")
    if mode == "host":
        return [{"target": asked, "published": str(asked)}]
    return (services.get(mode.removeprefix("service:")) or body).get("ports") or []


def _first(port: Mapping[str, Any]) -> int:
    return next((one.number for one in published_ports([port])), 0)


def _at(scheme: str, port: Mapping[str, Any], published: int, path: str) -> str:
    address = port.get("host_ip") or "localhost"
    host = "localhost" if address in ("0.0.0.0", "::", "127.0.0.1") else address  # noqa: S104
    usual = 443 if scheme == "https" else 80
    return f"{scheme}://{f'[{host}]' if ':' in host else host}{'' if published == usual else f':{published}'}{path}"


def refuse_impossible(name: str, rendered: Rendered, files: Sequence[Path]) -> None:
    """Refuse files that Compose accepts but that cannot be brought up.

    Raises:
        Refused: there is no service, or two want the same container name.
    """
    if not rendered.services:
        raise Refused(
            "no-services",
            f"{', '.join(map(str, files))} has no service.",
            looked_at=[str(file) for file in files],
            next_command="write a service into it, then: conche init",
        )
    active = {service: body for service, body in rendered.services.items() if service in rendered.active}
    twice = named_twice(active, name, rendered.project, [str(file) for file in files])
    if twice:
        raise twice


def troubles(root: Path, name: str, rendered: Rendered) -> Iterator[str]:
    """Yield warnings about what works here, but may not work elsewhere or may not be intended."""
    yield from (f"{name}: {one}" for one in built_outside(rendered.document, root))
    for service, body in rendered.services.items():
        image = str(body["image"])
        if body.get("build") and image != image.lower() and ":" not in image:
            yield f"{name}: Compose calls the image of {service} {image}, which engines reject: give it an `image:`"
        every = [one for one in _ports(body) if one[0].isdigit() and not re.match(r"\d+\.\d+\.\d+\.\d+:", one)]
        if every:
            yield f"{name}: {service} publishes {', '.join(every)} on every address of its host"
    for service, lacking in rendered.lacking.items():
        copies = [f"cp {example} {one}" for one in lacking if (example := example_of(root, one))]
        hint = f": {'; '.join(copies)}, and fill in what it leaves open" if copies else ""
        yield f"{name}: {service} lacks {', '.join(lacking)}, without which Compose brings nothing up{hint}"
    for warning in rendered.warnings:
        yield f"{name}: {warning}"
