"""Which server the repository is to be on, and whose it is there."""

from __future__ import annotations

import getpass

from conche.ci.forge.own import FORGEJO, NOT_IN_NAMES, OwnForge
from conche.ci.forge.where import place_said
from conche.command import Invocation
from conche.errors import Refused

__all__ = ["account", "place"]


def place(call: Invocation, own: OwnForge | None) -> tuple[str, str]:
    """Return the address of the server, and the OWNER/NAME that is wanted there, empty if nothing says it.

    Raises:
        Refused: there is no server to be found.
    """
    address, repository = place_said(call, own.address if own else "")
    if not address:
        raise Refused(
            "server-unknown",
            "Nothing says which server hosts this repository.",
            looked_at=["ci.server in stack.yaml", f"a service with the image {FORGEJO}", "git's remotes"],
            next_command="set ci.server (such as https://git.example.org) in stack.yaml",
        )
    return address, repository


def account(repository: str, there: list[str]) -> str:
    """Return the repository's owner: as configured, else the first account, else the local user's name."""
    said = repository.partition("/")[0]
    name = NOT_IN_NAMES.sub("-", getpass.getuser()).strip("-") or "owner"
    # Forgejo reserves the name admin.
    return said or (there[0] if there else "owner" if name == "admin" else name)
