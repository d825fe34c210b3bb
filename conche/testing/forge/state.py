"""The state of a stand-in server: runs, runners, secrets, branches; tests set it up and inspect it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["PROFILES", "FakeForge", "FakeJob", "FakeRelease", "FakeRun", "version_of"]

PROFILES = {
    "gitea-1.22": "1.22.6",
    "gitea-1.24": "1.24.7",
    "gitea-1.25": "1.25.4",
    "gitea-1.26": "1.26.1",
    "forgejo-1.21": "1.21.11-1",
    "forgejo-7": "7.0.16+gitea-1.21.11",
    "forgejo-11": "11.0.8+gitea-1.22.0",
    "forgejo-15": "15.0.7+gitea-1.22.0",
    "forgejo-16": "16.0.0+gitea-1.22.0",
}
"""Servers by name, with the version that each reports."""


@dataclass
class FakeJob:
    """A job; it advances to its next state each time it is asked for, and stays in the last."""

    id: int
    name: str
    states: list[str]
    log: str = ""
    labels: list[str] = field(default_factory=list)

    def next_state(self) -> str:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]


@dataclass
class FakeRun:
    """A run of a workflow.

    Attributes:
        pull: the number of its pull request, whose source is `branch`; 0 for none.
        hidden_for: how many more lists of runs leave it out.
    """

    id: int
    number: int
    jobs: list[FakeJob]
    title: str = "A commit"
    branch: str = "develop"
    event: str = "push"
    workflow: str = "ci-cd-dual.yml"
    sha: str = "0123456789abcdef0123456789abcdef01234567"
    pull: int = 0
    hidden_for: int = 0

    def shown(self) -> bool:
        """Return whether it is listed yet: a server creates a run some seconds after the push."""
        self.hidden_for -= self.hidden_for > 0
        return self.hidden_for == 0


@dataclass
class FakeRelease:
    """A release of a tag.

    Attributes:
        files: name and content by id.
    """

    id: int
    tag: str
    notes: str = ""
    draft: bool = True
    files: dict[int, tuple[str, bytes]] = field(default_factory=dict)


@dataclass
class FakeForge:
    """The state of one server, which tests set up and inspect.

    Attributes:
        tokens: the scopes of each token; one with `write:repository` may do everything here.
        of_attempts_before: ids of jobs that were run again: in the list of jobs, but not in the commit's status.
        of_the_server: names of runners that belong to the whole server, not to this repository.
        repository: the full name of the one repository; empty for a server without one.
        settings: the repository's settings that PATCH can change.
        protected: protection rules by branch.
        tags: the commit of each tag.
        refs: branches that a dispatch may name, besides those in `git`.
        git: a folder for bare repositories, to which pushes start the commit's workflows; None serves no git.
        user: the account that the tokens belong to.
        organisations: those in which that account may create repositories.
        pushed: branch and commit of each push, in order.
        coming: pushes not handled yet, each with the calls left until then: a server takes them from a queue, and
            checks only then whether Actions are on.
        feed: the repository's activities.
        fault: what to answer instead from now on: 429, 500, endless, html, other (product), redirect; empty for none.
    """

    profile: str
    address: str = ""
    repository: str = "team/app"
    tokens: dict[str, str] = field(default_factory=lambda: {"good-token-of-tests": "write:repository"})
    secrets: dict[str, str] = field(default_factory=dict)
    runs: list[FakeRun] = field(default_factory=list)
    runners: list[dict[str, Any]] = field(default_factory=list)
    of_the_server: set[str] = field(default_factory=set)
    of_attempts_before: set[int] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    dispatched: list[dict[str, Any]] = field(default_factory=list)
    reruns: list[str] = field(default_factory=list)
    fault: str = ""
    settings: dict[str, Any] = field(
        default_factory=lambda: {"has_actions": True, "default_branch": "main", "private": True}
    )
    protected: dict[str, dict[str, Any]] = field(default_factory=dict)
    releases: list[FakeRelease] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    refs: set[str] = field(default_factory=lambda: {"main", "develop"})
    git: Path | None = None
    user: str = "team"
    organisations: set[str] = field(default_factory=set)
    pushed: list[tuple[str, str]] = field(default_factory=list)
    coming: list[tuple[str, str, int]] = field(default_factory=list)
    feed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return self.profile.partition("-")[0]


def version_of(profile: str) -> float:
    """Return a version such as 1.26 or 15 as a comparable number: no Gitea 1.x has reached three digits."""
    major, minor = (int(part) for part in re.findall(r"\d+", PROFILES[profile])[:2])
    return major + minor / 100 if major == 1 else float(major)
