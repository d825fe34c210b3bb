"""ci.doctor: check that everything the pipeline depends on is there; no check writes anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict

from conche.ci.checks.examine import examine as findings
from conche.ci.checks.tools import tool
from conche.ci.forge import Forge, connect
from conche.ci.forge.waiting import explained
from conche.ci.runner.image import Images
from conche.ci.workflows.invoked import reader
from conche.ci.workflows.runners import runners
from conche.ci.workflows.surroundings import surroundings
from conche.ci.workflows.workflow import workflows
from conche.command import Invocation
from conche.doctor.finding import Finding
from conche.errors import ConcheError, Unreachable
from conche.outcome import Outcome, Table
from conche.session import open_compose

__all__ = ["doctor"]


def doctor(call: Invocation) -> Outcome:
    """Run every check. Exit code 1 when something needed is missing."""
    found = [*_tools(), *_carefully("workflows", lambda: _workflows(call))]
    found += _carefully("labels", lambda: _labels(call))
    found += _carefully("runners' image", lambda: _images(call))
    server = _carefully("server", lambda: _server(call))
    found += server
    if server[0].state == "ok":
        for name, check in (
            ("token", _token),
            ("secrets", _secrets),
            ("runners", _runners),
            ("run", _waiting),
            ("api", _lacking),
        ):
            found += _carefully(name, lambda check=check: check(call, connect(call)))  # type: ignore[misc]
    missing = [one for one in found if one.state == "missing"]
    rows = tuple((one.name, one.state, one.found, one.needed, one.next_command) for one in found)
    count = "one thing" if len(missing) == 1 else f"{len(missing)} things"
    return Outcome(
        value=[asdict(one) for one in found],
        tables=[Table(("what", "state", "found", "needed", "next"), rows)],
        lines=[f"{count} missing" if missing else "Nothing is missing."],
        exit_code=1 if missing else 0,
    )


def _carefully(name: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """Run a check, turning its failure into a finding so that the other checks still run."""
    try:
        return list(check())
    except ConcheError as error:
        return [Finding(name, "missing", error.message, "an answer", error.next_command.replace("\n", "; "))]


def _tools() -> Iterator[Finding]:
    for name in ("act", "zizmor", "shellcheck"):
        try:
            yield Finding(name, "ok", tool(name), "to check and run workflows")
        except ConcheError as error:
            yield Finding(name, "missing", error.message, "to check and run workflows", error.next_command)


def _workflows(call: Invocation) -> Iterator[Finding]:
    read = workflows(call.root, call.stack)
    found = findings(call.root, read, surroundings(call.root, call.stack, reader(call.root)))
    said = f"{len(read)} files, {len(found)} faults"
    yield Finding("workflows", "missing" if found else "ok", said, "no fault", "invoke ci.validate" if found else "")


def _labels(call: Invocation) -> Iterator[Finding]:
    for runner in runners(call.root, call.stack):
        bare = [label for label in runner.labels if ":" not in label]
        said = f"{runner.service}: {', '.join(runner.labels)}"
        hint = f"write {bare[0]}:host or {bare[0]}:docker://IMAGE" if bare else ""
        yield Finding("labels", "missing" if bare else "ok", said, "each with a scheme", hint)


def _images(call: Invocation) -> Iterator[Finding]:
    """Find out whether the runners have the programs of this checkout; where they run elsewhere there is no image."""
    found = runners(call.root, call.stack)
    for environment in dict.fromkeys(runner.environment for runner in found if runner.built):
        of_it = [runner for runner in found if runner.environment == environment]
        try:
            outdated = Images.look(call, open_compose(call, environment), of_it).outdated
        except Unreachable as error:
            # A person's machine need not have an engine; where it is needed, others say so.
            yield Finding("runners' image", "optional", error.message, "an engine to look at", error.next_command)
            continue
        for image in outdated:
            said = f"{image} was built from other sources"
            yield Finding("runners' image", "missing", said, "an image of this checkout", "invoke ci.runner.up")


def _server(call: Invocation) -> Iterator[Finding]:
    forge = connect(call, anonymous=True)
    yield Finding("server", "ok", f"{forge.server} at {forge.client.address}", "Gitea 1.21 or Forgejo 7, or later")


def _token(_call: Invocation, forge: Forge) -> Iterator[Finding]:
    said = forge.described()
    rights = [name for name, there in (said.get("permissions") or {}).items() if there]
    writes = forge.may_write()
    good = "admin" in rights and writes
    found = f"{forge.repository}: {', '.join(rights) or 'nothing'}" + ("" if writes else "; read-only")
    needed = "admin, for secrets and runners, with the scope write:repository"
    hint = "" if good else forge.client.new_token().replace("\n", "; ")
    yield Finding("token", "ok" if good else "missing", found, needed, hint)
    on = said.get("has_actions", True)
    yield Finding(
        "actions", "ok" if on else "missing", "on" if on else "off", "on for this repository",
        "" if on else f"open {forge.web}/settings",
    )  # fmt: skip


def _secrets(call: Invocation, forge: Forge) -> Iterator[Finding]:
    if not forge.can("secret-list"):
        return
    there = forge.secret_names()
    for name in call.stack.ci.secrets:
        state = "ok" if name in there else "missing"
        yield Finding("secret", state, f"{name} {'is there' if name in there else 'is not there'}", "for the workflows",
                      "" if name in there else "invoke ci.secrets")  # fmt: skip


def _runners(call: Invocation, forge: Forge) -> Iterator[Finding]:
    if not forge.can("runner-list"):
        return
    at_work = {label for runner in forge.runners() if runner.state != "offline" for label in runner.labels}
    asked = {label for one in workflows(call.root, call.stack) for job in one.jobs.values() for label in job.runs_on}
    lacking = sorted(asked - {label.partition(":")[0] for label in at_work})
    whole = forge.server.kind == "forgejo"
    said = f"no {'' if whole else 'repository '}runner online has {', '.join(lacking)}"
    # Gitea does not list the runners of the whole server, which may carry the rest.
    state = ("missing" if whole else "optional") if lacking else "ok"
    yield Finding("runners", state, said if lacking else ", ".join(sorted(asked)), "a runner online for each label",
                  "invoke ci.runner.up" if lacking else "")  # fmt: skip


def _waiting(call: Invocation, forge: Forge) -> Iterator[Finding]:
    """Find out whether the newest run goes on with no runner at work on it."""
    if not forge.can("run-list"):
        return
    asked = {label for one in workflows(call.root, call.stack) for job in one.jobs.values() for label in job.runs_on}
    for run in forge.runs(1):
        for why in explained(forge, run, forge.jobs(run), asked):
            yield Finding("run", "missing", why, "jobs that are taken", f"invoke ci.status --run {run.number}")


def _lacking(_call: Invocation, forge: Forge) -> Iterator[Finding]:
    absent = [name for name, there in forge.operations().items() if not there]
    said = f"without {', '.join(absent)}" if absent else "everything"
    yield Finding("api", "optional" if absent else "ok", said, "for ci.* without a browser")
