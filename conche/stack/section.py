"""The base model and the field types of every section of stack.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Name", "SecretName", "Section", "VariableName"]

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*([-_][a-z0-9]+)*$", max_length=63)]
SecretName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=63)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=63)]


class Section(BaseModel):
    """A mapping of stack.yaml: frozen, strict, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)
