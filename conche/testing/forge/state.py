"""What a stand-in server knows: runs, runners, secrets, branches; tests set it up and look at it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["PROFILES", "FakeForge", "FakeJob", "FakeRun", "version_of"]

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
"""Servers by name, with the version that each tells."""


@dataclass
class FakeJob:
    """A job; each time somebody asks for it, it goes on to its next state, and stays in the last."""

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
        pull: of a pull request with that number, `branch` being the one that it comes from.
        hidden_for: how many lists of runs it is not in yet.
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
        """Whether it is listed yet: a server makes a run some seconds after the push."""
        self.hidden_for -= self.hidden_for > 0
        return self.hidden_for == 0


@dataclass
class FakeForge:
    """The state of one server, which tests set up and look at.

    Attributes:
        tokens: the scopes of each token; one with `write:repository` may everything here.
        of_attempts_before: numbers of jobs that were run again; the list of jobs has them, the commit's status has not.
        of_the_server: names of runners that serve every repository, and are not of this one.
        repository: that there is, by its full name; empty for a server without one.
        settings: what PATCH may change of it.
        protected: rules of branches, by the branch.
        refs: branches that a dispatch may name; those of `git` count too.
        git: a folder for bare repositories, whose pushes start the workflows of the commit; None serves no git.
        user: whose token it is.
        organisations: in which that account may make repositories.
        pushed: branch and commit of each push, in order.
        coming: pushes that are not dealt with yet, each with how many calls that still takes: a server takes them
            from a queue, and looks only then whether actions are on.
        feed: what happened, as the repository tells it.
        fault: what the next answers are instead: 429, 500, html, redirect; empty for none.
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
    settings: dict[str, Any] = field(default_factory=lambda: {"has_actions": True, "default_branch": "main"})
    protected: dict[str, dict[str, Any]] = field(default_factory=dict)
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
    """1.26 and 15 as numbers that compare: no Gitea 1.x has reached three digits."""
    major, minor = (int(part) for part in re.findall(r"\d+", PROFILES[profile])[:2])
    return major + minor / 100 if major == 1 else float(major)
