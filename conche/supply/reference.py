"""References of images: `registry/repository:tag@digest`, parsed here and never split by string methods elsewhere.

Source of the grammar: https://pkg.go.dev/github.com/distribution/reference
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from conche.errors import Refused

__all__ = ["Reference", "parse", "short"]

DOCKER_HUB = "docker.io"
"""The registry of a reference that names none."""

LONGEST = 255
"""Maximum number of characters of registry and repository together."""

_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9A-Fa-f:]+\])"
_REGISTRY = re.compile(rf"{_HOST}(?::[0-9]{{1,5}})?")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")


@dataclass(frozen=True)
class Reference:
    """One image in one registry.

    Attributes:
        registry: host[:port].
        repository: the name below it, lower case.
        tag: empty if only the digest counts.
        digest: `sha256:…`; empty if the tag decides.
    """

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    @property
    def familiar(self) -> str:
        """The form that engines and people write: without Docker Hub's name, and without its `library`."""
        return (
            str(self).removeprefix(f"{DOCKER_HUB}/").removeprefix("library/")
            if self.registry == DOCKER_HUB
            else str(self)
        )

    @property
    def at_any_tag(self) -> Reference:
        """The repository alone."""
        return replace(self, tag="", digest="")

    @property
    def wanted(self) -> str:
        """What to ask a registry for: the digest, or else the tag."""
        return self.digest or self.tag

    def tagged(self, tag: str) -> Reference:
        """Return the same repository with another tag."""
        if not _TAG.fullmatch(tag):
            raise _invalid(
                tag,
                "a tag is up to 128 letters, digits, `_`, `.` and `-`, and does not start with either of the last two",
            )
        return replace(self, tag=tag, digest="")

    def at(self, wanted: str) -> Reference:
        """Return the same repository with a digest or a tag."""
        return self.pinned(wanted) if _DIGEST.fullmatch(wanted) else self.tagged(wanted)

    def pinned(self, digest: str) -> Reference:
        """Return the same repository by digest alone."""
        return replace(self, tag="", digest=digest)

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse(text: str, *, default_tag: str = "latest") -> Reference:
    """Parse a reference as people write it.

    Raises:
        Refused: it is invalid; the message says why.
    """
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _invalid(text, "a digest is sha256: and 64 lower-case hexadecimal digits")
    first, slash, below = rest.partition("/")
    hosted = bool(slash) and (first == "localhost" or any(sign in first for sign in ".:["))
    registry, path = (first, below) if hosted else (DOCKER_HUB, rest)
    if registry == f"index.{DOCKER_HUB}":
        registry = DOCKER_HUB
    if not _REGISTRY.fullmatch(registry):
        raise _invalid(text, f"{registry!r} is not a registry host")
    repository, colon, tag = path.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _invalid(text, f"{tag!r} is not a tag")
    if not _REPOSITORY.fullmatch(repository):
        hint = "; repositories are in lower case" if repository != repository.lower() else ""
        raise _invalid(text, f"{repository!r} is not a repository{hint}")
    if len(registry) + 1 + len(repository) > LONGEST:
        raise _invalid(text, f"registry and repository have more than {LONGEST} characters")
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    return Reference(registry, repository, tag or ("" if digest else default_tag), digest)


def _invalid(text: str, why: str) -> Refused:
    return Refused(
        "reference-invalid",
        f"{text!r} is not an image reference: {why}.",
        next_command="write it as registry/repository:tag or registry/repository@sha256:…",
    )


def short(text: str) -> str:
    """Shorten a reference or image id for tables: twelve digits of a digest, and no registry before one."""
    name, at, digest = text.rpartition("@")
    if not at:
        return text[7:19] if text.startswith("sha256:") else text
    return f"{name.partition('/')[2] or name}@{digest[7:19]}"
