"""`python -m conche`: what Conche says of itself. Its tasks are Invoke's, in the folder of a `tasks.py`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

USAGE = """\
Usage: python -m conche --version

The tasks are called through Invoke, in a folder with a tasks.py:
  from conche import namespace
  ns = namespace(__file__)
Type there: invoke --list
"""


def main(words: Sequence[str] | None = None) -> int:
    """Answer; the exit code is 2 for what is not understood."""
    said = list(sys.argv[1:] if words is None else words)
    if said == ["--version"]:
        from conche.version import version

        sys.stdout.write(f"conche {version()}\n")
        return 0
    asked = said in (["--help"], ["-h"])
    (sys.stdout if asked else sys.stderr).write(USAGE)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
