"""invoke backup.*"""

from typing import TYPE_CHECKING, Annotated

from conche.command import Invocation, command

if TYPE_CHECKING:
    from conche.outcome import Outcome

Name = Annotated[str, "the backup, or latest"]
Log = Annotated[str | None, "append the output to this file, which is rotated"]
Kind = Annotated[str, "daily, weekly or monthly"]


@command(changes=True, waits=True, bare="kind")
def create(
    invocation: Invocation,
    kind: Kind = "daily",
    plain_key: Annotated[bool, "store the age key unencrypted"] = False,
    wait: Annotated[float, "seconds to wait for another backup command to end"] = 0.0,
    new_target: Annotated[bool, "start afresh in a folder without the target's mark"] = False,
    accept_smaller: Annotated[list[str], "a component that may have lost most of its data; may be repeated"] = (),  # type: ignore[assignment]
    reread: Annotated[bool, "read everything, even what has not changed since an earlier backup"] = False,
    log: Log = None,
) -> "Outcome":
    """Make a backup, verify it, prune.

    It appears only when it is whole. Exit code 3: it is kept, but something is missing from it.
    """
    from conche.backup.create import CreateOptions, create
    from conche.backup.missed import scheduled

    return scheduled(
        invocation,
        log,
        lambda: create(invocation, kind, CreateOptions(plain_key, wait, new_target, accept_smaller, reread)),
    )


@command(name="list")
def list_(invocation: Invocation) -> "Outcome":
    """List the backups: age, size, last verified."""
    from conche.backup.list import list_

    return list_(invocation)


@command()
def show(invocation: Invocation, name: Name) -> "Outcome":
    """Show the components and files of a backup."""
    from conche.backup.show import show

    return show(invocation, name)


@command()
def diff(
    invocation: Invocation,
    first: Annotated[str, "the older backup"],
    second: Annotated[str, "the newer one, or latest"],
) -> "Outcome":
    """Show what differs between two backups."""
    from conche.backup.diff import diff

    return diff(invocation, first, second)


@command()
def status(invocation: Invocation) -> "Outcome":
    """Check that the newest good backups are recent enough; exit code 1 if not."""
    from conche.backup.status import status

    return status(invocation)


@command(waits=True, bare="name")
def verify(
    invocation: Invocation,
    name: Annotated[str | None, "one backup, or latest; default: all"] = None,
    all: Annotated[bool, "every backup"] = False,
    deep: Annotated[bool, "also unpack every archive, without writing it"] = False,
    log: Log = None,
) -> "Outcome":
    """Compare every file with the manifest."""
    from conche.backup.missed import scheduled
    from conche.backup.verify import verify

    return scheduled(invocation, log, lambda: verify(invocation, name, every=all, deep=deep))


@command(changes=True, destroys=True, waits=True, bare="name")
def restore(  # noqa: PLR0917 - each is an option of the command line
    invocation: Invocation,
    name: Annotated[str | None, "the backup, or latest; default: only list them"] = None,
    component: Annotated[list[str], "only this component; may be repeated"] = (),  # type: ignore[assignment]
    target: Annotated[str | None, "only unpack into this new folder"] = None,
    force: Annotated[bool, "do not ask"] = False,
    from_: Annotated[str | None, "offsite: first fetch it from the repository of backup.sync"] = None,
    recovery_key: Annotated[str | None, "file with the key that opens the age key of the backup"] = None,
    no_way_back: Annotated[bool, "even if the current data cannot be dumped"] = False,
    accept_key: Annotated[list[str], "a public key that may read the secrets from now on; may be repeated"] = (),  # type: ignore[assignment]
    plain_key: Annotated[bool, "take an age key that is stored unencrypted"] = False,
    unproven: Annotated[bool, "even if nothing proves that it is a backup of this stack, unchanged"] = False,
    degraded: Annotated[bool, "also what is degraded in it, though another backup has it sound"] = False,
) -> "Outcome":
    """Restore a backup.

    It is first verified and unpacked beside the current data. Then what uses the data stops, old and new are exchanged,
    and it starts again; if it does not become healthy, all is undone. The old data are kept until the next backup.
    """
    from conche.backup.restore import RestoreOptions, restore

    return restore(
        invocation,
        name,
        RestoreOptions(
            component, target, force, from_, recovery_key, no_way_back, accept_key, plain_key, unproven, degraded
        ),
    )


