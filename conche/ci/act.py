"""act: its argv, the event it is told, and what it says as it goes. Nothing here runs it.

https://nektosact.com/usage/; labels are mapped to the host itself, so no engine and no network are needed for the jobs.
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
    "Record",
    "StepRecord",
    "argv",
    "event",
    "secret_file",
]

_COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\([A-Z]|\r")
"""Steps run on a terminal of act's own, so tools colour what they say."""

BROKEN_OFF = "context canceled"
"""What act says when a signal has ended it."""

LAST_WORDS = """\
unset BASH_ENV
for name in ${!GITHUB_@}; do
  export "FORGEJO_${name#GITHUB_}=${!name}" "GITEA_${name#GITHUB_}=${!name}"
done
trap 'status=$?; [ "$status" = 0 ] || sleep 1; exit "$status"' EXIT
"""
"""What the bash of a step reads first (BASH_ENV), and no bash that it starts: a step that fails lingers.

act closes such a step's terminal at once, and one time in six on a busy machine loses the lines that are still in it.
A runner of Gitea or Forgejo gives each step what GitHub's gives it under its own names too, the job's token with it.
"""

SOURCE = "CONCHE_CI_CHECKOUT"
"""Variable with the folder that `CHECKOUT` copies."""

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
"""The command `runner-checkout` of a run here: the checkout with what is not committed, without what git ignores."""

TOKEN = "the-token-of-no-job"  # noqa: S105 - nobody knows it
"""A runner gives every step a token of its job; here there is no server that would know one."""

SKIPPED_LABEL = "Skipping unsupported platform"


def argv(
    program: str, *, workflow: str, event: str, event_file: Path, labels: Iterable[str], job: str, cache: Path
) -> tuple[str, ...]:
    """act for one workflow: what it would read from the folder by itself is told to be empty."""
    platforms = [part for label in sorted(labels) for part in ("--platform", f"{label}=-self-hosted")]
    empty = [part for kind in ("--env-file", "--var-file", "--input-file") for part in (kind, "/dev/null")]
    return (
        program, event, "--workflows", workflow, *platforms, *empty, "--secret-file", "/dev/stdin", "--json",
        "--eventpath", str(event_file), "--action-cache-path", str(cache), "--no-cache-server",
        *(("--job", job) if job else ()),
    )  # fmt: skip


def event(kind: str, branch: str, head: str) -> dict[str, object]:
    """The event as a server would tell it: a push to `branch`, or a pull request from `head` into it."""
    if kind == "pull_request":
        pull = {"number": 1, "head": {"ref": head}, "base": {"ref": branch}}
        return {"number": 1, "action": "synchronize", "pull_request": pull}
    return {"ref": f"refs/heads/{branch}"} if kind == "push" else {}


def github(kind: str, branch: str) -> dict[str, str]:
    """What the event decides of the context `github`; for a pull request the branch is the one it goes into."""
    if kind == "pull_request":
        return {"event_name": kind, "base_ref": branch, "ref": "refs/pull/1/merge"}
    return {"event_name": kind, "ref": f"refs/heads/{branch}", "ref_name": branch, "ref_type": "branch"}


def secret_file(secrets: Mapping[str, Secret]) -> bytes:
    """The secrets as act reads them, for its standard input; they are never in a file or in argv."""
    return "".join(f"{name}={_quoted(value)}\n" for name, value in secrets.items()).encode()


def _quoted(value: Secret) -> str:
    text = value.reveal().replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("\n", "\\n")
    return f'"{text}"'


@dataclass
class StepRecord:
    """One step that ran.

    Attributes:
        seconds: how long; 0 where act does not say.
    """

    name: str
    result: str = ""
    seconds: float = 0.0
    said: list[str] = field(default_factory=list)


@dataclass
class Record:
    """What act has said so far."""

    jobs: dict[str, str] = field(default_factory=dict)
    steps: dict[str, list[StepRecord]] = field(default_factory=dict)
    unmapped: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def take(self, line: str) -> Iterator[str]:
        """One line of act's JSON; yields what a person wants to see of it."""
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
        """The first step that failed, with its job."""
        return next(
            ((job, step) for job, steps in self.steps.items() for step in steps if step.result == "failure"), None
        )


def _first_line(text: str) -> str:
    first, _, more = text.strip().partition("\n")
    return f"{first} …" if more else first
