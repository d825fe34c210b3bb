"""`conche`, and `python -m conche`: what there is before a tasks.py; all else is Invoke's, in the folder of one."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from conche import require_posix

__all__ = ["main"]

TASKS = """\
The other commands are tasks of Invoke, in the folder with the tasks.py that `conche init` writes:
  invoke --list
"""


def main(words: Sequence[str] | None = None) -> int:
    """Answer; the exit code is that of the errors, and 2 for what is not understood."""
    require_posix()
    parser = ArgumentParser("conche", description="Run a Docker Compose stack of your own servers.", epilog=TASKS)
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    init = commands.add_parser(
        "init",
        help="write stack.yaml and tasks.py for the Compose files here",
        description="Look at the Compose files, .env, Dockerfiles, SOPS files and workflows of this folder; show what"
        " was understood; write stack.yaml and tasks.py. Existing files are left alone: a second run proposes.",
    )
    upgrade = commands.add_parser(
        "upgrade",
        help="write stack.yaml in the format of this version",
        description="Give renamed keys of stack.yaml their new names, and write the number of the format. Everything"
        " else stays as it is written, comments too.",
    )
    docs = commands.add_parser(
        "docs",
        help="print a page of the documentation, or the list of pages",
        description="Print a page of the documentation as Markdown; without a name, the list of pages.",
    )
    docs.add_argument("page", nargs="?", help="its name, such as stack, tasks or errors")
    for one in (init, upgrade):
        one.add_argument("--dry-run", action="store_true", help="show the plan and change nothing")
    for one in (init, upgrade, docs):
        one.add_argument("--json", action="store_true", help="one JSON document on stdout instead of tables")
    try:
        said = parser.parse_args(words)
    except SystemExit as end:
        return int(end.code or 0)
    if said.version:
        from conche.version import version

        sys.stdout.write(f"conche {version()}\n")
        return 0
    if said.command:
        return _run(said)
    parser.print_help(sys.stderr)
    return 2


def _run(said: Namespace) -> int:
    from invoke import Exit

    from conche.command import Invocation, guarded
    from conche.documentation import show
    from conche.init.init import init
    from conche.init.upgrade import upgrade
    from conche.outcome import Outcome
    from conche.output import Output

    acts: dict[str, Callable[[Invocation], Outcome]] = {
        "init": init,
        "upgrade": upgrade,
        "docs": lambda _: show(said.page),
    }
    call = Invocation(Path.cwd(), Output(said.command, as_json=said.json), dry_run=getattr(said, "dry_run", False))
    try:
        guarded(call, lambda: acts[said.command](call), changes=said.command != "docs")
    except Exit as end:
        return int(end.code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
