"""Step, Plan, Outcome: what a command will do, does, and has done.

A plan is a value. The same plan is the dry run, the table, the JSON and what tests compare; nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

__all__ = ["Action", "Json", "Kind", "Outcome", "Plan", "Step", "Table"]

Json = object
"""Anything `json.dumps` takes; `Secret` and dataclasses are handled by the module that prints."""


class Action(StrEnum):
    """What a step does; the glossary says what each means."""

    ADD = "add"
    ADOPT = "adopt"
    AWAIT = "await"
    BUILD = "build"
    CANCEL = "cancel"
    COLLECT = "collect"
    COMMIT = "commit"
    COPY = "copy"
    CREATE = "create"
    DECLARE = "declare"
    DELETE = "delete"
    DRAIN = "drain"
    DUMP = "dump"
    EXCHANGE = "exchange"
    FETCH = "fetch"
    FINISH = "finish"
    FREEZE = "freeze"
    INSTALL = "install"
    KEEP = "keep"
    LOAD = "load"
    LOG_OUT = "log-out"
    PLACE = "place"
    PROBE = "probe"
    PROTECT = "protect"
    PROVIDE = "provide"
    PUBLISH = "publish"
    PULL = "pull"
    PUSH = "push"
    PUT = "put"
    RECORD = "record"
    RECREATE = "recreate"
    REGISTER = "register"
    REMOVE = "remove"
    REPLACE = "replace"
    RESTART = "restart"
    RESTORE = "restore"
    RETURN = "return"
    REVERT = "revert"
    ROTATE = "rotate"
    ROTATE_VALUE = "rotate-value"
    RUN = "run"
    SCALE = "scale"
    SEND = "send"
    SET = "set"
    SETTLE = "settle"
    START = "start"
    STOP = "stop"
    STORE = "store"
    SWEEP = "sweep"
    SWITCH = "switch"
    TAG = "tag"
    THAW = "thaw"
    TRY = "try"
    UNINSTALL = "uninstall"
    UNPACK = "unpack"
    UNPAUSE = "unpause"
    UNSET = "unset"
    UPDATE = "update"
    VERIFY = "verify"
    WATCH = "watch"
    WRITE = "write"


class Kind(StrEnum):
    """The kind of thing to which a step does it."""

    ACTIONS = "actions"
    BACKUP = "backup"
    BRANCH = "branch"
    BUCKET = "bucket"
    COMPONENT = "component"
    CONFIGURATION = "configuration"
    CONTAINER = "container"
    EDGE = "edge"
    ENVIRONMENT = "environment"
    FILE = "file"
    GIT_CREDENTIALS = "git's credentials"
    IMAGE = "image"
    JOB = "job"
    JOURNAL = "journal"
    KEY = "key"
    LOGIN = "login"
    NETWORK = "network"
    NODE = "node"
    NOTE = "note"
    PORT = "port"
    RECIPIENT = "recipient"
    REGISTRY = "registry"
    RELEASE = "release"
    RELEASE_COMMAND = "release-command"
    REMOTE = "remote"
    REPOSITORY = "repository"
    RUN = "run"
    RUNNER = "runner"
    RUNNERS = "runners"
    SCHEDULE = "schedule"
    SECRET = "secret"  # noqa: S105 - a kind, not a value
    SECRETS = "secrets"
    SERVICE = "service"
    STACK = "stack"
    TIMER = "timer"
    VOLUME = "volume"
    WORKFLOW = "workflow"


@dataclass(frozen=True)
class Step:
    """One thing a command does.

    Attributes:
        name: which one of its kind, for example `localhost:5000/chocolate-factory:develop`; empty if there is only one.
        cause: why, for example `no such image on the engine`.
        undo: how it is taken back when a later step fails; empty if that is not needed.
        destroys: whether it deletes data.
    """

    action: Action
    kind: Kind
    name: str
    cause: str
    undo: str = ""
    destroys: bool = False

    @property
    def subject(self) -> str:
        """What it is done to, for example `image localhost:5000/chocolate-factory:develop`."""
        return f"{self.kind} {self.name}" if self.name else str(self.kind)

    def __str__(self) -> str:
        return f"{self.action} {self.subject}"

    def as_json(self) -> dict[str, object]:
        """Return what the JSON document says of it."""
        return {
            "action": self.action.value,
            "subject": self.subject,
            "cause": self.cause,
            "undo": self.undo,
            "destroys": self.destroys,
        }


@dataclass(frozen=True)
class Plan:
    """The steps of a command, in order."""

    steps: tuple[Step, ...] = ()

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def as_json(self) -> list[dict[str, object]]:
        """Return one object for each step."""
        return [step.as_json() for step in self.steps]


@dataclass(frozen=True)
class Table:
    """Text in rows and columns, without colour or width: the module that prints decides both."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a command has done, or in a dry run would do.

    Attributes:
        value: the answer, as JSON can carry it.
        changed: whether anything is different now.
        plan: the steps that were, or would be, taken.
        tables: the answer for people.
        lines: short sentences after the tables, such as what to type next.
        warnings: shown on stderr, and in the JSON document.
        exit_code: 0, or 1 if a check found something.
        raw: text that is the answer by itself (logs, a rendered file), printed as it is.
    """

    value: Json = None
    changed: bool = False
    plan: Plan = field(default_factory=Plan)
    tables: Sequence[Table] = ()
    lines: Sequence[str] = ()
    warnings: Sequence[str] = ()
    exit_code: int = 0
    raw: str | None = None
