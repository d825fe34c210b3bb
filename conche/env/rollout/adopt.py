"""Keeps what env.up has made and a release would make the same: a database is not stopped just to be pinned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from conche.engine import images
from conche.engine.compose import Configuration
from conche.engine.containers import Container
from conche.env.contents import contents_of_service, outdated
from conche.env.rollout.prepare import Prepared
from conche.release.records import Record

__all__ = ["adopted"]


def adopted(prepared: Prepared, found: Sequence[Container], record: Record) -> Record:
    """Return the record with the hashes of containers that were made from the very files the release is made of.

    What the edge serves is made anew in each release. Without an edge, so is whatever is told its release.

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
    configuration = prepared.compose.configuration()
    files, services = configuration.services, dict(record.services)
    # Contents are not part of Compose's hash.
    other = outdated(prepared.compose, configuration, strange, None)
    for one in strange:
        placed = services[one.service]
        if one.service in other or _mounts(configuration, one.service):
            continue
        if one.config_hash in files[one.service].hashes and images.same(prepared.engine, one.image_id, placed.image):
            services[one.service] = replace(placed, hashes=tuple(sorted({*placed.hashes, one.config_hash})))
    return replace(record, services=services)


def _mounts(configuration: Configuration, service: str) -> bool:
    """Return whether env.up mounts configs or secrets of a service from files.

    A release copies them, because the checkout may go.
    """
    return any(content.said.get("file") for content in contents_of_service(configuration.rendered, service))


def _told(prepared: Prepared, service: str) -> bool:
    deploy = prepared.deploy
    own = prepared.configuration.services[service].image in prepared.own
    return service == deploy.serves or (deploy.serves is None and own)
