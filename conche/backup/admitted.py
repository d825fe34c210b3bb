"""What a manifest may say, in its smallest parts: a stranger may have written it.

The first thing that is not admitted ends the reading. Otherwise each of millions would cost an error, which takes a
hundred times as much memory as what it is about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, FailFast, Field, model_validator

from conche.backup.strict import too_long

__all__ = ["Below", "Count", "Few", "Part", "Series", "Words", "below", "place", "shown"]

T = TypeVar("T")

SHOWN = 80
"""How much of a path that is not admitted is shown."""

MOST = 1000
"""Maximum number of components."""


def below(path: str) -> str:
    """Admit a path that leads from a folder to something in it, and nowhere else."""
    if any(part in ("", ".", "..") for part in path.split("/")) or "\0" in path or too_long(_bytes(path)):
        raise ValueError(f"{shown(path)} is no path below the backup")
    return path


def place(path: str) -> str:
    """Admit a path that leads from the folder of stack.yaml to something in it, or to that folder itself."""
    if path.startswith(("/", "~")) or ".." in path.split("/") or "\0" in path or too_long(_bytes(path)):
        raise ValueError(f"{shown(path)} is no path below stack.yaml")
    return path


def shown(path: str) -> str:
    """Return the beginning of a path as it may be printed."""
    return ascii(path if len(path) <= SHOWN else f"{path[:SHOWN]}…")


def _bytes(path: str) -> bytes:
    return path.encode(errors="surrogatepass")


def _words(said: Any) -> Any:
    for key, one in said.items() if isinstance(said, Mapping) else ():
        if not isinstance(one, str):
            raise ValueError(f"{shown(key)} is no text")
    return said


def _few(said: Any) -> Any:
    if isinstance(said, Mapping) and len(said) > MOST:
        raise ValueError(f"there are {len(said)} of them")
    return said


Below = Annotated[str, AfterValidator(below)]
Count = Annotated[int, Field(ge=0)]
Words = Annotated[Mapping[str, str], BeforeValidator(_words)]
Series = Annotated[tuple[T, ...], FailFast()]
Few = Annotated[Mapping[str, T], BeforeValidator(_few)]


class Part(BaseModel):
    """Something in a manifest that has these keys and no others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _no_more(cls, said: Any) -> Any:
        if isinstance(said, dict) and len(said) > len(cls.model_fields):
            raise ValueError(f"it has {len(said)} keys, {len(cls.model_fields)} at most are known")
        return said
