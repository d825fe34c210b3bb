"""influxdb: `influx backup` in the running container, or the files of a stopped one; never files in use."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from tarfile import TarInfo
from typing import Any

from conche.backup import running
from conche.backup.archive import ArchiveWriter, compressing
from conche.backup.copying import copied
from conche.backup.drivers import Dumping
from conche.backup.drivers.volume import ASIDE
from conche.backup.entries import Entry, tar_entries
from conche.backup.influx import CONFIG, DATA, Influx
from conche.backup.manifest import Artifact, ComponentRecord
from conche.backup.reading import Reading
from conche.backup.site import Site
from conche.backup.storing import store
from conche.engine import containers, task_containers
from conche.engine.connection import Engine
from conche.engine.containers import Container
from conche.errors import NotFound, Refused
from conche.stack import Component

__all__ = ["CONFIG_FILE", "DATA_FILE", "Watch", "dump", "find", "opened", "pack", "scratch", "warn_refused"]

DATA_FILE, CONFIG_FILE = "influxdb_data.tar.gz", "influxdb_config.tar.gz"


def dump(task: Dumping) -> ComponentRecord:
    """Dump the database and its configuration."""
    engine, container = task.site.engine(task.component), find(task.site, task.component)
    reading = Reading(exclude=ASIDE, searched=False)
    if container.state == "running":
        data, facts = _online(task, engine, container, reading), {"form": "online"}
        said = "consistent in itself (influx backup); each shard at its own moment"
    elif container.state in ("exited", "created"):
        data, facts = pack(task, DATA_FILE, engine, container, DATA, reading), {"form": "cold"}
        said = "cold: the database was stopped"
    else:
        raise Refused(
            "influxdb-neither-runs-nor-rests",
            f"{container.name} is {container.state}: it can only be backed up while it is running or stopped.",
            next_command=f"docker unpause {container.name}" if container.state == "paused" else "invoke env.status",
        )
    config = pack(task, CONFIG_FILE, engine, container, CONFIG, Reading(exclude=ASIDE, searched=False))
    return task.record(artifacts=(data, config), reading=reading, consistency=said, facts=facts)


def find(site: Site, component: Component) -> Container:
    """Return the database's container, whether or not it runs.

    Raises:
        NotFound: there is none.
    """
    assert component.environment is not None
    engine, project = site.engine(component), site.stack.project(component.environment)
    if site.stack.environments[component.environment].swarm:
        return task_containers.of_service(engine, project, str(component.service), "a dump or a restore")
    for one in containers.of_project(engine, project):
        if one.service == component.service:
            return one
    raise NotFound(
        "service-not-running",
        f"{component.service} has no container in {component.environment}, so it cannot be dumped or restored.",
        looked_at=[f"project {project} on {engine.address}"],
        next_command=f"invoke env.up --env {component.environment}",
    )


def opened(site: Site, component: Component) -> Influx:
    """Return a client for the running database.

    Raises:
        NotFound: it does not run.
    """
    container = find(site, component)
    if container.state != "running":
        raise NotFound(
            "service-not-running",
            f"{component.service} is {container.state} in {component.environment}.",
            next_command=f"invoke env.up --env {component.environment}",
        )
    return Influx(site.engine(component), container, component.token_file, otherwise=True)


def warn_refused(site: Site, influx: Influx) -> None:
    """Warn if the token was refused, and the one in the container's own configuration was used instead."""
    if influx.refused:
        site.say(
            f"warning: {influx.container.name} rejects the token in {influx.token_file}: {influx.refused[0]} used"
            f" the one in {CONFIG}/influx-configs of its container instead"
        )


def scratch() -> str:
    """Return the path of a new, unique folder for use in a container."""
    return f"/tmp/conche-backup-{uuid.uuid4().hex}"  # noqa: S108 - in the container, with a name that nobody can guess


