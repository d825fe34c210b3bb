"""One service as Compose renders it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from conche.engine.ports import Port
from conche.engine.rendered import Healthcheck

__all__ = ["Service"]


@dataclass(frozen=True)
class Service:
    """One service of a project.

    Attributes:
        image: reference, as written in the file.
        ports: published ports.
        hashes: Compose's own hashes of the definition (hashes.py); a container carries one of them. A service that
            depends on others has two: Compose leaves dependencies out of the hash when it starts a service alone.
        binds: mounted host folders that must already exist.
        secret_files: host files of its secrets.
        config_files: host files of its configs.
        user: the user that the file sets; empty for the image's own.
        waits_for: services that must be healthy, or done, before it starts.
        ends: it is a one-shot: without healthcheck, and not restarted after exiting successfully.
        completes: another service waits for it to finish.
        tries: whether a second container may run beside it, for a trial.
        shares: services whose network, processes, memory or volumes it shares.
        follows: services with which it is restarted: by `restart: true` of `depends_on`, which Compose adds by itself
            where it is in their network, processes or memory.
        replicas: the number of containers wanted; None if the service was derived from its containers alone.
        pulled: whether its image may be pulled: `pull_policy` is not `never`.
    """

    name: str
    image: str
    hashes: frozenset[str]
    ports: tuple[Port, ...] = ()
    healthcheck: Healthcheck | None = None
    binds: tuple[Path, ...] = ()
    secret_files: tuple[Path, ...] = ()
    config_files: tuple[Path, ...] = ()
    user: str = ""
    waits_for: tuple[str, ...] = ()
    ends: bool = False
    completes: bool = False
    tries: bool = True
    shares: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    replicas: int | None = None
    pulled: bool = True
