"""What `ci.setup` works on. State is looked up anew each time, so that the next command sees the same."""

from __future__ import annotations

from dataclasses import dataclass, field

from conche.ci.forge import Forge
from conche.ci.forge.client import Client
from conche.ci.forge.kept import kept
from conche.ci.forge.own import OwnForge
from conche.ci.forge.where import given_token, reach
from conche.ci.provision.checkout import Checkout
from conche.ci.provision.server import place
from conche.command import Invocation
from conche.outcome import Step
from conche.secret import Secret

__all__ = ["SetupSite"]


@dataclass
class SetupSite:
    """The server, the repository and the checkout.

    Attributes:
        own: the Forgejo of this stack; None if the server is outside it.
        repository: OWNER/NAME; empty while its owner is not known.
        planned: what was missing up to here.
        renewed: whether this command has given the stack secrets of its own.
    """

    call: Invocation
    own: OwnForge | None
    address: str
    repository: str
    planned: list[Step] = field(default_factory=list)
    renewed: bool = False
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def look(cls, call: Invocation) -> SetupSite:
        """Find the server and the repository's name."""
        own = OwnForge.find(call)
        address, repository = place(call, own)
        return cls(call, own, address, repository)

    @property
    def checkout(self) -> Checkout:
        return Checkout(self.call.root, self.address, self.repository)

    @property
    def forge(self) -> Forge:
        return reach(self.call, self.address, self.repository)

    @property
    def client(self) -> Client:
        """A client without a token, for its messages."""
        return Client(self.address, None)

    @property
    def token(self) -> Secret | None:
        """The token of this shell, or else the kept one."""
        found = given_token() or kept(self.call.root, self.address)
        self.call.output.redact.learn([found] if found else [])
        return found

    @property
    def branches(self) -> tuple[str, str]:
        """The branch that is pushed first, and the protected one; empty if no environment has such a branch."""
        with_branch = [one for one in self.call.stack.environments.values() if one.branch]
        first = next((one.branch for one in with_branch if not one.protected), None)
        return first or "", next((one.branch for one in with_branch if one.protected), None) or ""
