"""The checkouts with secrets that the tests of the tasks use too."""

from __future__ import annotations

from tests.secrets.conftest import checkout, template

__all__ = ["checkout", "template"]
