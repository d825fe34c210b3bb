"""Chooses among the encrypted files of individual environments."""

from __future__ import annotations

from conche.command import Invocation
from conche.errors import KeyUnusable, Refused
from conche.secret import Secret
from conche.vault.values import open_store

__all__ = ["every_value", "within"]


def within(call: Invocation, environment: str | None) -> Invocation:
    """Return the invocation for the secrets of one environment, in that environment's own encrypted file.

    Raises:
        NotFound: there is no such environment.
        Refused: no environment is named, but there are several encrypted files.
    """
    if environment is not None:
        call.environment(environment)
        return call.with_stack(call.stack.within(environment))
    section = call.stack.secrets
    if section is not None and len(section.all_files) > 1:
        raise Refused(
            "several-secrets-files",
            f"stack.yaml names {len(section.all_files)} encrypted files for different environments.",
            looked_at=[str(file) for file in section.all_files],
            next_command=f"invoke {call.output.command} --env {next(iter(section.files))}",
        )
    return call


def every_value(call: Invocation) -> dict[str, Secret]:
    """Return the values of every encrypted file that the key opens; of several, named `NAME --env ENVIRONMENT`.

    Raises:
        KeyUnusable: it opens none.
    """
    files = dict(call.stack.secrets.files) if call.stack.secrets else {}
    if not files:
        return dict(call.vault.everything())
    found: dict[str, Secret] = {}
    problems: list[KeyUnusable] = []
    for environment in files:
        try:
            values = open_store(call.stack.within(environment), call.root).read()
        except KeyUnusable as problem:
            problems.append(problem)
        else:
            found |= {f"{name} --env {environment}": value for name, value in values.items()}
    if len(problems) == len(files):
        raise problems[0]
    return found
