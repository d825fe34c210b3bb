"""Files that are either complete or absent: atomic writes, private folders, locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from conche.errors import Locked, Refused
from conche.ownership import give, replaced

__all__ = [
    "lock",
    "memory_folder",
    "private_folder",
    "runtime_folder",
    "state_folder",
    "sweep",
    "sync_file",
    "sync_folder",
    "write_atomic",
    "write_new",
]


PREFIX = "conche-private-"
"""Prefix of the name of every private folder."""

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - each user gets a folder of their own in it
"""A tmpfs on every Linux (shm_overview(7))."""

PAUSE = 0.02
"""Seconds between two attempts to take a lock."""


def write_atomic(path: Path, content: bytes, *, mode: int | None = None, owner: int | None = None) -> bool:
    """Write `content` to `path` so that readers see either the old file or the new one, even after a power cut.

    A file that is replaced keeps its owner and group as far as that is ours to give: what root has changed in a
    checkout is still its owner's.

    Args:
        mode: default: that of the file which is replaced, 0o644 for a new one.
        owner: the user id that it gets.

    Returns:
        Whether the file has changed: a file with equal content is left untouched.
    """
    before = replaced(path)
    if mode is None:
        mode = stat.S_IMODE(before.st_mode) & 0o777 if before else 0o644
    if owner is None and _holds(path, content, mode):
        return False
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            if owner is not None:
                os.fchown(stream.fileno(), owner, -1)
            elif before is not None:
                give(stream.fileno(), before)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise
    sync_folder(path.parent)
    return True


def write_new(path: Path, content: bytes, *, mode: int = 0o644) -> bool:
    """Write `content` to `path` unless something exists there; a kill in the middle leaves nothing behind.

    Returns:
        Whether it was written; anything that exists there, or appears meanwhile, stays.
    """
    try:
        # The file has no name (open(2), O_TMPFILE) until all of it is on disk; the link fails if the name is taken.
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o600)
    except OSError:  # the file system does not support it
        return not path.exists() and write_atomic(path, content, mode=mode)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fchmod(descriptor, mode)
        with os.fdopen(os.dup(descriptor), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(f"/proc/self/fd/{descriptor}", path.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)
        os.fsync(folder)
    except FileExistsError:
        return False
    finally:
        os.close(descriptor)
        os.close(folder)
    return True


def _holds(path: Path, content: bytes, mode: int) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would block
    except FileNotFoundError:
        return False
    with os.fdopen(descriptor, "rb") as stream:
        seen = os.fstat(descriptor)
        same = stat.S_ISREG(seen.st_mode) and seen.st_size == len(content) and seen.st_mode & 0o777 == mode
        return same and stream.read() == content


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Flush a file's content to disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _runtime_path() -> Path:
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    usable = bool(base) and os.access(base, os.W_OK)
    return Path(base) / "conche" if usable else Path(tempfile.gettempdir()) / f"conche-{os.getuid()}"


def memory_folder() -> Path | None:
    """Return this user's folder in memory if no runtime folder is set, as in a container; does not create it."""
    return None if os.environ.get("XDG_RUNTIME_DIR") else _shared_memory()


def _shared_memory() -> Path | None:
    return SHARED_MEMORY / f"conche-{os.getuid()}" if os.access(SHARED_MEMORY, os.W_OK) else None


def runtime_folder() -> Path:
    """Return this user's folder (0700) that is lost on reboot: `$XDG_RUNTIME_DIR/conche`, or one in the temp folder."""
    return _own(_runtime_path())


def _own(folder: Path) -> Path:
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if _is_foreign(folder):
        raise Locked(
            "runtime-folder-foreign",
            f"{folder} belongs to user {folder.lstat().st_uid} or is no folder, so it cannot be trusted.",
            next_command="set XDG_RUNTIME_DIR to a folder of your own",
        )
    return folder


def _is_foreign(folder: Path) -> bool:
    """Return whether something is there that is not a folder of this user."""
    try:
        seen = folder.lstat()
    except FileNotFoundError:
        return False
    return seen.st_uid != os.getuid() or not stat.S_ISDIR(seen.st_mode)


def _unless_foreign(folder: Path) -> Path:
    """Return the folder, or the one that it is in: where anybody may take its name, that must not stop this user.

    Private folders have names that nobody can guess, so they can also be there.
    """
    return folder.parent if _is_foreign(folder) else folder


