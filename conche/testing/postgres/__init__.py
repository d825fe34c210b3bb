"""A stand-in for PostgreSQL's psql and pg_dump, for use without a registry: SQLite behind their command lines.

What matters to a restore behaves as observed in PostgreSQL 15: pg_dump's output fits only an empty database unless it
was made with `--clean --if-exists`; psql goes on after an error and ends with 0, but with `ON_ERROR_STOP` it stops and
ends with 3; `--single-transaction` applies all or nothing. Rows are written as with `--inserts`.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["CONTEXT", "DOCKERFILE"]

CONTEXT = Path(__file__).parent
DOCKERFILE = CONTEXT / "Dockerfile"
