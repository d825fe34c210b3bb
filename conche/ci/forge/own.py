"""The Forgejo that is a service of this stack: its address, what its own command makes, and the logs in its container.

https://forgejo.org/docs/latest/admin/command-line/
"""

from __future__ import annotations

import enum
import os
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from conche.ci.workflows.runners import SERVERS
from conche.command import Invocation
from conche.engine.compose import Compose
from conche.engine.written import services
from conche.errors import KeyUnusable
from conche.files import write_atomic
from conche.process import Completed, run
from conche.secret import Secret
from conche.session import open_compose

__all__ = ["FORGEJO", "NOT_IN_NAMES", "PASSWORD", "LogForm", "OwnForge"]

FORGEJO = SERVERS[0]
"""Part of the image name of a service that is Forgejo itself."""

PASSWORD = Path(".sops/forge-password")
"""Where the first password of an account made here is kept for its owner to read, relative to stack.yaml."""

SCOPES = "write:repository,write:user"
"""What `ci.*` needs the token for: creating the repository, and everything in it."""

READ_LOG = """
for folder in /var/lib/gitea /data/gitea; do
  cd "$folder/actions_log" 2>/dev/null || continue
  [ ! -f "$1" ] || exec tail -c "$2" "$1"
  [ ! -f "$1.zst" ] || exit 3
done
exit 4
"""
"""Prints the end of a log: where the rootless image keeps it, or the other one."""

NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9]+")
_REPOSITORY = re.compile(r"(?!\.+/)[\w.-]+/(?!\.+$)[\w.-]+", re.ASCII)
_ROW = re.compile(r"\d+\s+(?P<name>\S+)\s+\S+")
_SHOWN = re.compile(r"password is '(?P<password>.+)'")


class LogForm(enum.Enum):
    """How the server keeps a log."""

    PLAIN = enum.auto()
    COMPRESSED = enum.auto()
    NOT_THERE = enum.auto()
    """Not in a file: it is in the database until the job has ended, or it was deleted."""


@dataclass(frozen=True)
class OwnForge:
    """The Forgejo that is a service of this stack.

    Attributes:
        address: its own ROOT_URL, without a slash at its end.
    """

    compose: Compose
    service: str
    address: str

    @classmethod
    def find(cls, call: Invocation) -> OwnForge | None:
        """Find the first Forgejo in the Compose files; None if there is none."""
        for environment, one in call.stack.environments.items():
            written = [service.body for file in one.compose for service in services(call.root / file)]
            if not any(FORGEJO in str(body.get("image", "")) for body in written):
                continue
            compose = open_compose(call, environment)
            rendered = compose.configuration(hashed=False).rendered.get("services") or {}
            for name, body in rendered.items():
                if FORGEJO in str(body.get("image", "")):
                    said = str((body.get("environment") or {}).get("FORGEJO__server__ROOT_URL") or "")
                    return cls(compose, name, (said or "http://localhost:3000").rstrip("/"))
        return None

    def accounts(self) -> list[str]:
        """Return the existing accounts, the first one first."""
        listed = self._command("list").require("listing Forgejo's accounts")
        return [row["name"] for row in map(_ROW.match, listed.stdout.raw.splitlines()) if row]

    def make_account(self, call: Invocation, name: str) -> None:
        """Make an administrator's account, and keep its first password for whoever is to sign in."""
        email = f"{name}@localhost.localdomain"
        options = ("--admin", "--random-password", "--must-change-password=false", "--email", email)
        said = self._command("create", "--username", name, *options)
        shown = _SHOWN.search(said.stdout.raw)
        if shown:
            call.output.redact.learn([Secret(shown["password"])])
            file = call.root / PASSWORD
            file.parent.mkdir(mode=0o700, exist_ok=True)
            write_atomic(file, f"{name}\n{shown['password']}\n".encode(), mode=0o600)
        said.require(f"creating the account {name}")

    def token(self, call: Invocation, name: str) -> Secret:
        """Make a new token for an account; one left by an interrupted command stays, recognisable by its name."""
        host, moment = NOT_IN_NAMES.sub("-", socket.gethostname()), time.strftime("%Y%m%dT%H%M%S")
        called = f"conche-{host}-{moment}-{time.time_ns() % 10**6}"
        options = ("--username", name, "--token-name", called, "--scopes", SCOPES, "--raw")
        said = self._command("generate-access-token", *options)
        lines = said.stdout.raw.strip().splitlines()
        made = Secret(lines[-1].strip() if lines else "")
        call.output.redact.learn([made] if made.reveal() else [])
        said.require(f"creating a token for {name}")
        if not re.fullmatch(r"[0-9a-zA-Z]{20,}", made.reveal()):
            text = f"Forgejo's answer has no token for {name}."
            raise KeyUnusable("server-token-missing", text, next_command="export FORGEJO_TOKEN_FILE=PATH")
        return made

    def log(self, repository: str, task: int, most: int) -> tuple[LogForm, str]:
        """Return how a job's log is kept, and if it is plain text its last `most` bytes.

        Source: `logFileName` in models/actions/task.go, `modules/actions/log.go` of Forgejo 15.

        Args:
            repository: OWNER/NAME, in the server's own spelling.
            task: the id that the server's list of tasks gives the job.

        Raises:
            ToolFailed: the container could not be asked.
        """
        if _REPOSITORY.fullmatch(repository) is None or task < 1:
            return LogForm.NOT_THERE, ""
        file = f"{repository}/{task % 256:02x}/{task}.log"
        said = self._inside("sh", "-c", READ_LOG, "sh", file, str(most), exact=True)
        if said.exit_code in (3, 4):
            return LogForm.COMPRESSED if said.exit_code == 3 else LogForm.NOT_THERE, ""
        return LogForm.PLAIN, os.fsencode(said.require("reading the log").stdout.raw).decode(errors="replace")

    def _command(self, *words: str) -> Completed:
        return self._inside("forgejo", "admin", "user", *words)

    def _inside(self, *words: str, exact: bool = False) -> Completed:
        argv = self.compose.argv("exec", "--no-TTY", "--user", "git", self.service, *words)
        environment, redact = self.compose.environment(), self.compose.redact
        return run(argv, extra_env=environment, redact=redact, timeout=120, exact=exact)
