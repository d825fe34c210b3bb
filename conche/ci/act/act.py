"""The interface to act: its argv, its event file, and its progress output. Nothing here runs it.

Labels are mapped to the host itself, so jobs need no engine and no network. https://nektosact.com/usage/
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from conche.secret import Secret

__all__ = [
    "BROKEN_OFF",
    "CHECKOUT",
    "LAST_WORDS",
    "SOURCE",
    "TOKEN",
    "ActRecord",
    "StepRecord",
    "argv",
    "event",
    "secret_file",
]

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\([A-Z]|\r")
"""act gives steps a terminal of its own, so tools colour their output."""

BROKEN_OFF = "context canceled"
"""act's message when a signal ended it."""

LAST_WORDS = """\
unset BASH_ENV
for name in ${!GITHUB_@}; do
  export "FORGEJO_${name#GITHUB_}=${!name}" "GITEA_${name#GITHUB_}=${!name}"
done
trap 'status=$?; [ "$status" = 0 ] || sleep 1; exit "$status"' EXIT
"""
"""BASH_ENV script for the bash of a step, but not for any bash that it starts: a failing step lingers for a second.

act closes a failed step's terminal at once, and on a busy machine one time in six loses the lines still in it.
Gitea's and Forgejo's runners also give each step GitHub's variables, the job's token included, under their own names.
"""

SOURCE = "CONCHE_CI_CHECKOUT"
"""Environment variable that holds the folder to be copied by `CHECKOUT`."""

CHECKOUT = f"""\
#!/bin/sh
set -eu
here=$PWD
cd "${SOURCE}"
{{
  [ ! -e .git ] || printf '.git\\0'
  git ls-files --cached --others --exclude-standard -z | xargs -0 sh -c '
    for file; do [ ! -e "$file" ] && [ ! -L "$file" ] || printf "%s\\0" "$file"; done' sh
}} | tar --create --null --files-from - | tar --extract --directory "$here"
"""
"""The `runner-checkout` command in a run here: copies uncommitted files too, but none that git ignores."""

TOKEN = "the-token-of-no-job"  # noqa: S105 - nobody knows it
"""Stands in for the job token that a runner gives every step; here there is no server that would know one."""

SKIPPED_LABEL = "Skipping unsupported platform"


def argv(
    program: str, *, workflow: str, event: str, event_file: Path, labels: Iterable[str], job: str, cache: Path
) -> tuple[str, ...]:
    """Return act's argv for one workflow; files that act would read from the folder by itself are set to /dev/null."""
    platforms = [part for label in sorted(labels) for part in ("--platform", f"{label}=-self-hosted")]
    empty = [part for kind in ("--env-file", "--var-file", "--input-file") for part in (kind, "/dev/null")]
    return (
        program, event, "--workflows", workflow, *platforms, *empty, "--secret-file", "/dev/stdin", "--json",
        "--eventpath", str(event_file), "--action-cache-path", str(cache), "--no-cache-server",
        *(("--job", job) if job else ()),
    )  # fmt: skip


def event(kind: str, branch: str, head: str) -> dict[str, object]:
    """Return the event as a server would send it: a push to `branch`, or a pull request from `head` into it."""
    if kind == "pull_request":
        pull = {"number": 1, "head": {"ref": head}, "base": {"ref": branch}}
        return {"number": 1, "action": "synchronize", "pull_request": pull}
    return {"ref": f"refs/heads/{branch}"} if kind == "push" else {}


def github(kind: str, branch: str) -> dict[str, str]:
    """Return what the event decides of the context `github`; a pull request's branch is the one it goes into."""
    if kind == "pull_request":
        return {"event_name": kind, "base_ref": branch, "ref": "refs/pull/1/merge"}
    return {"event_name": kind, "ref": f"refs/heads/{branch}", "ref_name": branch, "ref_type": "branch"}


def secret_file(secrets: Mapping[str, Secret]) -> bytes:
    """Return the secrets in act's format, for its standard input; they are never in a file or in argv."""
    return "".join(f"{name}={_quoted(value)}\n" for name, value in secrets.items()).encode()


def _quoted(value: Secret) -> str:
    text = value.reveal().replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("\n", "\\n")
    return f'"{text}"'


@dataclass
class StepRecord:
    """One step that ran.

    Attributes:
        seconds: how long it took; 0 if act does not say.
    """

    name: str
    result: str = ""
    seconds: float = 0.0
    said: list[str] = field(default_factory=list)


@dataclass
class ActRecord:
    """What act has reported so far."""

    jobs: dict[str, str] = field(default_factory=dict)
    steps: dict[str, list[StepRecord]] = field(default_factory=dict)
    unmapped: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def take(self, line: str) -> Iterator[str]:
        """Take in one line of act's JSON and yield what a person wants to see of it."""
        try:
            said = json.loads(line)
        except ValueError:
            self.other.append(line)
            return
        text, job = _COLOUR.sub("", str(said.get("msg", "")).rstrip("\n")), said.get("jobID", "")
        if SKIPPED_LABEL in text:
            self.unmapped.append(text)
        if said.get("jobResult"):
            self.jobs[job] = said["jobResult"]
            yield f"{job}: {said['jobResult']}"
        elif "stepID" in said and job:
            yield from self._step(job, said, text)
        elif said.get("level") in ("error", "warning", "fatal"):
            self.other.append(text)

    def _step(self, job: str, said: Mapping[str, object], text: str) -> Iterator[str]:
        steps = self.steps.setdefault(job, [])
        name = _first_line(str(said.get("step", "")))
        if text.startswith("⭐ Run"):
            steps.append(StepRecord(name))
            yield f"{job}: {name}"
        elif said.get("stage") == "Pre" and said.get("level") == "error":
            # Actions are fetched before the first step runs: none of them will.
            if not steps or steps[-1].name != name:
                steps.append(StepRecord(name, "failure"))
            steps[-1].said.append(text)
            yield f"{job} | {text}"
        elif not steps:
            return
        elif said.get("stepResult"):
            steps[-1].result = str(said["stepResult"])
            taken = said.get("executionTime", 0)
            steps[-1].seconds = taken / 1e9 if isinstance(taken, (int, float)) else 0.0
        elif said.get("raw_output") or said.get("level") == "error":
            steps[-1].said = [*steps[-1].said[-39:], text]
            yield f"{job} | {text}"

    def failed(self) -> tuple[str, StepRecord] | None:
        """Return the first step that failed, with its job."""
        return next(
            ((job, step) for job, steps in self.steps.items() for step in steps if step.result == "failure"), None
        )


def _first_line(text: str) -> str:
    first, _, more = text.strip().partition("\n")
    return f"{first} …" if more else first
