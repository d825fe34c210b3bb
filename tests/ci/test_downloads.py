"""A server may keep files in an object storage, and redirect to it for each download."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from conche.ci.forge.client import Client
from conche.errors import Refused, Told, Unreachable
from conche.secret import Secret
from tests.answering import Answer, answering

pytestmark = pytest.mark.process

TOKEN, SIGNED = "t0ken-of-ours", "signature-of-the-storage"


@dataclass
class Place:
    """A server that answers by path, and remembers what it was told."""

    answers: dict[str, Answer] = field(default_factory=dict)
    told: list[Mapping[str, str]] = field(default_factory=list)
    address: str = ""

    def answer(self, path: str, headers: Mapping[str, str]) -> Answer:
        self.told.append(headers)
        return self.answers.get(path.partition("?")[0], (404, {}, b"nothing here"))

    def redirect(self, path: str, location: str) -> None:
        self.answers[path] = (307, {"Location": location}, b"<a>Temporary Redirect</a>")


@pytest.fixture
def place() -> Iterator[Callable[[], Place]]:
    with ExitStack() as servers:

        def make() -> Place:
            one = Place()
            one.address = f"http://{servers.enter_context(answering(one.answer))}"
            return one

        yield make


def test_a_file_is_fetched_from_the_storage_which_learns_no_token(place: Callable[[], Place]) -> None:
    forge, storage, mirror = place(), place(), place()
    forge.redirect("/team/app/releases/download/v1/app.whl", f"{storage.address}/bucket/1?signed={SIGNED}")
    storage.redirect("/bucket/1", f"{mirror.address}/bucket/1?signed={SIGNED}")
    mirror.answers["/bucket/1"] = (200, {"Content-Disposition": "attachment; filename=app.whl"}, b"content")
    client = Client(forge.address, Secret(TOKEN))

    assert b"".join(client.blocks("/team/app/releases/download/v1/app.whl", 7)) == b"content"
    assert client.text("/team/app/releases/download/v1/app.whl", 100, "app.whl") == "content"
    assert TOKEN in forge.told[0]["Authorization"]
    for one in (*storage.told, *mirror.told):
        assert one.keys() & {"Authorization", "Cookie"} == set()
        assert TOKEN not in str(one)


@pytest.mark.parametrize(
    ("answer", "kind", "code", "words"),
    [
        ((200, {}, b"longer than it should be"), Unreachable, "server-failed", "does not give"),
        ((403, {}, b"<Error>expired</Error>"), Unreachable, "server-failed", "403"),
        ((307, {"Location": "/bucket/1?round"}, b""), Refused, "server-moved", "/bucket/1"),
        ((307, {"Location": "file:///etc/passwd"}, b""), Refused, "server-moved", "file:///etc/passwd"),
    ],
    ids=["another size", "refused there", "a circle", "no address of the web"],
)
def test_what_the_storage_does_not_give_is_said(
    place: Callable[[], Place], answer: Answer, kind: type[Told], code: str, words: str
) -> None:
    forge, storage = place(), place()
    forge.redirect("/file", f"{storage.address}/bucket/1?signed={SIGNED}")
    storage.answers["/bucket/1"] = answer

    with pytest.raises(kind) as told:
        list(Client(forge.address, Secret(TOKEN)).blocks("/file", 7))

    said = str(told.value.as_json())
    assert told.value.code == code
    assert words in said
    assert SIGNED not in said
    assert len(storage.told) <= 3


def test_a_call_that_is_no_download_is_never_sent_on(place: Callable[[], Place]) -> None:
    forge, other = place(), place()
    forge.redirect("/api/v1/user", f"{other.address}/api/v1/user")

    with pytest.raises(Refused) as told:
        Client(forge.address, Secret(TOKEN)).json("GET", "/user")

    assert (told.value.code, other.told) == ("server-moved", [])
