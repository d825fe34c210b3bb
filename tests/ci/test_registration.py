"""Which runners are registered anew, and which old registrations go."""

from __future__ import annotations

import uuid

import pytest

from conche.ci.forge import Forge
from conche.ci.forge.client import Client
from conche.ci.runner.registration import Registrations
from conche.ci.workflows.runners import Runner
from conche.secret import Secret
from conche.testing.forge import serve

HEX = "0123456789abcdef0123456789abcdef01234567"
GIVEN = str(uuid.UUID(int=7))


@pytest.mark.parametrize(
    ("value", "known", "steps"),
    [
        ("", [], ["register"]),
        ("", ["made by hand, under our runner's name"], ["register", "remove"]),
        (f"{GIVEN}:{HEX}", [GIVEN], []),
        (f"{GIVEN}:{HEX}", [GIVEN, "left by a kill"], ["remove"]),
        (f"{GIVEN}:{HEX}", ["of the token before"], ["register", "remove"]),
        # The server's own command wrote down an owner and a repository, and such a runner falls asleep.
        (HEX, [str(uuid.UUID(bytes=HEX[:16].encode()))], ["register", "remove"]),
    ],
)
def test_what_is_registered_anew(value: str, known: list[str], steps: list[str]) -> None:
    with serve("forgejo-15") as fake:
        fake.runners = [
            {"id": number, "uuid": one, "name": "dev", "status": "idle", "labels": []}
            for number, one in enumerate(known, 1)
        ]
        fake.runners.append({"id": 9, "uuid": "x", "name": "dev", "status": "idle", "labels": []})
        fake.runners[-1]["name"] = "of somebody else"
        forge = Forge(Client(fake.address, Secret(next(iter(fake.tokens)))), fake.repository)
        runner = Runner("git", "runner-dev", ("dev:host",), name="dev", secret="runner_token_dev")

        plan = Registrations(forge, [runner], {"runner_token_dev": Secret(value)}).plan()

    assert [step.action for step in plan] == steps
