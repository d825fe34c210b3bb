"""Register runners for one repository, so that they get its jobs.

Forgejo from 15 on registers a runner through its API and returns a uuid and a token; both are kept as the runner's
secret, `UUID:TOKEN`. Before 15 we give the server's own command 40 hexadecimal digits, the first 16 of which make the
uuid. That command must not name a repository: it would record the owner as well, and a server before 16 gives a
runner with both no more work once it has found none.
https://forgejo.org/docs/latest/admin/actions/registration/
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from conche.ci.forge import Forge, ServerRunner
from conche.ci.workflows.runners import Runner
from conche.command import Invocation
from conche.errors import NotFound
from conche.outcome import Action, Kind, Step
from conche.secret import Secret
from conche.vault.store import Edit
from conche.vault.values import open_store

__all__ = ["Registrations", "uuid_of"]

_OWN = re.compile(r"[0-9a-f]{40}")
_MADE = re.compile(r"(?P<uuid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):(?P<token>\S+)")


def uuid_of(value: Secret | None) -> str:
    """Return the uuid in a runner's secret; empty if the secret is malformed or missing."""
    text = value.reveal().strip() if value else ""
    made = _MADE.fullmatch(text)
    if made:
        return made["uuid"]
    return str(uuid.UUID(bytes=text[:16].encode())) if _OWN.fullmatch(text) else ""


@dataclass(frozen=True)
class Registrations:
    """Our runners and their registrations on the server.

    Attributes:
        values: the current secrets, by name.
    """

    forge: Forge
    runners: Sequence[Runner]
    values: Mapping[str, Secret]

    def plan(self) -> list[Step]:
        """Plan what is to be done; nothing if the server has each runner's registration and no old ones."""
        steps = []
        for runner in self.runners:
            ours, others = self._seen(runner)
            if ours is None:
                why = "its token is not registered" if others else "it is not on the server"
                steps.append(Step(Action.REGISTER, Kind.RUNNER, runner.name, why))
            steps += [
                Step(Action.REMOVE, Kind.RUNNER, f"{runner.name} ({one.uuid})", "an old registration") for one in others
            ]
        return steps

    def make(self, call: Invocation) -> list[str]:
        """Register what is not registered, store the new secrets, and only then remove old registrations.

        If it is interrupted before a secret is stored, the next run removes that registration.

        Returns:
            What could not be removed, in words.
        """
        left = []
        for runner in self.runners:
            ours, others = self._seen(runner)
            if ours is None:
                made, token = self.forge.create_runner(runner.name)
                call.output.redact.learn([token])
                kept = Edit(put={runner.secret: Secret(f"{made}:{token.reveal()}")})
                open_store(call.stack, call.root).change(f"register {runner.name}", partial(_always, kept))
            left += [words for one in others if (words := self._remove(one))]
        return left

    def _seen(self, runner: Runner) -> tuple[ServerRunner | None, list[ServerRunner]]:
        """Return our registration of a runner, and the others of its name.

        A registration made by the server's command does not count as ours: it may have both an owner and a repository.
        """
        value = self.values.get(runner.secret)
        held = uuid_of(value) if value and ":" in value.reveal() else ""
        named = [one for one in self.forge.runners(own=True) if one.name == runner.name]
        ours = next((one for one in named if one.uuid == held), None)
        return ours, [one for one in named if one is not ours]

    def _remove(self, one: ServerRunner) -> str:
        try:
            self.forge.remove_runner(one)
        except NotFound:
            page = f"{self.forge.web}/settings/actions/runners"
            return f"the registration {one.uuid} of {one.name} is still there: remove it on {page}"
        return ""


def _always(change: Edit, _before: Mapping[str, Secret]) -> Edit:
    return change
