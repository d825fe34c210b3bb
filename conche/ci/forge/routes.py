"""Which server has which call, since which version.

Source: `templates/swagger/v1_json.tmpl` of Gitea 1.21 to 1.26 and Forgejo 1.21 to 16, at their tags.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["ROUTES", "Route", "Server", "find", "first_versions", "server_of"]

_REPO = "/repos/{repository}"
_ACTIONS = f"{_REPO}/actions"


@dataclass(frozen=True)
class Server:
    """The kind and version of the server at an address.

    Attributes:
        kind: gitea or forgejo.
        version: major and minor, to compare.
        text: the version as the server gives it.
    """

    kind: str
    version: tuple[int, int]
    text: str

    def __str__(self) -> str:
        return f"{self.kind.capitalize()} {self.text.partition('+')[0]}"


@dataclass(frozen=True)
class Route:
    """One call on one kind of server.

    Attributes:
        since: the first version that has it.
        until: the first version that no longer has it.
    """

    operation: str
    kind: str
    since: tuple[int, int]
    method: str
    path: str
    until: tuple[int, int] | None = None

    def answers(self, server: Server) -> bool:
        within = self.until is None or server.version < self.until
        return self.kind == server.kind and self.since <= server.version and within


ROUTES = (
    Route("secret-put", "gitea", (1, 21), "PUT", f"{_ACTIONS}/secrets/{{name}}"),
    Route("secret-put", "forgejo", (1, 21), "PUT", f"{_ACTIONS}/secrets/{{name}}"),
    Route("secret-list", "gitea", (1, 22), "GET", f"{_ACTIONS}/secrets"),
    Route("secret-list", "forgejo", (8, 0), "GET", f"{_ACTIONS}/secrets"),
    Route("registration-token", "gitea", (1, 24), "POST", f"{_ACTIONS}/runners/registration-token"),
    Route("registration-token", "gitea", (1, 22), "GET", f"{_ACTIONS}/runners/registration-token", until=(1, 24)),
    Route("registration-token", "forgejo", (9, 0), "GET", f"{_ACTIONS}/runners/registration-token"),
    Route("registration-token", "forgejo", (7, 0), "GET", f"{_REPO}/runners/registration-token", until=(9, 0)),
    Route("runner-list", "gitea", (1, 24), "GET", f"{_ACTIONS}/runners"),
    Route("runner-list", "forgejo", (15, 0), "GET", f"{_ACTIONS}/runners"),
    Route("runner-create", "forgejo", (15, 0), "POST", f"{_ACTIONS}/runners"),
    Route("runner-remove", "forgejo", (15, 0), "DELETE", f"{_ACTIONS}/runners/{{runner}}"),
    Route("job-waiting", "forgejo", (11, 0), "GET", f"{_ACTIONS}/runners/jobs"),
    Route("task-list", "gitea", (1, 23), "GET", f"{_ACTIONS}/tasks"),
    Route("task-list", "forgejo", (8, 0), "GET", f"{_ACTIONS}/tasks"),
    Route("run-list", "gitea", (1, 25), "GET", f"{_ACTIONS}/runs"),
    Route("run-list", "forgejo", (12, 0), "GET", f"{_ACTIONS}/runs"),
    Route("run-jobs", "gitea", (1, 25), "GET", f"{_ACTIONS}/runs/{{run}}/jobs"),
    Route("run-jobs", "forgejo", (16, 0), "GET", f"{_ACTIONS}/runs/{{run}}/jobs"),
    # Gitea 1.24 has it too, but offers no way to learn the job's id: its list gives those of the tasks.
    Route("job-log", "gitea", (1, 25), "GET", f"{_ACTIONS}/jobs/{{job}}/logs"),
    Route("job-log", "forgejo", (16, 0), "GET", f"{_ACTIONS}/jobs/{{job}}/logs"),
    Route("rerun", "gitea", (1, 26), "POST", f"{_ACTIONS}/runs/{{run}}/rerun"),
    Route("rerun-failed", "gitea", (1, 26), "POST", f"{_ACTIONS}/runs/{{run}}/rerun-failed-jobs"),
    Route("cancel", "forgejo", (16, 0), "POST", f"{_ACTIONS}/runs/{{run}}/cancel"),
    Route("dispatch", "gitea", (1, 24), "POST", f"{_ACTIONS}/workflows/{{workflow}}/dispatches"),
    Route("dispatch", "forgejo", (8, 0), "POST", f"{_ACTIONS}/workflows/{{workflow}}/dispatches"),
)


def find(server: Server, operation: str) -> Route | None:
    """Return the route of an operation on a server; None if its version has none."""
    return next((route for route in ROUTES if route.operation == operation and route.answers(server)), None)


def first_versions(operation: str) -> str:
    """Say which servers have an operation, such as `Gitea from 1.26 on`."""
    since: dict[str, tuple[int, int]] = {}
    for route in ROUTES:
        if route.operation == operation:
            since[route.kind] = min(since.get(route.kind, route.since), route.since)
    names = (f"{kind.capitalize()} from {_text(version)} on" for kind, version in since.items())
    return ", ".join(names)


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}" if version < (7, 0) else str(version[0])


def server_of(said: str, *, forgejo: bool) -> Server:
    """Return the server with this version text; from Forgejo 7 on it names a Gitea too, as in 11.0.1+gitea-1.22.0."""
    numbers = [int(number) for number in re.findall(r"\d+", said)[:2]]
    major, minor = (*numbers, 0, 0)[:2]
    return Server("forgejo" if forgejo or "+gitea" in said else "gitea", (major, minor), said)
