"""The sections `backup` and `notifications` of stack.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ByteSize, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from conche.stack import schedule
from conche.stack.section import Name, SecretName, Section, VariableName

__all__ = ["KINDS", "Backup", "BackupKind", "Component", "Minimum", "Notifications", "Offsite", "Retention"]

BackupKind = Literal["daily", "weekly", "monthly"]
KINDS: tuple[BackupKind, ...] = ("daily", "weekly", "monthly")

Driver = Literal[
    "archive", "command", "files", "influxdb", "logs", "mariadb", "postgres", "redis", "secrets", "sqlite", "volume"
]
RelativePath = Annotated[str, Field(pattern=r"^[^/~][^\x00]*$")]
Schedule = Annotated[
    str,
    AfterValidator(schedule.checked),
    WithJsonSchema({"type": "string", "pattern": r"^\s*([0-9*/,-]+\s+){4}[0-9*/,-]+\s*$"}),
]
Size = Annotated[
    ByteSize, Field(ge=0), WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]})
]
Argv = Annotated[tuple[str, ...], Field(min_length=1)]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100)]

_NEEDS: Mapping[str, tuple[str, ...]] = {
    "archive": ("paths",),
    "files": ("paths",),
    "logs": ("paths",),
    "volume": ("volume", "environment"),
    "influxdb": ("service", "environment"),
    "command": ("service", "environment", "dump", "restore"),
    "mariadb": ("service", "environment"),
    "postgres": ("service", "environment"),
    "redis": ("service", "environment"),
    "sqlite": ("service", "environment", "database"),
    "secrets": (),
}
_MAY: Mapping[str, tuple[str, ...]] = {
    "archive": ("optional", "exclude", "services", "environment", "mounted", "privileged"),
    "files": ("optional", "exclude", "services", "environment", "mounted", "privileged"),
    "logs": ("days", "mounted"),
    "volume": ("exclude", "consistency", "idle", "drill", "unpacked", "privileged", "services"),
    "influxdb": ("buckets", "token_file", "services", "check"),
    "command": ("file", "services", "check"),
    "mariadb": ("database", "user", "services", "check"),
    "postgres": ("database", "user", "services", "check"),
    "redis": ("user", "services", "check"),
    "sqlite": ("services", "check"),
    "secrets": (),
}


class Retention(Section):
    """When a backup of one kind may be deleted."""

    days: int = Field(ge=1, description="a backup younger than this is kept")
    least: int = Field(ge=1, description="and so are this many newest complete and verified ones, however old")


class Minimum(Section):
    """How much a component has at least."""

    size: Size = Field(default=ByteSize(0), description="bytes before compression, or text such as 10 MB")
    entries: int = Field(default=0, ge=0, description="files, folders and links; a dump is one")


class Component(Section):
    """One thing in a backup, and how it is dumped and restored."""

    driver: Driver = Field(description="how it is dumped and restored")
    required: bool = Field(default=True, description="whether a backup without it is degraded")
    min: Minimum | None = Field(default=None, description="with less than this a backup is degraded")
    mounted: bool = Field(default=False, description="whether its paths are on a separate disk, which must be mounted")
    paths: tuple[RelativePath, ...] = Field(
        default=(), description="archive: folders; files, logs: glob patterns; relative to stack.yaml"
    )
    optional: tuple[RelativePath, ...] = Field(default=(), description="paths that may be missing")
    exclude: tuple[str, ...] = Field(default=(), description="names or patterns of files and folders to leave out")
    environment: Name | None = Field(default=None, description="environment whose containers or volumes are meant")
    service: str | None = Field(default=None, description="service in whose container the dump runs")
    services: tuple[str, ...] = Field(default=(), description="further services that stop while it is restored")
    volume: str | None = Field(default=None, description="named volume, or absolute path of a folder, on the engine")
    consistency: Literal["pause", "stop", "live"] = Field(
        default="pause", description="what happens to containers that use the volume while it is read"
    )
    idle: Mapping[str, Argv] = Field(
        default_factory=dict,
        description="volume: services that must be idle first, and argv run in each that exits with 0 if it is",
    )
    privileged: bool = Field(
        default=False, description="whether set-user-id and set-group-id bits and file capabilities of files come back"
    )
    unpacked: bool = Field(default=False, description="volume: plain files in the backup instead of one archive")
    drill: bool = Field(
        default=False, description="volume: in a drill, also start a copy of the service on the restored data"
    )
    days: int = Field(default=7, ge=1, description="logs: files changed within this many days")
    buckets: tuple[str, ...] = Field(default=(), description="influxdb: buckets that must have data in a backup")
    token_file: str = Field(
        default="/run/secrets/influxdb_token", description="influxdb: file in the container with the operator token"
    )
    dump: tuple[str, ...] = Field(default=(), description="command: argv that writes the dump to stdout")
    restore: tuple[str, ...] = Field(default=(), description="command: argv that reads the dump from stdin")
    check: tuple[str, ...] = Field(
        default=(),
        description="argv in the service's container that summarises its current data; default of a database: its rows",
    )
    database: str = Field(
        default="",
        max_length=1000,
        pattern=r"^[^\x00-\x1f]*$",
        description="the only database to back up, of all those of a server; sqlite: path of the file in the container",
    )
    user: str = Field(
        default="",
        max_length=100,
        pattern=r"^[^\x00-\x1f]*$",
        description="the database's user who dumps and restores; default: that of the official image",
    )
    file: FileName | None = Field(default=None, description="command: name of the dump; default: the component's")

    @model_validator(mode="after")
    def _fits_its_driver(self) -> Component:
        absent = [name for name in _NEEDS[self.driver] if not getattr(self, name)]
        known = {"driver", "required", "min", *_NEEDS[self.driver], *_MAY[self.driver]}
        foreign = sorted(self.model_fields_set - known)
        if any(".." in Path(path).parts for path in self.paths):
            raise PydanticCustomError("driver_fields", "paths below stack.yaml, without ..")
        if self.services and not self.environment:
            absent.append("environment")
        if self.service in self.services:
            raise PydanticCustomError(
                "driver_fields",
                "services other than its own: {service} must run to load the data",
                {"service": self.service},
            )
        if absent or foreign:
            reason = " and ".join(
                [
                    *([f"needs {', '.join(absent)}"] if absent else []),
                    *([f"does not take {', '.join(foreign)}"] * bool(foreign)),
                ]
            )
            raise PydanticCustomError(
                "driver_fields", "what its driver takes: {driver} {reason}", {"driver": self.driver, "reason": reason}
            )
        return self


class Offsite(Section):
    """A restic repository that `backup.sync` fills."""

    repository: str = Field(description="folder, sftp:, s3: or rclone: address, in restic's form")
    password: SecretName = Field(description="secret with the repository's password")
    variables: Mapping[VariableName, SecretName] = Field(
        default_factory=dict, description="variables for restic, such as AWS_ACCESS_KEY_ID, and their secrets"
    )
    daily: int = Field(default=14, ge=1, description="newest daily backups that are kept")
    weekly: int = Field(default=8, ge=1, description="newest weekly ones")
    monthly: int = Field(default=12, ge=1, description="newest monthly ones")


_RETENTION: Mapping[BackupKind, Retention] = {
    "daily": Retention(days=7, least=7),
    "weekly": Retention(days=28, least=4),
    "monthly": Retention(days=90, least=3),
}
_SCHEDULE: Mapping[BackupKind, str] = {"daily": "0 2 * * *", "weekly": "0 3 * * 0", "monthly": "0 4 1 * *"}


class Backup(Section):
    """What is backed up, where to, how often, and how long it is kept."""

    target: Path | None = Field(default=None, description="folder of the backups; default: ../<stack name>-backups")
    recipients: tuple[str, ...] = Field(
        default=(), description="recovery recipients (age1… or an ssh public key) for the age key inside a backup"
    )
    retention: Mapping[BackupKind, Retention] = Field(default_factory=dict, description="when backups are deleted")
    schedule: Mapping[BackupKind, Schedule] = Field(
        default_factory=dict, description="minute hour day month weekday, for each kind"
    )
    ping: SecretName | None = Field(
        default=None, description="secret with a URL to ping at start (/start), success and failure (/fail)"
    )
    lock_wait: float = Field(
        default=600.0,
        ge=0,
        allow_inf_nan=False,
        description="seconds that a backup or drill waits for another command on an environment it uses",
    )
    offsite: Offsite | None = Field(default=None, description="restic repository that backup.sync fills")
    components: Mapping[Name, Component] = Field(min_length=1, description="what is in a backup, by name")

    def kept(self, kind: BackupKind) -> Retention:
        """Return the retention of a kind: the file's, or else the documented default."""
        return self.retention.get(kind, _RETENTION[kind])

    def at(self, kind: BackupKind) -> str:
        """Return the cron fields of a kind: the file's, or else the default."""
        return self.schedule.get(kind, _SCHEDULE[kind])


class Notifications(Section):
    """Who is told when something fails, or is done."""

    to: tuple[SecretName, ...] = Field(description="secrets with addresses, in Apprise's form")
