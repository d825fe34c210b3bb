"""The secrets of a checkout for one command: one key, and each encrypted file decrypted once.

Without a key an unprotected environment gets generated development values, kept (0600) in the user's state folder; a
protected one refuses, unless every secret is optional and already where it would be delivered to. What is kept outside
the checkout, such as a release's environment, is sealed with age to the recipients of the secrets; without a key, to
this user's own key in the state folder.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from conche.errors import KeyUnusable, Refused
from conche.files import state_folder, write_new
from conche.secret import Redactor, Secret
from conche.stack import SecretDeclaration, Stack
from conche.texts import read_text
from conche.vault import dotenv, keys
from conche.vault.keys import Key
from conche.vault.store import Store
from conche.vault.values import PLACEHOLDERS, demonstrates, development, open_store, used_by

__all__ = ["Vault", "fingerprint"]


class Vault:
    """What one command may know of the secrets.

    Args:
        root: the folder with stack.yaml, absolute.
        redact: learns the values of an environment before they are handed out.
        say: is told where generated development values are kept.
    """

    def __init__(self, stack: Stack, root: Path, redact: Redactor, say: Callable[[str], None]) -> None:
        self.stack = stack
        self.root = root
        self.redact = redact
        self._say = say
        self._decrypted: dict[tuple[Path, bytes], Mapping[str, Secret]] = {}

    def with_key(self, key: Key) -> Vault:
        """Return the same secrets as another key opens them."""
        other = Vault(self.stack, self.root, self.redact, self._say)
        other.__dict__["key"] = key
        return other

    @cached_property
    def key(self) -> Key | None:
        """The age key to use, or None if there is none.

        Raises:
            KeyUnusable: the first source that is set has a key that cannot be used.
        """
        return keys.find(self.root)

    def store(self) -> Store:
        """Return the encrypted file; of several, the first that the key opens.

        Raises:
            Refused: stack.yaml declares no secrets.
        """
        return open_store(self.stack, self.root)

    def everything(self) -> Mapping[str, Secret]:
        """Return every value of the encrypted file, by name, whichever environment it is for.

        Raises:
            KeyUnusable: there is no key, or it is not a recipient of the file.
            Refused: stack.yaml declares no secrets.
        """
        return self.read(self.store())

    def known(self) -> Mapping[str, Secret]:
        """Return every value that is set, by name; placeholders count as absent. Raises the same as `everything`."""
        return {name: value for name, value in self.everything().items() if value.reveal() not in PLACEHOLDERS}

    def of(self, environment: str, *, create: bool = True) -> dict[str, Secret]:
        """Return the secrets of an environment, by name; placeholders count as absent.

        Args:
            create: if there is no key, generate the missing development values; otherwise nothing is written.

        Raises:
            KeyUnusable: exit code 8; a protected environment without a usable key, or with the demonstration key.
            Refused: a protected environment lacks a secret that it requires.
        """
        if self.stack.secrets is None:
            return {}
        values = self._of(self.stack.within(environment), environment, create=create)
        self.redact.learn(values.values())
        return values

    def seal(self, environment: str, content: bytes) -> bytes:
        """Encrypt to everybody who can read an environment's secrets, or without a key to this user's own key."""
        import pyrage

        if self.key is not None and self._has_file(environment):
            recipients = open_store(self.stack.within(environment), self.root).document().recipients
        else:
            recipients = (keys.public_of(_own(self.stack).reveal()),)
        sealed: bytes = pyrage.encrypt(content, [pyrage.x25519.Recipient.from_str(one) for one in recipients])
        return sealed

    def unseal(self, sealed: bytes) -> bytes:
        """Decrypt what `seal` has encrypted.

        Raises:
            KeyUnusable: neither the key nor this user's own key opens it.
        """
        import pyrage

        own = _own_file(self.stack)
        lines = self.key.identities.reveal().splitlines() if self.key else []
        if own.is_file():
            lines.append(_own(self.stack).reveal())
        identities = [pyrage.x25519.Identity.from_str(line) for line in lines if line.startswith(keys.PREFIX)]
        try:
            opened: bytes = pyrage.decrypt(sealed, identities)
        except pyrage.DecryptError as error:
            raise KeyUnusable(
                "seal-not-opened",
                "What a release has kept cannot be decrypted with the keys here.",
                looked_at=[self.key.source if self.key else "no age key", str(own)],
                evidence=[str(error)],
                next_command="invoke secrets.recipients.list    # who could",
            ) from error
        return opened

    def _of(self, stack: Stack, environment: str, *, create: bool) -> dict[str, Secret]:
        assert stack.secrets is not None
        wanted = used_by(stack.secrets, environment)
        protected = stack.environments[environment].protected
        lacking = "age key" if self.key is None else "" if self._has_file(environment) else "encrypted file"
        if lacking == "encrypted file" and not wanted:
            return {}
        if lacking and not protected:
            return development(
                stack, environment, wanted, lambda said: self._say(f"no {lacking}: {said}"), create=create
            )
        if lacking == "age key" and wanted and all(map(self._is_at_hand, wanted, wanted.values())):
            if create:
                self._say(f"no {lacking}: the values of {environment} come from .env, the shell and its secret files")
            return {}
        store = open_store(stack, self.root)
        if protected and demonstrates(store, stack.secrets):
            raise KeyUnusable(
                "demonstration-key",
                f"{store.file.name} is encrypted to the public demonstration key; {environment} refuses it.",
                next_command="invoke secrets.init",
            )
        found = {name: value for name, value in self.read(store).items() if value.reveal() not in PLACEHOLDERS}
        absent = [name for name, declared in wanted.items() if declared.required and name not in found]
        if protected and absent:
            raise Refused(
                "secrets-incomplete",
                f"{environment} requires {', '.join(absent)}, which {store.file.name} does not have.",
                next_command="\n".join(f"invoke secrets.set {name}" for name in absent),
            )
        return {name: found[name] for name in wanted if name in found}

    def _is_at_hand(self, name: str, declared: SecretDeclaration) -> bool:
        """Return whether a secret need not be decrypted: it may be absent, and is wherever it would be delivered to."""
        assert self.stack.secrets is not None
        if declared.required:
            return False
        variable = declared.variable(name)
        given = "env" not in declared.outputs or bool(os.environ.get(variable)) or variable in self._dotenv
        file = self.root / self.stack.secrets.folder / f"{name}.txt"
        return given and ("file" not in declared.outputs or (file.is_file() and file.stat().st_size > 0))

    @cached_property
    def _dotenv(self) -> frozenset[str]:
        file = self.root / ".env"
        return dotenv.named(read_text(file, file.name)) if file.is_file() else frozenset()

    def _has_file(self, environment: str) -> bool:
        """Return whether an environment has an encrypted file; a file that should be there and is not counts too."""
        section = self.stack.secrets
        if section is None:
            return False
        said = environment in section.files or "file" in section.model_fields_set or not section.files
        return said or (self.root / section.file).exists()

    def read(self, store: Store) -> Mapping[str, Secret]:
        """Decrypt a file, unless this very content has been decrypted: this command may have changed it meanwhile."""
        found = store.document()
        content = (store.file, hashlib.sha256(found.content).digest())
        if content not in self._decrypted:
            self._decrypted[content] = store.read(found, self.key)
        return self._decrypted[content]


def fingerprint(salt: bytes, value: Secret) -> str:
    """Return twelve hexadecimal digits that distinguish values without allowing them to be guessed.

    Args:
        salt: the environment's salt, sealed and kept with its releases: whoever may deploy computes the same digits.
    """
    return hmac.new(salt, value.reveal().encode(), "sha256").hexdigest()[:12]


def _own_file(stack: Stack) -> Path:
    return state_folder() / stack.name / "releases.age-key"


def _own(stack: Stack) -> Secret:
    file = _own_file(stack)
    if not file.is_file():
        identity, _ = keys.generate()
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Another command may be making one too; what either has sealed is lost with its key.
        write_new(file, f"{identity.reveal()}\n".encode(), mode=0o600)
    return Secret(file.read_text().strip())
