"""`conche`, and `python -m conche`: what there is before a tasks.py; all else is Invoke's, in the folder of one."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main"]

TASKS = """\
The other commands are tasks of Invoke, in the folder with the tasks.py that `conche init` writes:
  invoke --list
"""


def main(words: Sequence[str] | None = None) -> int:
    """Answer; the exit code is that of the errors, and 2 for what is not understood."""
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
    for one in (init, upgrade):
        one.add_argument("--dry-run", action="store_true", help="show the plan and change nothing")
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
        return _run(said.command, as_json=said.json, dry_run=said.dry_run)
    parser.print_help(sys.stderr)
    return 2


def _run(command: str, *, as_json: bool, dry_run: bool) -> int:
    from invoke import Exit

    from conche.command import Invocation, guarded
    from conche.init.init import init
    from conche.init.upgrade import upgrade
    from conche.output import Output

    act = {"init": init, "upgrade": upgrade}[command]
    call = Invocation(Path.cwd(), Output(command, as_json=as_json), dry_run=dry_run)
    try:
        guarded(call, lambda: act(call), changes=True)
    except Exit as end:
        return int(end.code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
