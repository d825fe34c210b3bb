"""invoke backup.*"""

from typing import Annotated

from conche.command import Invocation, command
from conche.outcome import Outcome

Name = Annotated[str, "the backup, or latest"]
Kind = Annotated[str, "daily, weekly or monthly"]


@command(changes=True, bare="kind")
def create(
    invocation: Invocation,
    kind: Kind = "daily",
    plain_key: Annotated[bool, "store the age key unencrypted"] = False,
    wait: Annotated[float, "seconds to wait for another backup command to end"] = 0.0,
) -> Outcome:
    """Make a backup, verify it, prune.

    It is built aside and appears when it is whole. Exit code 3: it is kept, but something is missing from it.
    """
    from conche.backup.create import create

    return create(invocation, kind, plain_key=plain_key, wait=wait)


@command(name="list")
def list_(invocation: Invocation) -> Outcome:
    """The backups: age, size, verified when."""
    from conche.backup.show import list_backups

    return list_backups(invocation)


@command()
def show(invocation: Invocation, name: Name) -> Outcome:
    """One backup: components and files."""
    from conche.backup.show import show

    return show(invocation, name)


@command()
def diff(
    invocation: Invocation,
    first: Annotated[str, "the older backup"],
    second: Annotated[str, "the newer one"] = "latest",
) -> Outcome:
    """What differs between two backups."""
    from conche.backup.show import diff

    return diff(invocation, first, second)


@command()
def status(invocation: Invocation) -> Outcome:
    """Whether the newest good backups are young enough; exit code 1 if not."""
    from conche.backup.show import status

    return status(invocation)


@command(bare="name")
def verify(
    invocation: Invocation,
    name: Annotated[str | None, "one backup, or latest; default: all"] = None,
    all: Annotated[bool, "every backup"] = False,
    deep: Annotated[bool, "also unpack every archive, to nowhere"] = False,
) -> Outcome:
    """Compare every file with the manifest."""
    from conche.backup.verify import verify

    return verify(invocation, name, every=all, deep=deep)


@command(changes=True, destroys=True, bare="name")
def restore(
    invocation: Invocation,
    name: Annotated[str | None, "the backup, or latest; default: only list them"] = None,
    component: Annotated[list[str], "only this component; may be given again"] = (),  # type: ignore[assignment]
    target: Annotated[str | None, "unpack into this new folder, and touch nothing else"] = None,
    force: Annotated[bool, "do not ask"] = False,
    recovery_key: Annotated[str | None, "file with the key that opens the age key of the backup"] = None,
) -> Outcome:
    """Bring a backup back.

    It is verified and unpacked beside first. Then what uses the data stops, old and new are exchanged, and it starts
    again; where it does not become healthy, the exchange is taken back. The old data are kept until the next backup.
    """
    from conche.backup.restore import restore

    return restore(invocation, name, component=component, target=target, force=force, recovery_key=recovery_key)


@command(changes=True)
def prune(invocation: Invocation) -> Outcome:
    """Delete what retention does not keep."""
    from conche.backup.prune import prune

    return prune(invocation)


@command(name="recovery-key", changes=True)
def recovery_key(
    invocation: Invocation,
    path: Annotated[str, "the new file, better on another disk"],
) -> Outcome:
    """Make a key that opens the age keys inside backups."""
    from conche.backup.recovery import recovery_key

    return recovery_key(invocation, path)
