"""invoke secrets.scan: finds the real values wherever they should not be."""

from __future__ import annotations

from dataclasses import asdict

from conche.command import Invocation
from conche.engine.connection import Engine
from conche.outcome import Outcome, Table
from conche.secrets.several import every_value
from conche.vault.leaks import Leak, Needles, scan_history, scan_index, scan_worktree
from conche.vault.leaks_in_images import scan_image
from conche.vault.leaks_in_logs import scan_container_logs, scan_log_files
from conche.vault.values import PLACEHOLDERS, opened

__all__ = ["scan"]


def scan(call: Invocation, *, staged: bool, history: bool, image: list[str], logs: bool) -> Outcome:
    """Search for every value and for age keys; show which and where, never the value. Exit with 1 on findings."""
    section, _ = opened(call.stack, call.root)
    values = every_value(call) if call.vault.key else {}
    real = {name: value for name, value in values.items() if value.reveal() not in PLACEHOLDERS}
    needles = Needles(real, harmless=section.demonstration)
    found: list[Leak] = []
    if staged:
        found += scan_index(call.root, needles)
    else:
        found += scan_worktree(call.root, needles)
    if history:
        found += scan_history(call.root, needles)
    for reference in image:
        found += scan_image(Engine(), reference, needles)
    if logs:
        found += scan_log_files(call.root, needles)
        found += scan_container_logs(call.stack, needles)
    rows = tuple((one.kind, one.place, one.name) for one in found)
    known = "" if values else ", without a key: age keys only"
    lines = [f"Searched for {len(real)} secrets{known}; {len(found)} found."]
    lines += [f"Next: invoke secrets.rotate-value {name}" for name in sorted({one.name for one in found} & real.keys())]
    return Outcome(
        value=[asdict(one) for one in found],
        tables=[Table(("kind", "place", "secret"), rows)] if rows else [],
        lines=lines,
        exit_code=1 if found else 0,
    )
