"""Decides by which configuration the edge sends requests, and from which template that is made.

The configuration that a release had is part of it: its template is kept with the release, and the edge keeps what was
made from it. The checkout's template is only for new releases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

from conche.command import Invocation
from conche.env.rollout.edge import MAINTAINED, EdgeConfiguration, read_template
from conche.env.rollout.look import NOTHING, Look
from conche.env.rollout.view import opened_if_possible
from conche.errors import NotRestored, Restored
from conche.release.document import Document, Template
from conche.release.records import Record, Records, Result

__all__ = ["bring_back", "is_other", "rerouted", "template_of"]


def template_of(call: Invocation, records: Records, look: Look, release: str) -> Template:
    """Return what the edge's configurations of a release are made from; if that was not kept, what the checkout has.

    Args:
        release: the label of its containers.
    """
    return _kept_template(call, records, release) or read_template(call.root, look.deploy)


def _kept_template(call: Invocation, records: Records, release: str) -> Template | None:
    good = [e.record for e in records.entries if e.record and e.result is Result.SUCCEEDED]
    record = next((one for one in reversed(good) if one.label == release), None)
    document = opened_if_possible(call, records, record)
    return document.template if document else None


def bring_back(call: Invocation, records: Records, look: Look, release: str) -> None:
    """Let the edge send requests to a release by the configuration that it had, and check what users are answered.

    What was kept with the release is tried first, then what the edge still has of it, last what the checkout has.

    Raises:
        NotRestored: no configuration leads to the right answer.
    """
    said = ""
    for wanted in _candidates(call, records, look, release):
        edge = look.edge()
        edge.place(wanted)
        try:
            edge.prove(wanted)
            edge.switch_back(wanted)
        except Restored as error:
            said = error.message
            continue
        edge.drained(look.deploy.drain)
        said = "" if records.maintained or release == NOTHING else look.astray(release)
        if not said:
            return
    raise NotRestored(
        "previous-state-lost",
        f"{release} works, but the edge does not answer its users correctly: {said}",
        next_command=f"invoke env.logs --env {look.name}\ninvoke env.deploy --env {look.name}",
    )


def _candidates(call: Invocation, records: Records, look: Look, release: str) -> Iterator[EdgeConfiguration]:
    maintained = records.maintained
    kept = _kept_template(call, records, release)
    if kept is not None:
        yield look.edge_configuration(kept, release, maintenance=maintained)
    counts, every = look.edge().kept()
    for one in every:
        if one.release == release and one.name != counts and one.name.endswith(MAINTAINED) == maintained:
            yield one
    yield look.edge_configuration(read_template(call.root, look.deploy), release, maintenance=maintained)


def is_other(look: Look, template: Template, release: str) -> bool:
    """Return whether the edge has another configuration than this template makes for the release that it serves."""
    found = look.configured()
    return bool(found) and found != look.edge_configuration(template, release, maintenance=False).plain


def rerouted(document: Document, record: Record, earlier: Document, current: Record) -> tuple[Document, Record]:
    """Make a release that changes only the edge's configuration, with the containers of the current one.

    Args:
        document: that of the release that would have been made.
        earlier: that of the current release.
    """
    kept = replace(earlier, template=document.template, hidden=tuple({*earlier.hidden, *document.hidden}))
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return kept, replace(record, started=now, services=current.services, keeps=current.label)
