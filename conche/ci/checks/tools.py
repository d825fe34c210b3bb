"""Check workflow files with other tools: the JSON Schema, act, zizmor, shellcheck."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from conche.ci.checks.findings import Complaint
from conche.ci.workflows.document import WorkflowFile
from conche.ci.workflows.workflow import SHELLS, Workflow
from conche.errors import Unreachable
from conche.process import Completed, run
from conche.version import is_packaged

__all__ = ["examine", "tool"]

TIMEOUT = 60.0

BOOTSTRAP = "scripts/bootstrap"
"""Installs everything for a checkout of the toolkit."""

_ACT = re.compile(r"Line: (?P<line>\d+) Column (?P<column>\d+): (?P<text>.*)")
_MASKED = re.compile(r"\$\{\{.*?\}\}", re.DOTALL)


def tool(name: str) -> str:
    """Return the path of a program beside the Python in use, where wheels install it, or else on PATH.

    Raises:
        Unreachable: neither has it.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise _missing(name)
    return found


def _missing(name: str) -> Unreachable:
    """Return the error for a missing tool: the extra `ci` installs it, or in a checkout the bootstrap script."""
    # In a checkout, pip would look for `conche` in an index, where anybody may have put one.
    how = (
        "pip install 'conche[ci]'    # put `conche[ci]` in the requirements to keep it" if is_packaged() else BOOTSTRAP
    )
    return Unreachable("tool-missing", f"{name} is not installed.", next_command=how)


def examine(root: Path, workflows: Sequence[Workflow]) -> list[Complaint]:
    """Return the findings of all tools, which run at the same time."""
    documents = [workflow.document for workflow in workflows]
    with ThreadPoolExecutor(max_workers=4) as pool:
        asked = [
            pool.submit(lambda: list(_schema(documents))),
            pool.submit(lambda: [found for one in documents for found in _act(root, one)]),
            pool.submit(lambda: list(_zizmor(root, documents))),
            pool.submit(lambda: [found for one in workflows for found in _shellcheck(one)]),
        ]
        return [found for answer in asked for found in answer.result()]


def _schema(documents: Sequence[WorkflowFile]) -> Iterator[Complaint]:
    """Validate against SchemaStore's schema of workflow files, which check-jsonschema bundles."""
    from importlib.resources import files

    try:
        from jsonschema import Draft7Validator
        from jsonschema.exceptions import best_match

        schemas = files("check_jsonschema.builtin_schemas")
    except ImportError as absent:
        raise _missing("check-jsonschema") from absent
    text = schemas.joinpath("vendor/github-workflows.json").read_text("utf-8")
    validator = Draft7Validator(json.loads(text))
    for document in documents:
        for error in validator.iter_errors(document.content):
            best = best_match([error]) or error
            where = tuple(best.absolute_path)
            place = ".".join(map(str, where)) or "(top)"
            yield Complaint(document.file, document.line(where), "schema", f"{place}: {_short(best.message)}")


def _act(root: Path, document: WorkflowFile) -> Iterator[Complaint]:
    argv = [tool("act"), "--validate", "--strict", "--workflows", document.file, "--env-file", "/dev/null"]
    answer = run(argv, cwd=root, timeout=TIMEOUT)
    if answer.ok:
        return
    complaints = list(_ACT.finditer(answer.stderr.raw.replace("\\n", "\n").replace('\\"', '"').replace("\\\\", "\\")))
    for complaint in complaints:
        yield Complaint(document.file, int(complaint["line"]), "act", _short(complaint["text"].strip().rstrip('"')))
    if not complaints:
        yield Complaint(document.file, 1, "act", _short(" ".join(answer.last_lines(3))))


def _zizmor(root: Path, documents: Sequence[WorkflowFile]) -> Iterator[Complaint]:
    """Run zizmor on the files, not on their folder: it finds none in a folder called .gitea."""
    argv = [tool("zizmor"), "--offline", "--no-progress", "--format", "json"]
    answer = run([*argv, *(document.file for document in documents)], cwd=root, timeout=TIMEOUT)
    try:
        found = json.loads(answer.stdout.raw)
    except ValueError:
        yield _failed("zizmor", documents[0], answer)
        return
    for one in found:
        place = next((p for p in one["locations"] if p["symbolic"]["kind"] == "Primary"), one["locations"][0])
        file = place["symbolic"]["key"]["Local"]["verbatim_path"]
        line = place["concrete"]["location"]["start_point"]["row"] + 1
        yield Complaint(file, line, "zizmor", f"{one['ident']}: {one['desc']} ({_severity(one)})")


def _severity(one: Any) -> str:
    return str(one["determinations"]["severity"]).lower()


def _shellcheck(workflow: Workflow) -> Iterator[Complaint]:
    for job in workflow.jobs.values():
        for step in job.steps:
            if not step.run.strip() or step.interpreter not in SHELLS:
                continue
            # The shell never sees an expression, only its value: replace it with an unquoted word.
            script = _MASKED.sub("expression", step.run)
            answer = run(
                [tool("shellcheck"), "--shell", step.interpreter, "--severity", "info", "--format", "json", "-"],
                stdin=script.encode(),
                timeout=TIMEOUT,
            )
            line = workflow.document.line((*step.where, "run"))
            for one in json.loads(answer.stdout.raw or "[]"):
                yield Complaint(workflow.file, line, "shellcheck", f"SC{one['code']}: {one['message']}")


def _failed(name: str, document: WorkflowFile, answer: Completed) -> Complaint:
    return Complaint(
        document.file, 1, name, f"exited with {answer.exit_code}: {_short(' '.join(answer.last_lines(3)))}"
    )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:297]}..."