@contextlib.contextmanager
def private_folder(*, large: bool = False, base: Path | None = None) -> Iterator[Path]:
    """Provide an empty folder (0700) and remove it afterwards; also removes those that killed processes have left.

    Args:
        large: make it in the temp folder, on disk, for content that may not fit into memory.
        base: make it in this folder of the user instead of the runtime folder.
    """
    wanted = base or _runtime_path()
    place = Path(tempfile.gettempdir()) if large and base is None else _unless_foreign(wanted)
    if place == wanted:
        _own(place)
    sweep(place)
    folder, held = _held_folder(place)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _held_folder(base: Path) -> tuple[Path, int]:
    """Make a folder; return it with the descriptor that holds its lock: a free lock means that its maker is dead.

    The kernel releases the lock when the maker dies. A process id would not tell: the maker may run in a container
    that shares the base and counts ids differently, or its id may have been given to another process.
    """
    while True:
        folder = Path(tempfile.mkdtemp(dir=base, prefix=PREFIX))
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # A sweep may have removed the folder before it was locked.
            if os.fstat(descriptor).st_nlink:
                return folder, descriptor
            os.close(descriptor)


def sweep(base: Path | None = None) -> None:
    """Remove this user's private folders whose maker is dead, from `base` or from where the small ones are made."""
    bases = [base] if base else [_unless_foreign(one) for one in (_runtime_path(), _shared_memory()) if one]
    for folder in (folder for one in bases for folder in one.glob(f"{PREFIX}*")):
        # In a shared temp folder anybody can make a folder with any name.
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(descriptor).st_uid == os.getuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _counted_in() -> str:
    """Return our pid namespace: containers that share a folder with us count ids differently (pid_namespaces(7))."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def state_folder() -> Path:
    """Return this user's folder for state that survives reboots, `$XDG_STATE_HOME/conche`; does not create it."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "conche"


def _lock_folder() -> Path:
    """Return one folder for all of a user's sessions: a login and a cron job have different runtime folders."""
    try:
        folder = state_folder() / "locks"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return runtime_folder()
    return folder


@contextlib.contextmanager
def lock(
    name: str,
    purpose: str,
    *,
    folder: Path | None = None,
    wait: float = 0.0,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[int]:
    """Exclude other commands that lock the same name.

    The kernel releases the lock when its holder dies. A child that gets the descriptor (`process.run`, `keep_open`)
    holds it too, so a child that outlives a killed command is waited for.

    Args:
        folder: where the lock file is; the default excludes only this user's commands.
        wait: seconds to wait for a live holder.
        say: told once who holds the lock.

    Returns:
        The descriptor that holds the lock.

    Raises:
        Locked: with the holder's process and purpose.
    """
    path = (folder or _lock_folder()) / f"{name}.lock"
    descriptor = _open_lock(path)
    try:
        _take(descriptor, name, time.monotonic() + wait, say)
        # The holder's name is only for messages; on a full disk they do without it.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()} {_counted_in()} {purpose}".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    """Open or make a lock file; whoever can write to its folder may have put something else there.

    Raises:
        Refused: it is a link, has a second name, or is no file; the file that it leads to would be emptied.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
    else:
        seen = os.fstat(descriptor)
        if stat.S_ISREG(seen.st_mode) and seen.st_nlink == 1:
            return descriptor
        os.close(descriptor)
    raise Refused(
        "lock-not-a-file",
        f"{path} is a link or no ordinary file, so somebody else has put it there.",
        looked_at=[str(path)],
        next_command=f"ls -l '{path}'    # then remove it, and find out who can write there",
    )


def _take(descriptor: int, name: str, deadline: float, say: Callable[[str], None]) -> None:
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            process, _, rest = os.pread(descriptor, 1000, 0).decode(errors="replace").partition(" ")
            where, _, purpose = rest.partition(" ")
            elsewhere = bool(where) and where != _counted_in()
            dead = process.isdigit() and not elsewhere and not _alive(int(process))
            holder = (
                f"process {process or 'unknown'}{' of another container' * elsewhere}: {purpose or 'just starting'}"
            )
            if not dead and time.monotonic() >= deadline:
                raise Locked(
                    "already-running",
                    f"{name} is locked by {holder}.",
                    next_command="wait for it to end, and try again",
                ) from None
            if purpose and not dead and not told:
                say(f"waiting for {holder}")
                told = True
            time.sleep(PAUSE)
        else:
            return
