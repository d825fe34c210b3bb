"""Releases of a repository: what a tag's page says, and the files that are attached to it."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from conche.ci.forge.client import CORRECT, Client
from conche.errors import NotFound, Unreachable

__all__ = ["Attached", "Page", "Releases"]

LISTED = 50
"""Releases that are looked through, the newest first; a server of default settings gives no more at once."""


OURS = "<!-- ci.publish has not yet attached every file -->"
"""The end of a draft's text that says who has made it; pages do not show it, and it goes once the release is shown."""


@dataclass(frozen=True)
class Attached:
    """A file of a release.

    Attributes:
        size: in bytes, as the server says.
    """

    id: int
    name: str
    size: int


@dataclass(frozen=True)
class Page:
    """A release.

    Attributes:
        draft: whether only those who may write to the repository see it.
        files: those attached; a server may hold two of one name.
        ours: it is a draft that a command of ours has left unfinished, and nobody has written anything else.
    """

    id: int
    tag: str
    url: str
    draft: bool
    files: tuple[Attached, ...]
    ours: bool = False

    def named(self, name: str) -> list[Attached]:
        """Return the files of this name."""
        return [one for one in self.files if one.name == name]


class Releases:
    """The releases of one repository; every version of Gitea and Forgejo that is supported has them.

    Source: `templates/swagger/v1_json.tmpl` of Gitea 1.21 and Forgejo 7. Seen on Forgejo 15.0.3: drafts are listed for
    whoever may write, and a file can be fetched by its name with a token.
    """

    def __init__(self, client: Client, repository: str) -> None:
        self._client = client
        self._repository = repository
        self._path = f"/repos/{repository}/releases"

    def commit_of(self, tag: str) -> str:
        """Return the commit that a tag names on the server; empty if the server has no such tag.

        Raises:
            Unreachable: the server describes something else; so does `find`.
        """
        try:
            said = self._client.json("GET", f"/repos/{self._repository}/tags/{quote(tag, safe='')}")
        except NotFound:
            return ""
        try:
            return str(said["commit"]["sha"])
        except (LookupError, TypeError) as error:
            raise _unknown("a tag", error) from error

    def find(self, tag: str) -> Page | None:
        """Return the release of a tag, drafts included; None if there is none."""
        with contextlib.suppress(NotFound):
            return _page(self._client.json("GET", f"{self._path}/tags/{quote(tag, safe='')}"))
        # A draft has no tag yet to the server, and is among the newest.
        said = self._client.json("GET", f"{self._path}?limit={LISTED}") or []
        try:
            found = next((one for one in said if one["tag_name"] == tag), None)
        except (LookupError, TypeError) as error:
            raise _unknown("its releases", error) from error
        return _page(found) if found is not None else None

    def draft(self, tag: str, notes: str) -> Page:
        """Make a release of a tag that nobody else sees yet."""
        body = {"tag_name": tag, "name": tag, "body": f"{notes}\n\n{OURS}", "draft": True}
        return _page(self._client.json("POST", self._path, body))

    def show(self, page: Page, notes: str) -> None:
        """Let everybody see a release who may see the repository; one that a person has written keeps its text."""
        body = {"body": notes} if page.ours else {}
        self._client.json("PATCH", f"{self._path}/{page.id}", {"draft": False, **body})

    def attach(self, page: Page, file: Path) -> None:
        """Attach a file under its own name, beside others of that name."""
        self._client.upload(f"{self._path}/{page.id}/assets?name={quote(file.name, safe='')}", file)

    def detach(self, page: Page, one: Attached) -> None:
        """Delete an attached file."""
        self._client.call("DELETE", f"{self._path}/{page.id}/assets/{one.id}")

    def has(self, page: Page, file: Path) -> bool:
        """Return whether a release has this very file, once, by fetching it from the server.

        Raises:
            Unreachable: the server gives another amount of bytes than it says.
        """
        there = page.named(file.name)
        if len(there) != 1 or there[0].size != file.stat().st_size:
            return False
        found = hashlib.sha256()
        path = f"/{self._repository}/releases/download/{quote(page.tag, safe='')}/{quote(file.name, safe='')}"
        for block in self._client.blocks(path, there[0].size):
            found.update(block)
        return found.digest() == digest(file)


def digest(file: Path) -> bytes:
    """Return the SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _page(said: Mapping[str, Any]) -> Page:
    """Read a release as the server describes it.

    Raises:
        Unreachable: it describes something else.
    """
    try:
        files = tuple(Attached(int(one["id"]), str(one["name"]), int(one["size"])) for one in said.get("assets") or ())
        draft = bool(said.get("draft"))
        ours = draft and str(said.get("body") or "").rstrip().endswith(OURS)
        return Page(int(said["id"]), str(said["tag_name"]), str(said["html_url"]), draft, files, ours)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unknown("a release", error) from error


def _unknown(what: str, error: Exception) -> Unreachable:
    return Unreachable(
        "server-answers-no-json",
        f"The server describes {what} in a form that is not known.",
        evidence=[f"{type(error).__name__}: {error}"],
        next_command=CORRECT,
    )
