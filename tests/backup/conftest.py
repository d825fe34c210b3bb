"""The checkout with proven and unproven backups, made once and copied for each test."""

from __future__ import annotations

from tests.backup.proven import made, server

__all__ = ["made", "server"]
