"""backup.report: a single HTML page that loads nothing else and runs no script."""

from __future__ import annotations

import html
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from conche.backup.manifest import human_size
from conche.backup.schedule import next_runs
from conche.backup.site import Site, open_site
from conche.backup.status import status
from conche.backup.summary import new_bytes, state_of
from conche.backup.target import StoredBackup, unwritable
from conche.command import Invocation
from conche.files import write_atomic
from conche.outcome import Outcome

__all__ = ["page", "report"]

FILE = "report.html"
WIDTH, HEIGHT, FOOT = 900, 220, 40

STYLE = """
:root { color-scheme: light dark; --good: #2a7d4f; --bad: #b3261e; --bar: #7a4b2a; --new: #d39b5d; --line: #8886; }
@media (prefers-color-scheme: dark) { :root { --good: #6cc995; --bad: #ff8a80; --bar: #a8714a; --new: #e8bd85; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
.figure { display: block; text-align: right; font-variant-numeric: tabular-nums; } .none { opacity: .6; }
.why { display: inline-block; max-width: 24rem; white-space: normal; font-size: .85em; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: 600; }
svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: currentColor; }
.size { fill: var(--bar); } .new { fill: var(--new); } .axis { stroke: var(--line); }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em; }
"""


def report(call: Invocation, output: str | None) -> Outcome:
    """Write the page to a file."""
    site = open_site(call)
    file = Path(output).expanduser() if output else site.target.folder / FILE
    content = page(call, site, datetime.now(UTC)).encode()
    try:
        write_atomic(file, content, mode=0o600)
    except OSError as error:
        raise unwritable(file.parent, error) from error
    return Outcome(value={"file": str(file)}, changed=True, lines=[f"{file}"])


def page(call: Invocation, site: Site, now: datetime) -> str:
    """Return the page as text."""
    backups = site.target.backups()
    costs = [new_bytes(one, backups[place + 1 :]) for place, one in enumerate(backups)]
    title = f"Backups of {html.escape(site.stack.name)}"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p>{html.escape(str(site.target.folder))}, {_count(len(backups))}, {human_size(sum(costs))} on disk;
as of {now.astimezone():%Y-%m-%d %H:%M %Z}</p>
<h2>State</h2>
{_state(call)}
<h2>Sizes</h2>
{_chart(backups, costs)}
<h2>Backups</h2>
{_table(site, backups, costs)}
<h2>Next runs</h2>
{_runs(site, now)}
</body>
</html>
"""


def _state(call: Invocation) -> str:
    outcome = status(call)
    [table] = outcome.tables
    return _rows(table.columns, [[_marked(cell) for cell in row] for row in table.rows])


def _chart(backups: Sequence[StoredBackup], costs: Sequence[int]) -> str:
    """Draw a bar for each backup, the oldest on the left: its size, and within it the part that is new."""
    if not backups:
        return "<p>There is none yet.</p>"
    sizes = [one.size for one in backups]
    largest = max(*sizes, 1)
    step = WIDTH / len(backups)
    wide = min(max(step * 0.7, 1), 60)
    bars = []
    for place, (one, size, cost) in enumerate(reversed(list(zip(backups, sizes, costs, strict=True)))):
        left = place * step + (step - wide) / 2
        said = html.escape(f"{one.name}: {human_size(size)}, {human_size(cost)} new")
        for kind, value in (("size", size), ("new", cost)):
            tall = value / largest * HEIGHT
            bars.append(
                f'<rect class="{kind}" x="{left:.1f}" y="{HEIGHT - tall + 20:.1f}" width="{wide:.1f}"'
                f' height="{tall:.1f}"><title>{said}</title></rect>'
            )
        if place % max(1, len(backups) // 8) == 0:
            day = f"{one.created.astimezone():%d %b}"
            bars.append(f'<text x="{left:.1f}" y="{HEIGHT + FOOT}">{day}</text>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + FOOT + 10}" role="img" aria-label="sizes of the backups">'
        f'<text x="0" y="12">{human_size(largest)}</text>'
        f'<line class="axis" x1="0" x2="{WIDTH}" y1="{HEIGHT + 20}" y2="{HEIGHT + 20}"/>{"".join(bars)}</svg>'
        '<p><span class="key" style="background:var(--bar)"></span>size'
        '<span class="key" style="background:var(--new)"></span>of it new</p>'
    )


def _table(site: Site, backups: Sequence[StoredBackup], costs: Sequence[int]) -> str:
    rows = []
    for one, cost in zip(backups, costs, strict=True):
        record, known = site.target.record(one), one.manifest
        harm = html.escape("; ".join(known.harm)) if known else ""
        rows.append(
            [
                html.escape(one.name),
                _marked(state_of(one)) + (f'<br><span class="why">{harm}</span>' if harm else ""),
                f"{one.created.astimezone():%Y-%m-%d %H:%M}",
                _figure(human_size(one.size)),
                _figure(human_size(cost)),
                _figure(f"{known.seconds:g} s" if known else ""),
                _moment(record.verified, "bad"),
                # Only the newest backup is drilled, once a week: for the others, never is no fault.
                _moment(record.drilled, "none"),
            ]
        )
    return _rows(("backup", "state", "made", "size", "new", "took", "verified", "drilled"), rows)


def _runs(site: Site, now: datetime) -> str:
    rows = [[html.escape(name), f"{when:%a %Y-%m-%d %H:%M}"] for name, when in next_runs(site, now.astimezone())]
    return _rows(("entry", "next run, if the schedule is installed"), rows)


def _rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _count(number: int) -> str:
    return "one backup" if number == 1 else f"{number} backups"


def _marked(word: str) -> str:
    kind = {"ok": "good", "complete": "good", "LATE": "bad", "DEGRADED": "bad"}.get(word)
    return f'<span class="{kind}">{word}</span>' if kind else html.escape(word)


def _figure(text: str) -> str:
    return f'<span class="figure">{text}</span>'


def _moment(moment: datetime | None, never: str) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M}" if moment else f'<span class="{never}">never</span>'
