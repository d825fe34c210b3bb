"""Reads and changes the encrypted file without ever losing it.

sops writes in place: truncate, write, no fsync; two at once lose updates, and a kill leaves an empty file. So sops only
ever works on a private copy beside the file. A change takes the lock, copies, lets sops change the copy, proves that
the copy decrypts to exactly what was meant, and renames it over the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from conche.errors import ConcheError, KeyUnusable, Refused
from conche.files import lock, write_atomic
from conche.secret import Secret
from conche.vault import encrypted, keys, sops
from conche.vault.encrypted import EncryptedFile
from conche.vault.forms import NAME, Path_, form_of, new_path
from conche.vault.keys import Key

__all__ = ["Edit", "Store"]

TEMPORARY = ".sops-tmp-"
"""Prefix of the private copies' folders; they hold only ciphertext, and the next change removes what a kill left."""

WAIT = 10.0
"""Seconds to wait for another change to end."""


@dataclass(frozen=True)
class Edit:
    """A change to the values.

    Attributes:
        put: values to set.
        drop: names to remove.
    """

    put: Mapping[str, Secret] = field(default_factory=dict)
    drop: tuple[str, ...] = ()

    def applied_to(self, values: Mapping[str, Secret]) -> dict[str, Secret]:
        """Return the changed values."""
        kept = {name: value for name, value in values.items() if name not in self.drop}
        return {**kept, **self.put}


