"""ci.publish: a release of a tag on the server, with files attached."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from conche.ci.forge import connect
from conche.ci.forge.releases import Page, Releases, digest
from conche.command import Invocation
from conche.errors import NotFound, Refused
from conche.outcome import Action, Kind, Outcome, Plan, Step, Table
from conche.process import run
from conche.texts import read_text

__all__ = ["publish", "section_of"]

CHANGELOG = "CHANGELOG.md"


def publish(call: Invocation, tag: str, files: Sequence[str], notes: str | None, *, force: bool) -> Outcome:
    """Make a release of a tag, or add to it; it is a draft until every file is there.

    Args:
        notes: a file with what its page says; None for the tag's section of CHANGELOG.md.
        force: replace files that everybody can see, or that a person has attached, by others of the same name.

    Raises:
        NotFound: a file is missing, or the server does not have the tag.
        Refused: the tag names another commit there than here, or the release has another file of that name.
    """
    wanted = [file for one in files for file in _files(call.root, one)]
    _require_distinct(wanted)
    words = read_text(call.root / notes, notes) if notes else section_of(call.root, tag)
    forge = connect(call)
    releases = Releases(forge.client, forge.repository)
    _require_same(call.root, tag, releases.commit_of(tag), forge.repository)
    page = releases.find(tag)
    steps = tuple(_steps(releases, tag, page, wanted))
    _require_allowed(tag, page, steps, force=force)
    if call.dry_run:
        return Outcome(plan=Plan(steps))
    sent = {step.name for step in steps if step.kind == Kind.FILE}
    if page is None or steps:
        with call.output.progress(f"publishing {tag}") as progress:
            page = page or releases.draft(tag, words)
            for file in (one for one in wanted if one.name in sent):
                progress.step(f"attach {file.name}")
                # The new one first: a kill between the two leaves both, and the next call sees that and goes on.
                releases.attach(page, file)
                for old in page.named(file.name):
                    releases.detach(page, old)
            if page.draft:
                releases.show(page, words)
    rows = tuple((one.name, "attached" if one.name in sent else "was there", digest(one).hex()) for one in wanted)
    return Outcome(
        value={
            "tag": tag,
            "url": page.url,
            "files": [{"name": name, "state": state, "sha256": checksum} for name, state, checksum in rows],
        },
        changed=bool(steps),
        plan=Plan(steps),
        tables=[Table(("file", "state", "SHA-256"), rows)],
        lines=[page.url],
    )


def _steps(releases: Releases, tag: str, page: Page | None, wanted: Sequence[Path]) -> Iterator[Step]:
    if page is None:
        yield Step(Action.CREATE, Kind.RELEASE, tag, "the server has none; a draft until all is there")
    for file in wanted:
        there = page.named(file.name) if page else ()
        if not there:
            yield Step(Action.ADD, Kind.FILE, file.name, "the release does not have it")
        elif page is not None and not releases.has(page, file):
            yield Step(Action.REPLACE, Kind.FILE, file.name, "the release has another of that name", destroys=True)
    if page is None or page.draft:
        by_hand = page is not None and not page.ours
        cause = "the draft that somebody has made, with its text" if by_hand else "all of it is there"
        yield Step(Action.PUBLISH, Kind.RELEASE, tag, cause)


def _require_allowed(tag: str, page: Page | None, steps: Sequence[Step], *, force: bool) -> None:
    """Refuse to exchange a file that people may have fetched already, or that a person has put into a draft."""
    replaced = ", ".join(step.name for step in steps if step.action == Action.REPLACE)
    if not replaced or page is None or page.ours or force:
        return
    whose = "that somebody has attached to its draft" if page.draft else "which people may have fetched"
    raise Refused(
        "release-file-differs",
        f"The release {tag} has another {replaced}, {whose}.",
        looked_at=[page.url],
        next_command=f"invoke ci.publish {tag} … --force    # replaces it; a new tag is kinder",
    )


def _require_same(root: Path, tag: str, there: str, repository: str) -> None:
    """Refuse a tag that the server does not have, or that names another commit there than in this checkout."""
    if not there:
        raise NotFound(
            "no-such-ref", f"{repository} has no tag {tag} on the server.", next_command=f"git push REMOTE {tag}"
        )
    done = run(["git", "-C", str(root), "rev-parse", "--verify", "--quiet", f"refs/tags/{tag}^{{commit}}"])
    here = done.stdout.raw.strip()
    if here and here != there:
        raise Refused(
            "tag-differs",
            f"The tag {tag} names {there[:12]} on the server, and {here[:12]} here.",
            next_command=f"git fetch REMOTE --force tag {tag}    # takes over the server's",
        )


def _files(root: Path, text: str) -> list[Path]:
    """Return the file at a path, or every file in the folder there but hidden ones, such as a .gitignore."""
    path = (root / text).resolve()
    found = [path]
    if path.is_dir():
        found = sorted(one for one in path.iterdir() if one.is_file() and not one.name.startswith("."))
    if not found or not found[0].is_file():
        why = "it is an empty folder" if not found else "there is no such file"
        raise NotFound("no-such-file", f"{text} cannot be attached: {why}.", looked_at=[str(path)])
    return found


def _require_distinct(files: Sequence[Path]) -> None:
    names = [one.name for one in files]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Refused("names-repeat", f"Two files are called {', '.join(twice)}; a release has one of each name.")


def section_of(root: Path, tag: str) -> str:
    """Return what CHANGELOG.md says of a version, without the heading; empty if it says nothing.

    The form is that of https://keepachangelog.com: `## [0.2.0] - 2026-12-01`.
    """
    file = root / CHANGELOG
    if not file.is_file():
        return ""
    lines = read_text(file, CHANGELOG).splitlines()
    heading = re.compile(rf"## \[?{re.escape(tag.removeprefix('v'))}\]?(?:\s|$)")
    begun = next((number for number, line in enumerate(lines) if heading.match(line)), None)
    if begun is None:
        return ""
    rest = lines[begun + 1 :]
    ends = next((number for number, line in enumerate(rest) if line.startswith("## ")), len(rest))
    return "\n".join(rest[:ends]).strip()
