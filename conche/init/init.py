"""conche init: write stack.yaml and tasks.py for a repository that Compose can run, and change nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from conche.command import Invocation
from conche.errors import Refused
from conche.files import write_new
from conche.init import facts
from conche.init.proposing import Proposal, proposals
from conche.init.understanding import Understanding, understand
from conche.init.writing import flow, stack_text
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.stack import FILE, load, parse

__all__ = ["TASKS", "init"]

TASKS = """\
from conche import namespace

ns = namespace(__file__)
"""
"""A tasks.py with all tasks of the toolkit."""

OWN_FIRST = ("import sys", "from invoke import Collection", "ns = Collection.from_module(sys.modules[__name__])")
"""What comes before it where no collection is named: Invoke then looks nowhere else for the tasks of the file."""

BESIDE_YOURS = 'ns.add_collection(namespace(__file__), name="conche")'
"""The line to add to a tasks.py that has tasks of its own; ours are then called conche.env.up and so on."""


def init(call: Invocation) -> Outcome:
    """Look at the repository, and write the files that are not there yet.

    Raises:
        NotFound: there is no Compose file.
        Refused: the files cannot be understood, with what to correct; nothing was written.
    """
    root = call.root
    seen = understand(root)
    text = stack_text(seen)
    parse(text, root=root)
    exists = (root / FILE).exists()
    proposed = _proposed(root, text) if exists else []
    steps = [] if exists else [Step(Action.WRITE, Kind.FILE, FILE, "no stack file yet")]
    steps += (
        []
        if (root / "tasks.py").exists()
        else [Step(Action.WRITE, Kind.FILE, "tasks.py", "Invoke finds its tasks in it")]
    )
    plan = Plan(tuple(steps))
    if not call.dry_run:
        for step in plan:
            _write(root / step.name, text if step.name == FILE else TASKS)
    return Outcome(
        value=_as_json(seen, text, proposed),
        changed=len(plan) > 0 and not call.dry_run,
        plan=plan,
        tables=[*_tables(seen), *([_proposals_table(proposed)] if proposed else [])],
        lines=list(_last_words(call, seen, plan, proposed)),
        warnings=list(seen.warnings),
    )


def _write(file: Path, text: str) -> None:
    try:
        write_new(file, text.encode())
    except OSError as error:
        raise Refused(
            "file-unwritable",
            f"{file.name} cannot be written: {error.strerror}.",
            looked_at=[str(file)],
            next_command=f"ls -ld '{file.parent}'",
        ) from error


def _proposed(root: Path, text: str) -> list[Proposal]:
    from conche import shallow_yaml

    load(root)  # refuses a stack.yaml with problems before it is compared
    before: Any = shallow_yaml.load((root / FILE).read_text(encoding="utf-8"))
    return proposals(before, shallow_yaml.load(text))


def _tables(seen: Understanding) -> list[Table]:
    environments = [
        (one.name, ", ".join(map(str, one.files)), one.project or f"{seen.name}-{one.name}", _health(seen, one.name))
        for one in seen.environments
    ]
    services = [
        (name, one.name, one.image, one.built or "-", ", ".join(one.ports) or "-", "yes" if one.checked else "no")
        for name, rendered in seen.rendered.items()
        for one in facts.services(seen.root, rendered)
    ]
    data = [
        (name, data.service, data.source, data.driver or "undecided", data.name, data.why) for name, data in seen.data
    ]
    found = [
        Table(("environment", "Compose files", "project", "health"), tuple(environments)),
        Table(("environment", "service", "image", "built from", "published", "healthcheck"), tuple(services)),
        Table(("environment", "service", "data", "driver", "component", "because"), tuple(data)),
        Table(("secret", "where"), tuple(_secrets(seen))),
    ]
    return [table for table in found if table.rows]


def _health(seen: Understanding, environment: str) -> str:
    url = seen.health.get(environment)
    return f"{'' if url.sure else 'perhaps '}{url.url} (from {url.why})" if url else "-"


def _secrets(seen: Understanding) -> Iterator[tuple[str, str]]:
    yield from ((name, str(one.file)) for one in seen.sops.files for name in one.paths)
    yield from ((name, f"{one.file}: {one.why_not}") for one in seen.sops.others for name in one.paths)
    given = {one.variable or one.name.upper() for one in seen.secrets}
    yield from ((name, ".env") for name in seen.dotenv if name not in given)
    for environment, rendered in seen.rendered.items():
        for key, said in (rendered.document.get("secrets") or {}).items():
            file = facts.relative(seen.root, str(said.get("file") or ""))
            yield key, f"{environment}: {file or said.get('environment') or 'made elsewhere'}"


def _proposals_table(proposed: Sequence[Proposal]) -> Table:
    rows = tuple((path, now, flow(value)) for path, now, value in proposed)
    return Table(("key of stack.yaml", "now", "could be"), rows, title="Proposed; nothing was changed")


def _last_words(call: Invocation, seen: Understanding, plan: Plan, proposed: Sequence[Proposal]) -> Iterator[str]:
    tasks = call.root / "tasks.py"
    ours = not tasks.exists() or "conche" in tasks.read_text(encoding="utf-8", errors="replace")
    if not ours:
        has_one = re.search(r"^ns\b", tasks.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
        yield "tasks.py is yours and is left alone. To add the tasks, write at its end:"
        yield from (
            f"  {line}" for line in (*(() if has_one else OWN_FIRST), "from conche import namespace", BESIDE_YOURS)
        )
    if not len(plan) and not proposed and ours:
        yield "Nothing to do: stack.yaml is complete."
    elif not call.dry_run:
        first = seen.environments[0].name
        named = "" if first == "dev" or len(seen.environments) == 1 else f" --env {first}"
        yield f"Next: invoke {'' if ours else 'conche.'}env.up{named}"


def _as_json(seen: Understanding, text: str, proposed: Sequence[Proposal]) -> dict[str, object]:
    return {
        "name": seen.name,
        "stack": text,
        "environments": {
            one.name: {
                "compose": [str(file) for file in one.files],
                "project": one.project or f"{seen.name}-{one.name}",
                "health": url.url if (url := seen.health.get(one.name)) and url.sure else None,
                "services": {service.name: service for service in facts.services(seen.root, seen.rendered[one.name])},
            }
            for one in seen.environments
        },
        "data": [
            {"environment": name, "service": one.service, "source": one.source, "driver": one.driver, "name": one.name}
            for name, one in seen.data
        ],
        "secrets": [{"name": name, "where": where} for name, where in _secrets(seen)],
        "proposed": [{"key": path, "now": now, "could_be": value} for path, now, value in proposed],
    }
