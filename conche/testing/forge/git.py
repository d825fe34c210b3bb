"""Serve git over HTTP for a stand-in server with git's own program, and start the runs of a push."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from conche import shallow_yaml
from conche.testing.forge.state import FakeForge, FakeJob, FakeRun

__all__ = ["Response", "branches", "go_on", "make", "serve_git"]

CALLS = 12
"""API calls until a push is handled."""


@dataclass(frozen=True)
class Response:
    """An HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def make(forge: FakeForge) -> None:
    """Make an empty repository under the server's name for it."""
    if forge.git is not None:
        argv = ["git", "init", "--quiet", "--bare", "--initial-branch", "main", str(_folder(forge))]
        subprocess.run(argv, check=True)


def branches(forge: FakeForge) -> dict[str, str]:
    """Return the branches of the repository, with the commit of each."""
    if forge.git is None or not forge.repository or not _folder(forge).is_dir():
        return {}
    listed = _git(forge, "for-each-ref", "--format=%(refname:short) %(objectname)", "refs/heads")
    return dict(line.split() for line in listed.splitlines())


def serve_git(forge: FakeForge, method: str, path: str, headers: Mapping[str, str], sent: bytes) -> Response:
    """Answer one request through `git http-backend`; a push starts the workflows of the pushed commits.

    Source: git-http-backend(1), RFC 3875.
    """
    if forge.git is None or not path.startswith(f"/{forge.repository}.git/"):
        return Response(404, {}, b"")
    before = branches(forge)
    where, _, query = path.partition("?")
    environment = {
        **os.environ, "GIT_PROJECT_ROOT": str(forge.git), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": where,
        "REQUEST_METHOD": method, "QUERY_STRING": query, "REMOTE_USER": forge.user, "CONTENT_LENGTH": str(len(sent)),
        "CONTENT_TYPE": headers.get("Content-Type", ""), "GIT_PROTOCOL": headers.get("Git-Protocol", ""),
        "HTTP_CONTENT_ENCODING": headers.get("Content-Encoding", ""),
    }  # fmt: skip
    argv = ["git", "http-backend"]
    done = subprocess.run(argv, input=sent, env=environment, capture_output=True, check=True)
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    said = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
    status = int(said.pop("Status", "200").split()[0])
    for branch, commit in branches(forge).items():
        if before.get(branch) != commit:
            forge.pushed.append((branch, commit))
            forge.coming.append((branch, commit, CALLS))
    return Response(status, said, body)


def go_on(forge: FakeForge, calls: int = 1) -> None:
    """Handle the pushes that are due after this many more calls: show them in the feed, and start their workflows."""
    waiting, forge.coming = forge.coming, []
    for branch, commit, left in waiting:
        if left > calls:
            forge.coming.append((branch, commit, left - calls))
            continue
        content = json.dumps({"HeadCommit": {"Sha1": commit}})
        forge.feed.append({"op_type": "commit_repo", "ref_name": f"refs/heads/{branch}", "content": content})
        if forge.settings["has_actions"]:
            _start(forge, branch, commit)


def _start(forge: FakeForge, branch: str, commit: str) -> None:
    """Start a run for each workflow of the commit that a push to the branch triggers."""
    listed = _git(forge, "ls-tree", "--name-only", "-r", commit, ".gitea/workflows/").splitlines()
    for file in listed:
        text = _git(forge, "show", f"{commit}:{file}")
        said: dict[str, Any] = shallow_yaml.load(text, yaml.BaseLoader)
        wanted = (said["on"].get("push") or {}).get("branches", [branch]) if "push" in said["on"] else []
        if branch in wanted:
            number = max((run.number for run in forge.runs), default=0) + 1
            jobs = [_job(forge, number, position, *job) for position, job in enumerate(said["jobs"].items())]
            name = file.rpartition("/")[2]
            forge.runs.append(FakeRun(number, number, jobs, branch=branch, workflow=name, sha=commit, hidden_for=2))


def _job(forge: FakeForge, run: int, position: int, name: str, said: Mapping[str, Any]) -> FakeJob:
    label = said["runs-on"]
    states = ["waiting", "running", "success"] if _taken(forge, label) else ["waiting"]
    return FakeJob(100 * run + position, name, states, labels=[label])


def _taken(forge: FakeForge, label: str) -> bool:
    """Return whether a runner takes the job.

    A runner registered with both an owner and a repository takes one job, and sleeps from then on.
    """
    for runner in forge.runners:
        asleep = runner.get("owner_id") and runner.get("repo_id") and runner.get("taken")
        if label in (runner["labels"] or ()) and runner["status"] != "offline" and not asleep:
            runner["taken"] = True
            return True
    return False


def _folder(forge: FakeForge) -> Path:
    assert forge.git is not None
    return forge.git / f"{forge.repository}.git"


def _git(forge: FakeForge, *words: str) -> str:
    argv = ["git", "-C", str(_folder(forge)), *words]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
