"""The forge's side: its address, and an account and a token made with the server's own command.

https://forgejo.org/docs/latest/admin/command-line/
"""

from __future__ import annotations

import getpass
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from conche.ci.forge.where import place_said
from conche.ci.workflows.runners import SERVERS
from conche.command import Invocation
from conche.engine.compose import Compose
from conche.engine.written import services
from conche.errors import KeyUnusable, Refused
from conche.files import write_atomic
from conche.process import Completed, run
from conche.secret import Secret
from conche.session import open_compose

__all__ = ["PASSWORD", "OwnForge", "place"]

FORGEJO = SERVERS[0]
"""Part of the image name of a service that is Forgejo itself."""

PASSWORD = Path(".sops/forge-password")
"""Where the first password of an account made here is kept for its owner to read, relative to stack.yaml."""

SCOPES = "write:repository,write:user"
"""What `ci.*` needs the token for: creating the repository, and everything in it."""

_NAME = re.compile(r"[^A-Za-z0-9]+")
_ROW = re.compile(r"\d+\s+(?P<name>\S+)\s+\S+")
_SHOWN = re.compile(r"password is '(?P<password>.+)'")


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
            written = [body for file in one.compose for body in services(call.root / file).values()]
            if not any(FORGEJO in str(body.get("image", "")) for body in written if isinstance(body, dict)):
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
        listed = self._command("list").require("asking Forgejo for its accounts")
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
        said.require(f"making the account {name}")

    def token(self, call: Invocation, name: str) -> Secret:
        """Make a new token for an account; one left by an interrupted command stays, recognisable by its name."""
        called = (
            f"conche-{_NAME.sub('-', socket.gethostname())}-{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**6}"
        )
        options = ("--username", name, "--token-name", called, "--scopes", SCOPES, "--raw")
        said = self._command("generate-access-token", *options)
        lines = said.stdout.raw.strip().splitlines()
        made = Secret(lines[-1].strip() if lines else "")
        call.output.redact.learn([made] if made.reveal() else [])
        said.require(f"making a token for {name}")
        if not re.fullmatch(r"[0-9a-zA-Z]{20,}", made.reveal()):
            text = f"Forgejo made no token for {name} that could be understood."
            raise KeyUnusable("server-token-missing", text, next_command="export FORGEJO_TOKEN_FILE=PATH")
        return made

    def _command(self, *words: str) -> Completed:
        argv = self.compose.argv("exec", "--no-TTY", "--user", "git", self.service, "forgejo", "admin", "user", *words)
        return run(argv, extra_env=self.compose.environment(), redact=self.compose.redact, timeout=120)


def place(call: Invocation, own: OwnForge | None) -> tuple[str, str]:
    """Return the address of the server, and the OWNER/NAME that is wanted there, empty if nothing says it.

    Raises:
        Refused: there is no server to be found.
    """
    address, repository = place_said(call, own.address if own else "")
    if not address:
        raise Refused(
            "server-unknown",
            "Nothing says which server this repository is to be on.",
            looked_at=["ci.server in stack.yaml", f"a service with the image {FORGEJO}", "git's remotes"],
            next_command="set ci.server (such as https://git.example.org) in stack.yaml",
        )
    return address, repository


def account(repository: str, there: list[str]) -> str:
    """Return the repository's owner: as configured, else the first account, else the local user's name."""
    said = repository.partition("/")[0]
    name = _NAME.sub("-", getpass.getuser()).strip("-") or "owner"
    # Forgejo reserves the name admin.
    return said or (there[0] if there else "owner" if name == "admin" else name)
