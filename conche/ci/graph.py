"""ci.graph: draw the workflows' jobs and what each waits for, as text, Mermaid or SVG, from the files themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from conche.ci.workflows.workflow import Job, Workflow, ordered, workflows
from conche.command import Invocation
from conche.errors import Refused, did_you_mean
from conche.outcome import Outcome

__all__ = ["as_mermaid", "as_svg", "as_text", "graph"]

WIDTH, HEIGHT, GAP = 250, 62, 34
"""Size of a job's box in SVG and the gap between two boxes, in pixels."""

COLUMN, ROW = WIDTH + 2 * GAP, HEIGHT + GAP
MARGIN, TITLE = 20, 30


def graph(call: Invocation, form: str) -> Outcome:
    """Draw the graph in one of its forms.

    Raises:
        Refused: there is no such form.
    """
    drawn = {"text": as_text, "mermaid": as_mermaid, "svg": as_svg}
    if form not in drawn:
        raise Refused(
            "form-unknown",
            f"There is no format {form!r}.{did_you_mean(form, drawn)}",
            looked_at=[f"formats: {', '.join(drawn)}"],
            next_command="invoke ci.graph --form mermaid",
        )
    read = workflows(call.root, call.stack)
    value = {
        one.file: {
            job.name: {"needs": job.needs, "runs_on": job.runs_on, "if": job.condition} for job in one.jobs.values()
        }
        for one in read
    }
    return Outcome(value=value, raw=drawn[form](read))


def as_text(read: Sequence[Workflow]) -> str:
    """Draw a tree for each workflow: a job is placed below the last of the jobs that it needs."""
    return "\n".join("\n".join(_tree(workflow)) + "\n" for workflow in read)


def _tree(workflow: Workflow) -> Iterator[str]:
    yield f"{workflow.name} ({workflow.file})"
    for event, filters in workflow.triggers.items():
        branches = ", ".join(str(branch) for branch in filters.get("branches") or ())
        yield f"  on {event}" + (f": {branches}" if branches else "")
    order = {name: number for number, name in enumerate(ordered(workflow))}
    below: dict[str, list[Job]] = {"": []}
    for name, place in order.items():
        job = workflow.jobs[name]
        known = [one for one in job.needs if order.get(one, place) < place]  # breaks cycles
        below.setdefault(max(known, key=order.__getitem__) if known else "", []).append(job)

    def branch(parent: str, indent: str) -> Iterator[str]:
        jobs = below.get(parent, [])
        for number, job in enumerate(jobs):
            last = number == len(jobs) - 1
            yield f"{indent}{'└── ' if last else '├── '}{_described(job, parent)}"
            yield from branch(job.name, indent + ("    " if last else "│   "))

    yield from branch("", "")


def _described(job: Job, parent: str) -> str:
    also = [need for need in job.needs if need != parent]
    parts = [job.name, f"[{', '.join(job.runs_on)}]" if job.runs_on else ""]
    parts += [f"if {job.condition}" if job.condition else "", f"also after {', '.join(also)}" if also else ""]
    return "  ".join(part for part in parts if part)


def as_mermaid(read: Sequence[Workflow]) -> str:
    """Return a flowchart that Forgejo, Gitea and GitHub render in Markdown."""
    lines = ["flowchart TD"]
    for number, workflow in enumerate(read):
        names = {name: f"w{number}j{position}" for position, name in enumerate(workflow.jobs)}
        lines.append(f'    subgraph w{number}["{_mermaid(workflow.name)}"]')
        for name, job in workflow.jobs.items():
            label = "<br/>".join(_mermaid(line) for line in _lines(job))
            lines.append(f'        {names[name]}["{label}"]')
        for name, job in workflow.jobs.items():
            lines += [f"        {names[need]} --> {names[name]}" for need in job.needs if need in names]
        lines.append("    end")
    return "\n".join(lines) + "\n"


def _mermaid(text: str) -> str:
    return text.replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")


def as_svg(read: Sequence[Workflow]) -> str:
    """Draw the jobs in columns: each is one column to the right of the last job that it needs."""
    parts, top, width = [], MARGIN, 0
    for workflow in read:
        places = _places(_columns(workflow), top + TITLE)
        parts.append(f'<text x="{MARGIN}" y="{top + 14}" class="title">{escape(workflow.name)}</text>')
        parts += [_arrow(places[need], places[job.name]) for job in workflow.jobs.values()
                  for need in job.needs if need in places]  # fmt: skip
        parts += [_box(workflow.jobs[name], place) for name, place in places.items()]
        top = max((y + ROW for _, y in places.values()), default=top + TITLE)
        width = max([width, *(x + WIDTH + MARGIN for x, _ in places.values())])
    style = (
        "text{font:12px sans-serif;fill:#222}.title{font-weight:bold;font-size:14px}"
        "rect{fill:#eef3f8;stroke:#5b7a99}path{fill:none;stroke:#5b7a99;marker-end:url(#head)}"
    )
    head = '<marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top + MARGIN}">\n<style>{style}</style>\n'
        f'<defs>{head}<path d="M0 0L8 4L0 8z" style="fill:#5b7a99;stroke:none"/></marker></defs>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _columns(workflow: Workflow) -> list[list[str]]:
    depth: dict[str, int] = {}
    for name in ordered(workflow):
        depth[name] = 1 + max((depth[need] for need in workflow.jobs[name].needs if need in depth), default=-1)
    return [
        [name for name, at in depth.items() if at == number] for number in range(max(depth.values(), default=-1) + 1)
    ]


def _places(columns: Sequence[Sequence[str]], top: int) -> dict[str, tuple[int, int]]:
    return {
        name: (MARGIN + column * COLUMN, top + row * ROW)
        for column, names in enumerate(columns)
        for row, name in enumerate(names)
    }


def _box(job: Job, place: tuple[int, int]) -> str:
    x, y = place
    texts = "".join(
        f'<text x="{x + 10}" y="{y + 18 + 16 * number}">{escape(_cut(line))}</text>'
        for number, line in enumerate(_lines(job))
    )
    tip = f"<title>{escape(job.condition)}</title>" if job.condition else ""
    return f'<g>{tip}<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>{texts}</g>'


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    x1, y1, x2, y2 = start[0] + WIDTH, start[1] + HEIGHT // 2, end[0], end[1] + HEIGHT // 2
    middle = (x1 + x2) // 2
    return f'<path d="M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}"/>'


def _lines(job: Job) -> list[str]:
    runner = f"on {', '.join(job.runs_on)}" if job.runs_on else ""
    return [line for line in (job.name, runner, f"if {job.condition}" if job.condition else "") if line]


def _cut(line: str) -> str:
    return line if len(line) <= 38 else f"{line[:37]}…"
