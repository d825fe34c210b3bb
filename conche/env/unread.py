"""Works with an environment whose files cannot be read: a variable is missing, or a file is broken or gone.

What runs keeps running. Compose and the engine know a project by the labels of what it has made, which is enough to
look at it, read its logs, run something inside and take it down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from conche.command import Invocation
from conche.engine import containers, networks
from conche.engine.compose import Compose
from conche.engine.containers import Container
from conche.env.observe import service_of
from conche.errors import Refused
from conche.session import open_compose, open_unread

__all__ = ["UNREADABLE", "as_it_runs", "containers_of", "described", "is_unreadable", "with_or_without_files"]

UNREADABLE = frozenset(
    {
        "compose-file-invalid",
        "file-missing",
        "file-unreadable",
        "image-name-invalid",
        "template-unreadable",
        "text-not-utf8",
        "text-too-large",
    }
)
"""Codes of errors in files, as opposed to what runs."""

T = TypeVar("T")


def with_or_without_files(call: Invocation, name: str, act: Callable[[Compose], T]) -> T:
    """Act on an environment; if its files cannot be read, by what the engine has of its project.

    Args:
        act: reads before it changes anything, as it may be called twice.

    Raises:
        Refused: the files cannot be read, and the engine has nothing of the project.
    """
    try:
        return act(open_compose(call, name))
    except Refused as problem:
        if not is_unreadable(call, name, problem):
            raise
        compose = open_unread(call, name)
        call.output.say(f"warning: {described(problem)} Going by what the engine has of {compose.project}.")
        return act(compose)


def as_it_runs(call: Invocation, name: str, service: str | None) -> Compose:
    """Open an environment by what the engine has of it: logs and exec need no files.

    Raises:
        NotFound: the service has no container, and is in no Compose file.
    """
    with_or_without_files(call, name, lambda _: None)  # learns what must not be shown
    compose = open_unread(call, name)
    if service and not containers_of(compose, service):
        service_of(open_compose(call, name).configuration(hashed=False), service)
    return compose


def containers_of(compose: Compose, service: str) -> list[Container]:
    """Return the containers of one service."""
    return [one for one in containers.of_project(compose.engine, compose.project) if one.service == service]


def is_unreadable(call: Invocation, name: str, problem: Refused) -> bool:
    """Return whether the files are at fault, and the engine has something of the project to go by."""
    if problem.code not in UNREADABLE or call.environment(name).swarm:
        return False
    compose = open_unread(call, name)
    made = networks.made_by(compose.engine, compose.project)
    return bool(containers.of_project(compose.engine, compose.project) or made.networks)


def described(problem: Refused) -> str:
    """Describe in one line what is wrong with the files."""
    return " ".join([problem.message, *problem.evidence[-1:]]).rstrip(".") + "."
