"""Decide which data of a stack to back up, and with which driver, by the image's name, the port and the path."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from conche.init.environments import slug

__all__ = ["Data", "proposals"]


@dataclass(frozen=True)
class Data:
    """Data of one service.

    Attributes:
        name: of the component in stack.yaml.
        source: the volume by its name on the engine, or the folder on the host.
        driver: of the component; empty if nothing shows that it is data at all.
        fields: the driver's keys besides `environment`.
        why: what was recognised.
        choice: the driver to suggest if none is proposed.
    """

    name: str
    service: str
    source: str
    driver: str
    fields: Mapping[str, Any]
    why: str
    choice: str = "volume"


@dataclass(frozen=True)
class _Kind:
    """A kind of database: how to recognise it, and its driver or its dump; without either its files are backed up."""

    called: str
    images: str
    port: int
    paths: tuple[str, ...]
    driver: str = ""
    dump: str = ""
    restore: str = ""


_POSTGRES = '-U "${POSTGRES_USER:-postgres}" "${POSTGRES_DB:-${POSTGRES_USER:-postgres}}"'


def _mongo(tool: str) -> str:
    """Return the command line of one of MongoDB's tools, with the password in a file: everybody can read an argv.

    Sources: https://hub.docker.com/_/mongo, https://www.mongodb.com/docs/database-tools/mongodump/
    """
    user = '${MONGO_INITDB_ROOT_USERNAME:-$(cat "${MONGO_INITDB_ROOT_USERNAME_FILE:-/dev/null}")}'
    given = '${MONGO_INITDB_ROOT_PASSWORD:-$(cat "${MONGO_INITDB_ROOT_PASSWORD_FILE:-/dev/null}")}'
    quoted = "sed \"s/'/''/g; s/.*/password: '&'/\""
    login = '${user:+--username "$user" --authenticationDatabase admin --config /dev/fd/3}'
    # The archive goes through the standard streams, so the file with the password is another one.
    return f'exec 4<&0; user="{user}"; printf %s "{given}" | {quoted} | {tool} --quiet --archive {login} 3<&0 0<&4'


KINDS = (
    _Kind("Postgres", r"postgres|postgis|pgvector", 5432, ("/var/lib/postgresql",), "postgres"),
    # Its own procedure needs a line before and after: https://docs.timescale.com/self-hosted/latest/backup-and-restore
    _Kind(
        "TimescaleDB", r"timescale", 5432, (), "command",
        f"exec pg_dump --clean --if-exists {_POSTGRES}",
        f"exec psql --quiet --single-transaction -v ON_ERROR_STOP=1 {_POSTGRES}",
    ),
    _Kind("MariaDB", r"mariadb", 3306, (), "mariadb"),
    _Kind("MySQL", r"mysql|percona", 3306, ("/var/lib/mysql",), "mariadb"),
    _Kind(
        "MongoDB", r"mongo", 27017, ("/data/db",), "command",
        _mongo("mongodump"),
        _mongo("mongorestore --drop"),
    ),
    _Kind("InfluxDB", r"influxdb", 8086, ("/var/lib/influxdb2",)),
    _Kind("Redis", r"redis|valkey", 6379, (), "redis"),
    _Kind("KeyDB", r"keydb", 6379, ()),
)  # fmt: skip

_BESIDE = re.compile(r"exporter|express|admin|backup|commander|insight|proxy")
"""Found in the names of programs that are used with a database but are not one."""

_SQLITE = re.compile(r"sqlite|\.(?:db|sqlite3?)\b", re.IGNORECASE)

_DISPOSABLE = re.compile(r"(?:^|[-_./])(?:node_modules|cache|tmp|temp|venv|run|sockets?)(?:$|[-_./])", re.IGNORECASE)
"""Names of what is made again when it is gone."""


_SYSTEM = ("/proc", "/sys", "/dev", "/run", "/var/run", "/lib/modules", "/etc/localtime", "/etc/timezone")
"""Where there are devices, sockets and the host's own files, and no data."""


def proposals(root: Path, services: Mapping[str, Any], volumes: Mapping[str, Any]) -> list[Data]:
    """Return the data of a stack's services.

    Args:
        root: of the repository; folders in it are backed up by their paths in it.
        services: as Compose renders them.
        volumes: the section of the rendered document.
    """
    found: dict[str, Data] = {}
    for service, body in services.items():
        for data in _of_service(root, service, body, volumes):
            if data.source not in {one.source for one in found.values()}:
                name, number = data.name, 2
                while name in found:
                    name, number = f"{data.name}-{number}", number + 1
                writers = _writers(service, services) if "service" in data.fields else []
                more = {"services": writers} if writers else {}
                found[name] = replace(data, name=name, fields={**data.fields, **more})
    return list(found.values())


