"""Find expressions in workflows, and the contexts and functions that they name.

The known names are those that GitHub's syntax, Gitea, Forgejo and act have in common: `gitea.*` and `forgejo.*` each
work on one server only, and act refuses both.
Source: https://docs.github.com/en/actions/reference/workflows-and-actions/contexts
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from conche.ci.workflows.document import Where, WorkflowFile

__all__ = ["CONTEXTS", "FUNCTIONS", "GITHUB", "Expression", "Name", "expressions", "may_run"]

CONTEXTS = frozenset(
    {"env", "github", "inputs", "job", "jobs", "matrix", "needs", "runner", "secrets", "steps", "strategy", "vars"}
)
FUNCTIONS = frozenset(
    {
        "always", "cancelled", "contains", "endswith", "failure", "format", "fromjson", "hashfiles", "join",
        "startswith", "success", "tojson",
    }
)  # fmt: skip
GITHUB = frozenset(
    {
        "action", "action_path", "action_ref", "action_repository", "action_status", "actor", "actor_id", "api_url",
        "base_ref", "env", "event", "event_name", "event_path", "graphql_url", "head_ref", "job", "path", "ref",
        "ref_name", "ref_protected", "ref_type", "repository", "repository_id", "repository_owner",
        "repository_owner_id", "repositoryurl", "retention_days", "run_attempt", "run_id", "run_number",
        "secret_source", "server_url", "sha", "token", "triggering_actor", "workflow", "workflow_ref",
        "workflow_sha", "workspace",
    }
)  # fmt: skip
"""Properties of the context `github`."""

_BRACED = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_LITERAL = re.compile(r"\[\s*'(?P<key>[A-Za-z_][\w-]*)'\s*\]|'(?:[^']|'')*'")
_NAME = re.compile(r"(?<![\w.-])(?P<head>[A-Za-z_][\w-]*)(?P<rest>(?:\.(?:[A-Za-z_][\w-]*|\*))*)\s*(?P<call>\()?")
_COMPARED = re.compile(r"\s*github\.(?P<name>\w+)\s*(?P<how>==|!=)\s*'(?P<value>(?:[^']|'')*)'\s*")
_STATUS = re.compile(r"\b(?:always|cancelled|failure)\s*\(")
_WORDS = frozenset({"true", "false", "null"})


@dataclass(frozen=True)
class Name:
    """A name in an expression, such as `needs.build.outputs.image`; `call` is true for a function."""

    parts: tuple[str, ...]
    call: bool = False

    def __str__(self) -> str:
        return ".".join(self.parts)


@dataclass(frozen=True)
class Expression:
    """One expression and its place in the file."""

    where: Where
    text: str

    def names(self) -> Iterator[Name]:
        """Yield every name outside string literals; `needs['a']` counts as `needs.a`."""
        text = _LITERAL.sub(lambda literal: f".{literal['key']}" if literal["key"] else "''", self.text)
        for found in _NAME.finditer(text):
            head = found["head"].lower()
            if head in _WORDS:
                continue
            yield Name((head, *found["rest"].split(".")[1:]), call=found["call"] is not None)


def may_run(condition: str, github: Mapping[str, str], *, skipped: bool = False) -> bool:
    """Return whether a job with this `if:` can run; a condition that the event does not decide may hold.

    Args:
        github: properties of the context `github`, as the event sets them.
        skipped: a job that this one needs does not run, so neither does this one unless it checks the status itself.
    """
    if skipped and not _STATUS.search(condition):
        return False
    text = condition.strip().removeprefix("${{").removesuffix("}}")
    bare = _LITERAL.sub("", text)
    if "||" in bare or "(" in bare.replace("()", "") or len(text.split("&&")) != len(bare.split("&&")):
        return True
    return all(_holds(part, github) for part in text.split("&&"))


def _holds(comparison: str, github: Mapping[str, str]) -> bool:
    found = _COMPARED.fullmatch(comparison)
    if found is None or found["name"] not in github:
        return True
    # Workflow expressions compare text without regard to case.
    same = github[found["name"]].casefold() == found["value"].replace("''", "'").casefold()
    return same if found["how"] == "==" else not same


def expressions(document: WorkflowFile, value: Any = None, where: Where = ()) -> Iterator[Expression]:
    """Yield every expression of a document: the contents of `${{ }}`, and each `if:` of a job or step."""
    value = document.content if where == () else value
    if isinstance(value, dict):
        for key, below in value.items():
            yield from expressions(document, below, (*where, key))
    elif isinstance(value, list):
        for number, below in enumerate(value):
            yield from expressions(document, below, (*where, number))
    elif isinstance(value, str):
        braced = _BRACED.findall(value)
        if not braced and where[-1:] == ("if",):
            braced = [value]
        yield from (Expression(where, text.strip()) for text in braced)
