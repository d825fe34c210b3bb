"""A stand-in for PostgreSQL's psql and pg_dump, where no registry can be reached: SQLite behind their command lines.

What matters to a restore is that of PostgreSQL 15, seen at the real programs: what pg_dump writes fills an empty
database unless it is told `--clean --if-exists`; psql goes on after an error and ends with 0 unless it is told
`ON_ERROR_STOP`, and then ends with 3; `--single-transaction` leaves all or nothing. Rows are written as with
`--inserts`.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["CONTEXT", "DOCKERFILE"]

CONTEXT = Path(__file__).parent
DOCKERFILE = CONTEXT / "Dockerfile"
