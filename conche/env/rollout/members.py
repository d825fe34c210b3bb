"""Decides which containers of a release the edge sends requests to while their number changes.

Normally the edge asks the engine's name server for all of a release's containers. One that was just started would be
among them before it works, and one that is about to go until it is gone. So meanwhile the edge names those that serve,
each by its id; a container that is no longer named ends its requests, and can go then.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence

from conche.engine.containers import Container
from conche.env.rollout.edge import MARK, EdgeConfiguration
from conche.env.rollout.look import Look
from conche.errors import Restored
from conche.release.document import alias

__all__ = ["named", "naming", "prove", "serve_all", "serve_only"]

SHORT = 12
"""Characters of a container's id by which the engine's name server knows it."""

MEMBERS = "$conche_members"


def named(base: EdgeConfiguration, serves: str, ids: Sequence[str]) -> EdgeConfiguration:
    """Return a configuration that sends requests to these containers alone, an equal share to each.

    It is made from the one that serves, whatever template that came from; one that does not mention the release's
    containers by their common name is returned as it is.

    Args:
        serves: the service behind the edge.
        ids: ids of the containers; at least one.
    """
    file = f"{base.name}/nginx.conf"
    text = base.files[file].decode()
    entry = re.search(rf"\b{re.escape(alias(serves, base.release))}:(\d+)", text)
    if entry is None:
        return base
    members = [f"{one[:SHORT]}:{entry[1]}" for one in ids]
    block = _shares(members) if len(members) > 1 else ""
    opened = re.search(r"^\s*http\s*\{", text, re.MULTILINE)
    if block and opened:
        text = f"{text[: opened.end()]}\n{block}{text[opened.end() :]}"
    text = text.replace(entry[0], MEMBERS if block and opened else members[0])
    text = f"{MARK}{base.name}\n{text}"
    name = f"{base.release}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    first, _, rest = text.partition("\n")
    files = {path.replace(base.name, name): content for path, content in base.files.items() if path != file}
    text = f"{first}\n{rest.replace(base.name, name)}"
    return EdgeConfiguration(name, base.release, {**files, f"{name}/nginx.conf": text.encode()})


def _shares(members: Sequence[str]) -> str:
    """Return the nginx block that picks a member at random; the last one takes what rounding leaves."""
    share = int(10000 / len(members)) / 100
    lines = [f'    {share:.2f}% "{one}";' for one in members[:-1]]
    return "\n".join([f'  split_clients "$request_id" {MEMBERS} {{', *lines, f'    * "{members[-1]}";', "  }"])


def serve_only(look: Look, members: Sequence[Container]) -> bool:
    """Send requests to these containers alone, and let the others end theirs.

    Returns:
        Whether the edge does: not if none runs, or if its template finds containers in a way of its own.
    """
    counts = _in_place(look)
    if counts is None or not members or look.deploy.serves is None:
        return False
    edge, base = look.edge(), _base(look, counts)
    wanted = named(base, look.deploy.serves, [one.id for one in members])
    if wanted.name == base.name:
        return False
    edge.place(wanted)
    edge.prove(wanted)
    edge.switch(wanted)
    edge.drained(look.deploy.drain)
    return True


def serve_all(look: Look) -> None:
    """Send requests to all containers of the release again, if the edge names some."""
    counts = _in_place(look)
    if counts is None or not counts.unnamed:
        return
    look.edge().switch(_base(look, counts))


def _base(look: Look, counts: EdgeConfiguration) -> EdgeConfiguration:
    """Return the configuration without named containers from which the one in use was made."""
    name = counts.unnamed
    return look.edge().placed(name) if name else counts


@contextlib.contextmanager
def naming(look: Look, members: Sequence[Container]) -> Iterator[None]:
    """Send requests to these containers alone within this block; afterwards, whatever happens, to all there are."""
    serve_only(look, members)
    try:
        yield
    finally:
        serve_all(look)


def prove(look: Look, new: Sequence[Container], release: str) -> None:
    """See that each new container answers through the edge's private entry before users are sent to it.

    Raises:
        Restored: one does not, or answers wrongly.
    """
    counts = _in_place(look)
    if counts is None:
        return
    probe = look.probe_of(release)
    for one in new:
        answers = look.edge().probe((probe.path,) * probe.times, f"{one.id[:SHORT]}:{look.deploy.port}")
        wrong = [answer for answer in answers if not look.right(answer, release)]
        if wrong:
            raise Restored(
                "probe-failed",
                f"{one.name} is healthy, but does not answer correctly through the edge.",
                evidence=[look.compose.redact(f"{probe.path}: {answer}") for answer in dict.fromkeys(wrong)],
                next_command=f"invoke env.logs --env {look.name}",
            )


def _in_place(look: Look) -> EdgeConfiguration | None:
    """Return the configuration in use; None if no edge runs."""
    if look.deploy.edge is None or not any(one.state == "running" for one in look.of(look.deploy.edge)):
        return None
    return look.edge().in_place()