@command(changes=True, destroys=True, waits=True, bare="name")
def undo(
    invocation: Invocation,
    name: Annotated[str | None, "the number of a restore; default: the newest"] = None,
    force: Annotated[bool, "do not ask"] = False,
    no_way_back: Annotated[bool, "even if the current data cannot be dumped"] = False,
) -> "Outcome":
    """Put back what a restore has put aside, until the next complete backup.

    What is there now changes places with it, and is put aside in turn: undo that too, and all is as it was. If it does
    not work, nothing has changed.
    """
    from conche.backup.undo import UndoOptions, undo

    return undo(invocation, name, UndoOptions(force, no_way_back))


@command(changes=True, waits=True)
def settle(
    invocation: Invocation,
    as_it_is: Annotated[bool, "leave everything as it is; the old data are kept"] = False,
) -> "Outcome":
    """Undo an unfinished restore, and resume containers that were paused or stopped.

    Other commands try that once. After that only this one does, since what was written meanwhile is lost.
    """
    from conche.backup.settle import settle

    return settle(invocation, as_it_is=as_it_is)


@command(changes=True, waits=True)
def prune(
    invocation: Invocation,
    future: Annotated[bool, "instead delete backups dated in the future"] = False,
) -> "Outcome":
    """Delete what retention does not keep."""
    from conche.backup.prune import prune

    return prune(invocation, future=future)


@command(waits=True, bare="name")
def drill(
    invocation: Invocation,
    name: Annotated[str | None, "the backup; default: the newest"] = None,
    log: Log = None,
) -> "Outcome":
    """Test a restore in scratch places.

    Unpacks archives, restores buckets under other names and starts copies of services; all of it is removed again.
    """
    from conche.backup.drill import drill
    from conche.backup.missed import scheduled

    return scheduled(invocation, log, lambda: drill(invocation, name))


@command(changes=True, waits=True)
def sync(invocation: Invocation, log: Log = None) -> "Outcome":
    """Send backups to the off-site restic repository."""
    from conche.backup.missed import scheduled
    from conche.backup.sync import sync

    return scheduled(invocation, log, lambda: sync(invocation))


@command()
def report(
    invocation: Invocation,
    output: Annotated[str | None, "the file; default: report.html beside the backups"] = None,
) -> "Outcome":
    """Write an HTML page: sizes, verify and drill results, next runs."""
    from conche.backup.report import report

    return report(invocation, output)


@command(changes=True)
def cron(
    invocation: Invocation,
    action: Annotated[str, "install, status, catch-up or uninstall"],
    log: Log = None,
) -> "Outcome":
    """Install, show or uninstall the schedule, or make up for runs that were missed."""
    from conche.backup.cron import cron

    return cron(invocation, action, log)


@command(changes=True)
def authenticate(
    invocation: Invocation,
    rotate: Annotated[bool, "make another key; what the earlier ones prove stays proven"] = False,
) -> "Outcome":
    """Make the key that proves backups from now on.

    It is kept in the encrypted secrets, never in the target. After that, a backup that it does not prove counts for
    nothing: it is never the latest, lets no other be deleted, and is restored with --unproven only.
    """
    from conche.backup.authenticate import authenticate

    return authenticate(invocation, rotate=rotate)


@command(changes=True, waits=True, bare="name")
def adopt(
    invocation: Invocation,
    name: Annotated[str | None, "the backup"] = None,
    all: Annotated[bool, "every backup that is unproven"] = False,
    foreign: Annotated[bool, "even if it has a MAC that no key of this stack has made"] = False,
) -> "Outcome":
    """Take a backup that is known to you for the stack's own.

    For backups that are older than the key, or that the old script has made. Each is read through, as by
    backup.verify --deep, and then proven by the key as it is now.
    """
    from conche.backup.adopt import adopt

    return adopt(invocation, name, every=all, foreign=foreign)


@command(name="recovery-key", changes=True)
def recovery_key(
    invocation: Invocation,
    path: Annotated[str, "the new file, preferably on another disk"],
) -> "Outcome":
    """Make a key that opens the age keys inside backups."""
    from conche.backup.recovery_key import recovery_key

    return recovery_key(invocation, path)
