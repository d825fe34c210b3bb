"""The documentation that comes with the package, for a machine that has no checkout of Conche."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from conche.errors import NotFound
from conche.outcome import Outcome, Table

__all__ = ["pages", "show"]

_HERE = Path(__file__).parent


def pages() -> Mapping[str, Path]:
    """Return name -> the Markdown file of each page, of the package or of the checkout that runs."""
    folder = next((one for one in (_HERE / "docs", _HERE.parent / "docs") if (one / "reference").is_dir()), None)
    return {file.stem: file for file in sorted(folder.rglob("*.md"))} if folder else {}


def show(name: str | None) -> Outcome:
    """Show a page as Markdown; without a name, what there is.

    Raises:
        NotFound: there is no page of that name.
    """
    found = pages()
    if name is None:
        titles = {one: _title(file) for one, file in found.items()}
        return Outcome(value=titles, tables=[Table(("page", "title"), tuple(titles.items()))])
    if name not in found:
        near = get_close_matches(name, found, 1)
        raise NotFound(
            "page-unknown",
            f"There is no page {name}.",
            evidence=[", ".join(found) or "this Conche was copied without its documentation"],
            next_command=f"conche docs {near[0]}" if near else "conche docs    # lists the pages",
        )
    text = found[name].read_text(encoding="utf-8")
    return Outcome(value=text, raw=text)


def _title(file: Path) -> str:
    with file.open(encoding="utf-8") as lines:
        return lines.readline().lstrip("# ").rstrip()
