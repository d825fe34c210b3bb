"""What a workflow's repository provides: runners' labels, branches, secrets, Nox sessions, tasks."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conche.ci.invoked import Reading
from conche.engine.written import services
from conche.stack import Stack

__all__ = ["AUTOMATIC", "LABELS", "SERVERS", "Runner", "Surroundings", "runners", "serving", "sessions", "surroundings"]

AUTOMATIC = frozenset({"GITHUB_TOKEN", "GITEA_TOKEN", "FORGEJO_TOKEN"})
"""Secrets that a server gives to each run by itself."""

LABELS = ("GITEA_RUNNER_LABELS", "FORGEJO_RUNNER_LABELS", "RUNNER_LABELS")
"""Variables of a Compose service from which runners' images take the labels."""

SERVERS = ("forgejo/forgejo", "gitea/gitea")
"""Part of the image name of a service that is a forge."""

NAMES = ("GITEA_RUNNER_NAME", "FORGEJO_RUNNER_NAME", "RUNNER_NAME")

_DEFAULT = re.compile(r"\$\{\w+:?-([^}]*)\}")


@dataclass(frozen=True)
class Runner:
    """A runner that a Compose file describes.

    Attributes:
        name: its name on the server.
        built: the Compose file says how its image is built.
        profiles: its Compose profiles; without one it comes up with its environment.
        secret: the declared secret that holds its token; empty if it has none.
        labels: each `name:scheme` or `name:scheme://image`; a bare name means different things on Gitea and Forgejo.
    """

    environment: str
    service: str
    labels: tuple[str, ...]
    name: str = ""
    image: str = ""
    built: bool = False
    profiles: tuple[str, ...] = ()
    secret: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The labels as `runs-on` names them, without the scheme."""
        return tuple(label.partition(":")[0] for label in self.labels)


@dataclass(frozen=True)
class Surroundings:
    """What a workflow can refer to.

    Attributes:
        labels: of all runners; None if no runner is known.
        environments: those in stack.yaml.
        branches: environments by the branch that is deployed there.
        secrets: Actions secrets that runs will have.
        sessions: of the noxfile, with `*` for what cannot be read without running it; None without a noxfile.
        read: parses a command line as Invoke does.
    """

    labels: frozenset[str] | None = None
    environments: frozenset[str] = frozenset()
    branches: Mapping[str, str] = field(default_factory=dict)
    secrets: frozenset[str] = frozenset()
    sessions: frozenset[str] | None = None
    read: Callable[[Sequence[str]], Reading] = lambda _: Reading()


def surroundings(root: Path, stack: Stack, read: Callable[[Sequence[str]], Reading]) -> Surroundings:
    """Collect what the repository provides."""
    known = [name for runner in runners(root, stack) for name in runner.names]
    known += [label.partition(":")[0] for label in stack.ci.labels]
    return Surroundings(
        labels=frozenset(known) or None,
        environments=frozenset(stack.environments),
        branches={one.branch: name for name, one in stack.environments.items() if one.branch},
        secrets=frozenset(stack.ci.secrets) | AUTOMATIC,
        sessions=sessions(root),
        read=read,
    )


def runners(root: Path, stack: Stack) -> list[Runner]:
    """Return the runners in the Compose files of every environment."""
    found = []
    for environment, described in stack.environments.items():
        for file in described.compose:
            for service, definition in services(root / file).items():
                runner = _runner(environment, service, definition or {})
                if runner is not None:
                    found.append(runner)
    return found


def serving(root: Path, stack: Stack) -> str | None:
    """Return the environment with a forge in its Compose files, if any."""
    for environment, described in stack.environments.items():
        for definition in (one for file in described.compose for one in services(root / file).values()):
            if any(server in str((definition or {}).get("image")) for server in SERVERS):
                return environment
    return None


def _runner(environment: str, service: str, definition: Mapping[str, Any]) -> Runner | None:
    variables = _variables(definition.get("environment"))
    labels = _labels(variables)
    if not labels:
        return None
    mounted = [one if isinstance(one, str) else str(one.get("source", "")) for one in definition.get("secrets") or ()]
    return Runner(
        environment,
        service,
        labels,
        name=next((variables[one] for one in NAMES if one in variables), service),
        image=str(definition.get("image", "")),
        built="build" in definition,
        profiles=tuple(definition.get("profiles") or ()),
        secret=next((one for one in mounted if "token" in one), ""),
    )


def _variables(said: Any) -> dict[str, str]:
    if isinstance(said, list):
        return dict(str(line).partition("=")[::2] for line in said)
    return {name: str(value) for name, value in (said or {}).items()}


def _labels(variables: Mapping[str, str]) -> tuple[str, ...]:
    said = next((variables[name] for name in LABELS if name in variables), "")
    return tuple(label.strip() for label in _DEFAULT.sub(r"\1", said).split(",") if label.strip())


def sessions(root: Path) -> frozenset[str] | None:
    """Return the sessions of noxfile.py by parsing it: asking Nox would take half a second and run the file."""
    file = root / "noxfile.py"
    if not file.is_file():
        return None
    try:
        return frozenset(_sessions(ast.parse(file.read_text(encoding="utf-8"))))
    except (SyntaxError, UnicodeDecodeError):
        return None


def _sessions(tree: ast.Module) -> Iterator[str]:
    for function in tree.body:
        if not isinstance(function, ast.FunctionDef):
            continue
        decorators = {_called(decorator): decorator for decorator in function.decorator_list}
        if "session" not in decorators:
            continue
        given = {word.arg: word.value for word in getattr(decorators["session"], "keywords", ())}
        named = given.get("name")
        name = str(named.value) if isinstance(named, ast.Constant) else function.name
        endings = ["", *_pythons(given.get("python"))]
        yield from (f"{name}{ending}" for ending in endings)
        if "parametrize" in decorators:
            # The parameter may be the Python version itself; such sessions are called NAME-VERSION.
            yield from (f"{name}(*)", f"{name}-*")


def _called(decorator: ast.expr) -> str:
    name = decorator.func if isinstance(decorator, ast.Call) else decorator
    return str(getattr(name, "attr", getattr(name, "id", "")))


def _pythons(said: ast.expr | None) -> list[str]:
    """Return the suffixes that Nox adds to a session's name, for each of its Pythons."""
    if said is None or (isinstance(said, ast.Constant) and not isinstance(said.value, str)):
        return []
    versions = said.elts if isinstance(said, ast.List | ast.Tuple | ast.Set) else [said]
    return [
        f"-{one.value}" if isinstance(one, ast.Constant) and isinstance(one.value, str) else "-*" for one in versions
    ]