def _online(task: Dumping, engine: Engine, container: Container, reading: Reading) -> Artifact:
    folder, watch = scratch(), Watch()
    with running.noted(task.site, task.component, container, folder=folder) as program:
        influx = Influx(engine, container, task.component.token_file, program.number, otherwise=True)
        influx.make(folder)
        for warning in influx.backup(folder):
            reading.leave_out("influx backup", f"said: {warning.strip()}", harmful=True)
        made = pack(task, DATA_FILE, engine, container, folder, reading, watch)
    warn_refused(task.site, influx)
    for problem in watch.problems(task.component.buckets):
        reading.leave_out("influx backup", problem, harmful=True)
    return made


def pack(
    task: Dumping,
    file: str,
    engine: Engine,
    container: Container,
    path: str,
    reading: Reading,
    watch: Watch | None = None,
) -> Artifact:
    """Archive a folder of the container, with names relative to it."""
    with compressing(task.folder / file) as compressor:
        writer = ArchiveWriter(compressor)
        with copied(engine, container.id, path) as stream:
            entries = tar_entries(stream, path.rpartition("/")[2], reading)
            store(watch.over(entries) if watch else entries, writer, reading)
        return task.artifact(file, writer.finish())


@dataclass
class Watch:
    """Checks the files of `influx backup` as they stream by: that each can be unpacked, and that none is missing.

    InfluxDB's own manifest has no checksums, and `influx restore` accepts a damaged shard without a word.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    manifests: dict[str, bytes] = field(default_factory=dict)

    def over(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Yield the entries unchanged, checking them as they are read."""
        for entry in entries:
            yield entry if entry.read is None else Entry(entry.info, self._reader(entry.read))

    def problems(self, buckets: Iterable[str]) -> list[str]:
        """Return what is wrong with the backup as a whole."""
        found = [f"wrote {name}, which does not unpack" for name in self.broken]
        if len(self.manifests) != 1:
            return [*found, f"wrote {len(self.manifests)} manifests instead of one"]
        [text] = self.manifests.values()
        try:
            manifest = json.loads(text)
            files = [manifest["kv"], *([manifest["sql"]] if manifest.get("sql") else []), *_shards(manifest["buckets"])]
            found += [
                f"did not write {one['fileName']} as its manifest says"
                for one in files
                if self.sizes.get(one["fileName"]) != one["size"]
            ]
            shards = {one["bucketName"]: len(list(_shards([one]))) for one in manifest["buckets"]}
        except (ValueError, KeyError, TypeError):
            return [*found, "wrote a manifest that cannot be read"]
        return found + [f"has no data of the bucket {name}" for name in buckets if not shards.get(name)]

    def _reader(
        self, read: Callable[[], tuple[TarInfo, Iterator[bytes]]]
    ) -> Callable[[], tuple[TarInfo, Iterator[bytes]]]:
        def watched() -> tuple[TarInfo, Iterator[bytes]]:
            info, blocks = read()
            return info, self._passing(info.name, blocks)

        return watched

    def _passing(self, name: str, blocks: Iterator[bytes]) -> Iterator[bytes]:
        from isal import isal_zlib

        unpack = isal_zlib.decompressobj(31) if name.endswith(".gz") else None
        size, kept, good = 0, [], True
        for block in blocks:
            size += len(block)
            if name.endswith(".manifest"):
                kept.append(block)
            if unpack is not None and good:
                good = _unpacks(unpack, block)
            yield block
        self.sizes[name] = size
        if name.endswith(".manifest"):
            self.manifests[name] = b"".join(kept)
        if unpack is not None and not (good and unpack.eof):
            self.broken.append(name)


def _unpacks(unpack: Any, block: bytes) -> bool:
    try:
        unpack.decompress(block)
    except Exception:  # noqa: BLE001 - isal has error classes of its own; any of them means that the file is broken
        return False
    return True


def _shards(buckets: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for bucket in buckets:
        for policy in bucket["retentionPolicies"]:
            for group in policy["shardGroups"]:
                yield from group["shards"]