def _of_service(root: Path, service: str, body: Mapping[str, Any], volumes: Mapping[str, Any]) -> Iterator[Data]:
    mounts = [one for one in body.get("volumes") or [] if _writable(one, body)]
    kind = _kind(body, mounts)
    dumped = False
    for mount in mounts:
        source, target = _source(mount, volumes), str(mount.get("target", ""))
        if not source:
            continue
        named = mount["type"] == "volume"
        key = slug(str(mount.get("source") if named else f"{service}-{PurePosixPath(target).name}"), "data")
        if kind is not None and not dumped and _holds(kind, target):
            dumped = True
            driver, fields = _dumped(kind, service, source, body)
            yield Data(slug(service, "data"), service, source, driver, fields, kind.called)
        elif any(map(_DISPOSABLE.search, (PurePosixPath(source).name, target))):
            yield Data(key, service, source, "", {"volume": source}, "disposable, judging by its name")
        elif named:
            lite = _SQLITE.search(str(body.get("environment") or ""))
            fields = {"volume": source, **({"consistency": "stop"} if lite else {})}
            yield Data(key, service, source, "volume", fields, "SQLite" if lite else "a named volume")
        else:
            inside = Path(source).is_relative_to(root)
            fields = {"paths": [str(Path(source).relative_to(root))]} if inside else {"volume": source}
            choice = "archive" if inside else "volume"
            yield Data(key, service, source, "", fields, "a folder that the service may write to", choice)


def _writers(service: str, services: Mapping[str, Any]) -> list[str]:
    """Return what writes to a database: the services that depend on it, which stop while it is restored."""
    return [name for name, body in services.items() if service in (body.get("depends_on") or ())]


def _writable(mount: Mapping[str, Any], body: Mapping[str, Any]) -> bool:
    """Return whether a mount may hold data: not if it is read-only, one file, or code the service is built from."""
    if mount["type"] == "bind":
        source, context = Path(str(mount.get("source"))), str((body.get("build") or {}).get("context") or "")
        with contextlib.suppress(OSError):  # a folder closed to this user may still hold a service's data
            if source.exists() and not source.is_dir():
                return False
        if context.startswith("/") and Path(context).is_relative_to(source):
            return False
    return mount["type"] in ("volume", "bind") and not mount.get("read_only")


def _source(mount: Mapping[str, Any], volumes: Mapping[str, Any]) -> str:
    """Return a volume's name on the engine or a folder's path; empty for sockets, system folders, unnamed volumes."""
    source = str(mount.get("source") or "")
    if mount["type"] == "volume":
        return str((volumes.get(source) or {}).get("name") or "")
    of_the_system = source == "/" or any(Path(source).is_relative_to(one) for one in _SYSTEM)
    return "" if source.endswith(".sock") or of_the_system else source


def _kind(body: Mapping[str, Any], mounts: list[Mapping[str, Any]]) -> _Kind | None:
    image = str(body.get("image") or "").rpartition("/")[2].partition("@")[0].partition(":")[0].lower()
    if _BESIDE.search(image):
        return None
    for kind in KINDS:
        if not body.get("build") and re.match(rf"(?:[\w.]+-)?(?:{kind.images})", image):
            return kind
    targets = [str(mount.get("target", "")) for mount in mounts]
    ports = {int(one["target"]) for one in body.get("ports") or [] if str(one.get("target", "")).isdigit()}
    ports |= {int(one) for one in body.get("expose") or [] if str(one).isdigit()}
    return next(
        (
            kind
            for kind in KINDS
            if any(target.startswith(path) for path in kind.paths for target in targets)
            or (kind.port in ports and not body.get("build") and targets)
        ),
        None,
    )


def _hides_password(body: Mapping[str, Any]) -> bool:
    """Return whether only a Redis itself knows its password: by its command line, and by no variable."""
    known = any(
        re.match(r"(REDIS|VALKEY)_PASSWORD(_FILE)?$|REDISCLI_AUTH", name) for name in body.get("environment") or ()
    )
    return "--requirepass" in str(body.get("command") or "") and not known


def _holds(kind: _Kind, target: str) -> bool:
    """Return whether a path in the container holds the database's data, and not its configuration or scripts."""
    return not target.startswith(("/etc", "/docker-entrypoint")) or target.startswith(kind.paths or ("\0",))


def _dumped(kind: _Kind, service: str, source: str, body: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if kind.driver and not kind.dump and not _hides_password(body):
        return kind.driver, {"service": service}
    if kind.dump:
        return kind.driver, {
            "service": service,
            "dump": ["sh", "-c", kind.dump],
            "restore": ["sh", "-c", kind.restore],
            "file": f"{slug(service, 'data')}.{'archive' if kind.called == 'MongoDB' else 'sql'}",
        }
    if kind.called == "InfluxDB" and not re.search(r":v?[13]\b", str(body.get("image", ""))):
        return "influxdb", {"service": service}
    return "volume", {"volume": source, **({"consistency": "stop"} if kind.called == "InfluxDB" else {})}