@dataclass(frozen=True)
class Store:
    """The encrypted file of a checkout.

    Args:
        root: the folder with stack.yaml and .sops.yaml.
        file: the encrypted file, absolute; its extension tells its form.
        places: name -> the place of its value in the file, for names whose place stack.yaml gives.
    """

    root: Path
    file: Path
    places: Mapping[str, Path_] = field(default_factory=dict)

    def document(self) -> EncryptedFile:
        """Examine the file as far as possible without a key."""
        return self._read(self.file)

    def key(self) -> Key:
        """Return the key to use; raises `KeyUnusable` if there is none, or it is not a recipient of the file."""
        return self._checked(keys.require(self.root), self.document())

    def require_writable(self, moving: Collection[str] = ()) -> None:
        """Refuse what a change would refuse, before anybody is asked for a value.

        Args:
            moving: recipients that may be in only one of the file and .sops.yaml.

        Raises:
            KeyUnusable: as for `change`.
        """
        self._required(moving)

    def read(self, found: EncryptedFile | None = None, key: Key | None = None) -> dict[str, Secret]:
        """Decrypt every secret in one call of sops.

        Args:
            found: the file as it was examined; default: it is examined now.
            key: the key to use; default: the one that `keys` finds.

        Raises:
            KeyUnusable: there is no key, it is not a recipient of the file, or the file was changed outside sops.
        """
        found = found or self.document()
        return sops.decrypt_file(self.file, self._checked(key or keys.require(self.root), found), found.paths)

    def examined(self, content: bytes) -> EncryptedFile:
        """Examine other bytes of the same file, such as an old revision's."""
        return encrypted.examine(content, self.file.name, self._called)

    def change(self, purpose: str, decide: Callable[[Mapping[str, Secret]], Edit]) -> tuple[str, ...]:
        """Read the values, let `decide` choose a change, and write it, all under the lock.

        Returns:
            The changed names, sorted.

        Raises:
            KeyUnusable: no usable key, a damaged file, or recipients that .sops.yaml does not name.
                Nothing was written.
            Locked: another change does not end in time.
        """
        with self._held(purpose) as (before, key):
            values = sops.decrypt_file(self.file, key, before.paths)
            decided = decide(values)
            _check_names(decided.put)
            wanted = decided.applied_to(values)
            changed = {n for n in values.keys() | wanted.keys() if values.get(n) != wanted.get(n)}
            if not changed:
                return ()

            def edit(copy: Path) -> None:
                for name in sorted(changed):
                    path = before.paths.get(name) or self._place(name)
                    if name in wanted:
                        sops.set_value(copy, key, path, wanted[name])
                    else:
                        sops.unset_value(copy, key, path)

            self._replace(before, key, edit, wanted, before.recipients)
        return tuple(sorted(changed))

    def rotate(
        self, purpose: str, *, add: str = "", remove: str = "", prove: Key | None = None, unread: bool = False
    ) -> None:
        """Rotate the data key, optionally adding or removing a recipient.

        Args:
            prove: a key that must decrypt the result by itself; default is the key in use.
            unread: the key in use is being removed, so it cannot prove the result.
        """
        # After a kill or a merge, one of the two files may have the recipient added or removed already.
        with self._held(purpose, moving=(add, remove)) as (before, key):
            values = sops.decrypt_file(self.file, key, before.paths)
            kept = [one for one in before.recipients if one != remove]
            recipients = (*kept, *([add] if add and add not in kept else []))
            if not recipients:
                raise Refused("last-recipient", f"{remove} is the only recipient: then nobody could read the file.")
            self._replace(
                before,
                None if unread else prove or key,
                lambda copy: sops.rotate(copy, key, add="" if add in before.recipients else add, remove=remove),
                values,
                recipients,
            )

    def create(self, values: Mapping[str, Secret], recipients: tuple[str, ...], key: Key, *, replace: bool) -> None:
        """Create the file, overwriting an existing one only with `replace`.

        The caller has locked it: what there was has to be the same that it has decided by.
        """
        _check_names(values)
        if self.file.exists() and not replace:
            raise Refused(
                "secrets-file-exists",
                f"{self.file.name} already exists; nothing was written.",
                next_command="add --merge to keep what is in it, or --replace",
            )
        content = self.made(values, recipients)
        made = self.examined(content)
        proven = sops.decrypt(content, key, self.file.name, made.paths) == dict(values)
        if not proven or sorted(made.recipients) != sorted(recipients):
            raise _unproven(self.file)
        write_atomic(self.file, content)

    def made(
        self, values: Mapping[str, Secret], recipients: tuple[str, ...], paths: Mapping[str, Path_] | None = None
    ) -> bytes:
        """Encrypt these values to a file of this form.

        Args:
            paths: their places so far.
        """
        places = {name: (paths or {}).get(name) or self._place(name) for name in values}
        return sops.encrypt({places[name]: one for name, one in values.items()}, recipients, self.root, self.file)

    def decrypted(self, content: bytes, found: EncryptedFile) -> dict[str, Secret]:
        """Decrypt other bytes of the same file, which `examined` has found to be intact."""
        return sops.decrypt(content, keys.require(self.root), self.file.name, found.paths)

    @contextlib.contextmanager
    def locked(self, purpose: str, wait: float | None = None) -> Iterator[None]:
        """Exclude every other change of the file for this block.

        Args:
            wait: seconds to wait for another change to end.

        Raises:
            Locked: another change does not end in time.
        """
        with lock(self.file.name, purpose, folder=self._lock_folder(), wait=WAIT if wait is None else wait):
            yield

    @property
    def _called(self) -> dict[Path_, str]:
        return {path: name for name, path in self.places.items()}

    def _place(self, name: str) -> Path_:
        return self.places.get(name) or new_path(name, form_of(self.file.name))

    def _read(self, file: Path) -> EncryptedFile:
        return encrypted.read(file, self._called)

    @contextlib.contextmanager
    def _held(self, purpose: str, moving: Collection[str] = ()) -> Iterator[tuple[EncryptedFile, Key]]:
        with self.locked(purpose):
            self._sweep()
            yield self._required(moving)

    def _required(self, moving: Collection[str]) -> tuple[EncryptedFile, Key]:
        before = self.document()
        declared = encrypted.declared_recipients(self.root, self.file)
        encrypted.require_same_recipients(before, declared, self.file.name, moving)
        return before, self._checked(keys.require(self.root), before)

    def _replace(
        self,
        before: EncryptedFile,
        key: Key | None,
        edit: Callable[[Path], None],
        wanted: Mapping[str, Secret],
        recipients: tuple[str, ...],
    ) -> None:
        folder = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=self.file.parent))
        try:
            copy = folder / self.file.name
            copy.write_bytes(before.content)
            edit(copy)
            after = self._read(copy)
            proven = key is None or sops.decrypt_file(copy, key, after.paths) == dict(wanted)
            if not proven or sorted(after.recipients) != sorted(recipients):
                raise _unproven(self.file)
            # People who run sops by hand take no lock.
            if hashlib.sha256(self.file.read_bytes()).digest() != hashlib.sha256(before.content).digest():
                raise Refused(
                    "changed-meanwhile",
                    f"{self.file.name} was changed by someone else meanwhile; nothing was written.",
                    next_command="try again",
                )
            write_atomic(self.file, after.content)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _checked(self, key: Key, found: EncryptedFile) -> Key:
        if set(key.public) & set(found.recipients):
            return key
        raise KeyUnusable(
            "key-not-a-recipient",
            f"The key {', '.join(key.public)} (from {key.source}) is not a recipient of {self.file.name}.",
            looked_at=[f"recipients: {', '.join(found.recipients)}"],
            next_command="use one of those keys, or ask a holder of one to run\n"
            f"invoke secrets.recipients.add {key.public[0]}",
        )

    def _lock_folder(self) -> Path:
        """Return the keys' folder, so that every user of this checkout takes the same lock."""
        folder = self.root / ".sops"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def _sweep(self) -> None:
        for left in self.file.parent.glob(f"{TEMPORARY}*"):
            shutil.rmtree(left, ignore_errors=True)
        # Remove what write_atomic has not renamed; mkstemp's names are eight characters longer.
        for half in self.file.parent.glob(f".{self.file.name}.{'?' * 8}"):
            half.unlink(missing_ok=True)


def _check_names(values: Mapping[str, Secret]) -> None:
    wrong = [str(number) for number, name in enumerate(values, 1) if not NAME.fullmatch(name)]
    if wrong:
        # The names are not repeated: in a malformed file, a value may be where a name belongs.
        raise Refused(
            "secret-name-unusable",
            f"Of {len(values)} names, these are not valid names of secrets: number {', '.join(wrong)}.",
            looked_at=["a name has lower-case letters, digits and _; it is not sops…, not …_unencrypted"],
        )


def _unproven(file: Path) -> ConcheError:
    return KeyUnusable(
        "change-not-proven",
        f"The new {file.name} does not decrypt to what was intended. Nothing was written.",
        next_command="invoke secrets.check",
    )
