"""invoke backup.*"""

from typing import Annotated

from conche.command import Invocation, command
from conche.outcome import Outcome

Name = Annotated[str, "the backup, or latest"]
Log = Annotated[str | None, "write what is said to the end of this file; it is rotated"]
Kind = Annotated[str, "daily, weekly or monthly"]


@command(changes=True, waits=True, bare="kind")
def create(
    invocation: Invocation,
    kind: Kind = "daily",
    plain_key: Annotated[bool, "store the age key unencrypted"] = False,
    wait: Annotated[float, "seconds to wait for another backup command to end"] = 0.0,
    new_target: Annotated[bool, "begin anew in a folder that lacks the mark which the target had"] = False,
    accept_smaller: Annotated[list[str], "a component that may have lost most of its data; may be given again"] = (),  # type: ignore[assignment]
    log: Log = None,
) -> Outcome:
    """Make a backup, verify it, prune.

    It is built aside and appears when it is whole. Exit code 3: it is kept, but something is missing from it.
    """
    from conche.backup.create import Wishes, create
    from conche.backup.logfile import logged

    return logged(log, lambda: create(invocation, kind, Wishes(plain_key, wait, new_target, accept_smaller)))


@command(name="list")
def list_(invocation: Invocation) -> Outcome:
    """The backups: age, size, verified when."""
    from conche.backup.list import list_

    return list_(invocation)


@command()
def show(invocation: Invocation, name: Name) -> Outcome:
    """One backup: components and files."""
    from conche.backup.show import show

    return show(invocation, name)


@command()
def diff(
    invocation: Invocation,
    first: Annotated[str, "the older backup"],
    second: Annotated[str, "the newer one, or latest"],
) -> Outcome:
    """What differs between two backups."""
    from conche.backup.diff import diff

    return diff(invocation, first, second)


@command()
def status(invocation: Invocation) -> Outcome:
    """Whether the newest good backups are young enough; exit code 1 if not."""
    from conche.backup.status import status

    return status(invocation)


@command(waits=True, bare="name")
def verify(
    invocation: Invocation,
    name: Annotated[str | None, "one backup, or latest; default: all"] = None,
    all: Annotated[bool, "every backup"] = False,
    deep: Annotated[bool, "also unpack every archive, to nowhere"] = False,
    log: Log = None,
) -> Outcome:
    """Compare every file with the manifest."""
    from conche.backup.logfile import logged
    from conche.backup.verify import verify

    return logged(log, lambda: verify(invocation, name, every=all, deep=deep))


@command(changes=True, destroys=True, waits=True, bare="name")
def restore(
    invocation: Invocation,
    name: Annotated[str | None, "the backup, or latest; default: only list them"] = None,
    component: Annotated[list[str], "only this component; may be given again"] = (),  # type: ignore[assignment]
    target: Annotated[str | None, "unpack into this new folder, and touch nothing else"] = None,
    force: Annotated[bool, "do not ask"] = False,
    from_: Annotated[str | None, "offsite: fetch it from the repository of backup.sync first"] = None,
    recovery_key: Annotated[str | None, "file with the key that opens the age key of the backup"] = None,
    no_way_back: Annotated[bool, "also where what is there now cannot be dumped"] = False,
) -> Outcome:
    """Bring a backup back.

    It is verified and unpacked beside first. Then what uses the data stops, old and new are exchanged, and it starts
    again; where it does not become healthy, the exchange is taken back. The old data are kept until the next backup.
    """
    from conche.backup.restore import Wishes, restore

    return restore(invocation, name, Wishes(component, target, force, from_, recovery_key, blind=no_way_back))


@command(changes=True, waits=True)
def settle(
    invocation: Invocation,
    as_it_is: Annotated[bool, "leave everything as it is now; what was there before is kept"] = False,
) -> Outcome:
    """Take back a restore that was left half done, and let containers go on that wait.

    Every other command tries that once. Afterwards only this one does, since what has been written meanwhile is lost.
    """
    from conche.backup.settle import settle

    return settle(invocation, as_it_is=as_it_is)


@command(changes=True, waits=True)
def prune(
    invocation: Invocation,
    future: Annotated[bool, "instead delete what was made while the clock was ahead"] = False,
) -> Outcome:
    """Delete what retention does not keep."""
    from conche.backup.prune import prune

    return prune(invocation, future=future)


@command(waits=True, bare="name")
def drill(
    invocation: Invocation,
    name: Annotated[str | None, "the backup; default: the newest"] = None,
    log: Log = None,
) -> Outcome:
    """Restore on trial, into scratch places.

    Archives are unpacked, buckets restored under other names, copies of services started; all of it is removed again.
    """
    from conche.backup.drill import drill
    from conche.backup.logfile import logged

    return logged(log, lambda: drill(invocation, name))


@command(changes=True, waits=True)
def sync(invocation: Invocation, log: Log = None) -> Outcome:
    """Send backups to the restic repository elsewhere."""
    from conche.backup.logfile import logged
    from conche.backup.sync import sync

    return logged(log, lambda: sync(invocation))


@command()
def report(
    invocation: Invocation,
    output: Annotated[str | None, "the file; default: report.html beside the backups"] = None,
) -> Outcome:
    """One HTML page: sizes, verify and drill results, next runs."""
    from conche.backup.report import report

    return report(invocation, output)


@command(changes=True)
def cron(
    invocation: Invocation,
    action: Annotated[str, "install, status or uninstall"],
) -> Outcome:
    """The schedule: install, status, uninstall."""
    from conche.backup.cron import cron

    return cron(invocation, action)


@command(name="recovery-key", changes=True)
def recovery_key(
    invocation: Invocation,
    path: Annotated[str, "the new file, better on another disk"],
) -> Outcome:
    """Make a key that opens the age keys inside backups."""
    from conche.backup.recovery_key import recovery_key

    return recovery_key(invocation, path)
