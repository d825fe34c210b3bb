"""The restic repository off-site: how restic is called, and which backups are in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from conche.backup import reporting
from conche.backup.mac import KEYLESS, Keys
from conche.backup.site import Site
from conche.backup.snapshots import Snapshot, snapshot_of
from conche.command import Invocation
from conche.errors import KeyUnusable, NotFound, Refused, Unreachable
from conche.process import Completed, run
from conche.secret import Secret
from conche.stack import Offsite

__all__ = ["NoRepository", "Repository", "by_name", "opened"]

DAY = 86_400.0
"""Seconds that restic may take."""


@dataclass(frozen=True)
class Repository:
    """A restic repository.

    Attributes:
        variables: its password and credentials, passed only through restic's environment.
        keys: the stack's keys, to tell which snapshots are its own.
    """

    address: str
    host: str
    variables: Mapping[str, Secret]
    keys: Keys = KEYLESS

    def call(self, *words: str, cwd: Path | None = None) -> Completed:
        """Run restic.

        Raises:
            Unreachable: it is not installed, or cannot reach the repository.
            KeyUnusable: the password is wrong.
        """
        env = {name: value.reveal() for name, value in self.variables.items()}
        # An address may have a password in it, which a list of processes would show.
        env["RESTIC_REPOSITORY"] = self.address
        argv = ["restic", "--no-cache", "--quiet", *words]
        done = run(argv, extra_env=env, cwd=cwd, timeout=DAY)
        return done if done.ok else self._failed(done)

    def snapshots(self) -> tuple[Snapshot, ...]:
        """Return the snapshots of this stack's backups, the newest first.

        Raises:
            NoRepository: it has not been made yet.
        """
        listed = json.loads(self.call("snapshots", "--json", "--host", self.host).stdout.raw or "[]")
        found = filter(None, (snapshot_of(one, self.keys) for one in listed or []))
        return tuple(sorted(found, key=lambda one: one.time, reverse=True))

    def backups(self) -> dict[str, str]:
        """Return the snapshot id of each backup by its name; empty if there is no repository yet."""
        return by_name(self.listed())

    def listed(self) -> tuple[Snapshot, ...]:
        """Return the same as `snapshots`, but nothing if there is no repository yet."""
        with suppress(NoRepository):
            return self.snapshots()
        return ()

    def size_of(self, snapshot: str, path: str) -> int:
        """Return the size in bytes that a snapshot says a file in it has; 0 if there is none."""
        listed = map(json.loads, self.call("ls", "--json", snapshot, path).stdout.raw.splitlines())
        return next((int(one["size"]) for one in listed if (one.get("path"), one.get("type")) == (path, "file")), 0)

    def extent(self, snapshot: str) -> tuple[int, int]:
        """Return how many bytes and how many entries restoring a snapshot writes, by what it says."""
        said = json.loads(self.call("stats", "--mode", "restore-size", "--json", snapshot).stdout.raw)
        return int(said["total_size"]), int(said["total_file_count"])

    def _failed(self, done: Completed) -> Completed:
        words = done.stderr.raw
        if "wrong password" in words:
            raise KeyUnusable(
                "offsite-password-wrong",
                f"The password does not open the repository {self.address}.",
                next_command="invoke secrets.set NAME    # the secret that backup.offsite.password names",
            )
        if "Is there a repository at the following location" in words or "config file does not exist" in words:
            raise NoRepository("offsite-missing", f"There is no repository at {self.address}.")
        raise Unreachable(
            "offsite-failed",
            f"restic could not work with {self.address}.",
            evidence=done.last_lines(6),
            next_command=f"restic --repo {self.address} snapshots",
        )


class NoRepository(NotFound):
    """The repository has not been made yet."""


def opened(call: Invocation, site: Site) -> tuple[Repository, Offsite]:
    """Return the stack's repository, ready to use, and its section in stack.yaml.

    Raises:
        Refused: stack.yaml has none, or a secret that it names is missing.
        KeyUnusable: the secrets cannot be decrypted.
    """
    offsite = site.section.offsite
    if offsite is None:
        raise Refused(
            "no-offsite-declared",
            "stack.yaml has no section `backup.offsite`.",
            next_command="add it as in: conche docs stack",
        )
    names = {"RESTIC_PASSWORD": offsite.password, **offsite.variables}
    values = reporting.secrets_of(call, tuple(names.values()))
    absent = [name for name in names.values() if name not in values]
    if absent:
        raise Refused(
            "offsite-secret-missing",
            f"The encrypted file has no {', '.join(absent)}, which backup.offsite names.",
            next_command=f"invoke secrets.set {absent[0]} --generate",
        )
    address = offsite.repository
    if ":" not in address.partition("/")[0]:
        address = str((site.root / Path(address).expanduser()).resolve())
    variables = {name: values[one] for name, one in names.items()}
    return Repository(address, site.stack.name, variables, site.target.keys()), offsite


def by_name(there: Sequence[Snapshot]) -> dict[str, str]:
    """Return the id of each backup's snapshot: of several, the newest that is known to be ours, if there is one."""
    return {one.name: one.id for one in sorted(there, key=lambda one: (not one.doubt, one.time))}
