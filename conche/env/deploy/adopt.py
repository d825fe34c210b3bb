"""What env.up has made and a release would make the same stays as it is: a database is not stopped to be pinned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from conche.engine import images
from conche.engine.containers import Container
from conche.env.deploy.prepare import Prepared
from conche.env.deploy.records import Record

__all__ = ["adopted"]


def adopted(prepared: Prepared, found: Sequence[Container], record: Record) -> Record:
    """The record of a release that also knows the hashes of containers made from the very files it is made of.

    What the edge serves is made anew in each release. So is, without an edge, what is told its release.

    Args:
        found: the containers of the project.
    """
    strange = [
        one
        for one in found
        if one.service in record.services
        and one.config_hash not in record.services[one.service].hashes
        and not _told(prepared, one.service)
    ]
    if not strange:
        return record
    files = prepared.compose.configuration().services
    services = dict(record.services)
    for one in strange:
        placed = services[one.service]
        if one.config_hash in files[one.service].hashes and images.same(prepared.engine, one.image_id, placed.image):
            services[one.service] = replace(placed, hashes=tuple(sorted({*placed.hashes, one.config_hash})))
    return replace(record, services=services)


def _told(prepared: Prepared, service: str) -> bool:
    deploy = prepared.deploy
    own = prepared.configuration.services[service].image in prepared.own
    return service == deploy.serves or (deploy.serves is None and own)
