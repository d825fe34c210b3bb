"""The git side of `ci.setup`: the remote, the branches, commits and pushes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conche.ci.forge.kept import helper
from conche.ci.forge.where import SECOND, origin, without_password
from conche.errors import Refused
from conche.process import Completed, run

__all__ = ["Checkout"]

QUIET = {"GIT_TERMINAL_PROMPT": "0"}
"""Keeps git from asking for a password, since nobody may be there to answer."""


@dataclass(frozen=True)
class Checkout:
    """A checkout and its intended repository on the server.

    Attributes:
        address: of the server, without a slash at its end.
        repository: OWNER/NAME there.
    """

    root: Path
    address: str
    repository: str

    def git(self, *words: str, stdin: bytes = b"", timeout: float = 60) -> Completed:
        """Run a git command here; the caller checks whether it worked."""
        return run(["git", "-C", str(self.root), *words], stdin=stdin, extra_env=QUIET, timeout=timeout)

    def said(self, *words: str, stdin: bytes = b"") -> str:
        """Run a git command that has to work, and return its output."""
        return self.git(*words, stdin=stdin).require(f"git {words[0]}").stdout.raw.strip()

    def remotes(self) -> dict[str, str]:
        """Return the addresses of the remotes, by name."""
        return {name: self.said("remote", "get-url", name) for name in self.said("remote").split()}

    def remote(self) -> str:
        """Return which of the two remotes that `ci.*` looks at is this repository; empty if neither is."""
        here, there = (self.address, self.repository), self.remotes()
        return next((name for name in (SECOND, "origin") if name in there and origin(there[name]) == here), "")

    def new_remote(self) -> str:
        """Return the name for the new remote: origin, or forge if origin is another repository.

        Raises:
            Refused: both exist, and neither is this repository.
        """
        there = self.remotes()
        name = "origin" if "origin" not in there else SECOND
        if name in there:
            raise Refused(
                "remote-elsewhere",
                f"The remotes origin and {SECOND} both exist, but neither is {self.address}/{self.repository}.",
                looked_at=[f"{one}: {without_password(to)}" for one, to in there.items()],
                next_command=f"git remote remove {SECOND}    # or correct ci.server and ci.repository in stack.yaml",
            )
        return name

    def add_remote(self) -> None:
        """Add the remote under the free name."""
        self.said("remote", "add", self.new_remote(), f"{self.address}/{self.repository}.git")

    def knows_password(self) -> bool:
        """Return whether git uses the kept token for this server."""
        return self.git("config", "--local", "--get-all", self._credential).stdout.raw.strip() == helper(self.root)

    def tell_password(self) -> None:
        """Make git use the kept token for this server, and nothing else."""
        self.said("config", "--local", "--replace-all", self._credential, helper(self.root))

    @property
    def _credential(self) -> str:
        return f"credential.{self.address}.helper"

    def branches(self) -> list[str]:
        """Return the local branches."""
        return self.said("for-each-ref", "--format=%(refname:short)", "refs/heads").split()

    def current(self) -> str:
        """Return the branch that is checked out; empty for none."""
        return self.git("symbolic-ref", "--short", "--quiet", "HEAD").stdout.raw.strip()

    def upstream(self, branch: str) -> str:
        """Return the remote that `git push` uses for a branch; empty if none is configured."""
        return self.git("config", "--get", f"branch.{branch}.remote").stdout.raw.strip()

    def follow(self, branch: str, remote: str) -> None:
        """Configure where `git push` sends a branch."""
        self.said("config", f"branch.{branch}.remote", remote)
        self.said("config", f"branch.{branch}.merge", f"refs/heads/{branch}")

    def head(self) -> str:
        """Return the commit that is checked out.

        Raises:
            Refused: there is none.
        """
        answer = self.git("rev-parse", "--verify", "--quiet", "HEAD")
        if not answer.ok:
            raise Refused(
                "no-commit",
                "This checkout has no commit to push.",
                looked_at=[str(self.root)],
                next_command="git init && git add --all && git commit",
            )
        return answer.stdout.raw.strip()

    def changed(self, files: Sequence[str]) -> list[str]:
        """Return which of these files differ from the last commit."""
        there = [file for file in files if (self.root / file).exists()]
        if not there:
            return []
        listed = self.git("status", "--porcelain", "-z", "--", *there).require("git status").stdout.raw
        return [entry[3:] for entry in listed.split("\0") if entry]

    def commit(self, files: Sequence[str], message: str) -> None:
        """Commit only these files, whatever else is staged."""
        self.said("add", "--", *files)
        made = self.git("commit", "--quiet", "--only", "--message", message, "--", *files)
        if not made.ok:
            raise Refused(
                "not-committed",
                f"git refused to commit {', '.join(files)}.",
                evidence=made.last_lines(),
                next_command=f"git commit {' '.join(files)}\ninvoke ci.setup",
            )

    def remote_heads(self, remote: str) -> dict[str, str]:
        """Return the branches of the repository on the server, with the commit of each."""
        listed = self.git("ls-remote", "--heads", remote).require("listing the repository's branches")
        lines = (line.split("\t") for line in listed.stdout.raw.splitlines())
        return {ref.removeprefix("refs/heads/"): commit for commit, ref in lines}

    def contains(self, remote: str, commit: str) -> bool:
        """Return whether a commit on the server is an ancestor of what is checked out."""
        if not self.git("cat-file", "-e", f"{commit}^{{commit}}").ok:
            self.git("fetch", "--quiet", remote, commit, timeout=600).require("fetching from the repository")
        return self.git("merge-base", "--is-ancestor", commit, "HEAD").ok

    def push(self, remote: str, *refs: str) -> None:
        """Push these refs, without running hooks."""
        self.git("push", "--quiet", "--no-verify", remote, *refs, timeout=900).require(f"git push {' '.join(refs)}")
