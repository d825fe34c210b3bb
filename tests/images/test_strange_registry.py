"""What a registry that means no good can have of us: no password in clear, no memory and no time without end."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import pytest

from conche.engine.transfer import Credentials
from conche.errors import Refused, Told, Unreachable
from conche.secret import Secret
from conche.stack import is_here
from conche.supply import registry as registries
from conche.supply.registry import ImageManifest, Registry
from tests.answering import Answer, answering

pytestmark = pytest.mark.process

PASSWORD = "the-password"


@dataclass
class Strange:
    """A registry whose answers a test writes."""

    host: str = ""
    realm: str = ""
    pages: int = 0
    blob: bytes = b"{}"
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str, headers: Mapping[str, str]) -> Answer:
        self.asked.append(path)
        if path.startswith("/token"):
            return 200, {}, json.dumps({"token": "issued"}).encode()
        if self.realm and headers.get("Authorization") != "Bearer issued":
            return 401, {"WWW-Authenticate": f'Bearer realm="{self.realm}",service="us"'}, b"{}"
        if "tags/list" in path:
            self.pages += 1
            link = {"Link": f'</v2/app/tags/list?last={self.pages}>; rel="next"'}
            return 200, link, json.dumps({"tags": [f"t{self.pages}"]}).encode()
        return 200, {}, self.blob


@pytest.fixture
def strange() -> Iterator[Strange]:
    made = Strange()
    with answering(made.answer) as made.host:
        yield made


def client(strange: Strange, *, known: bool = True) -> Registry:
    return Registry(strange.host, Credentials("us", Secret(PASSWORD)) if known else None)


@pytest.mark.parametrize(
    "realm",
    ["http://auth.example.org/token", "http://127.0.0.1.example.org/token", "/token", ""],
)
def test_the_password_goes_to_no_token_server_without_tls(strange: Strange, realm: str) -> None:
    strange.realm = realm or "unreadable"

    with pytest.raises(Refused) as told:
        client(strange).check()

    assert told.value.code == "registry-login-in-clear"
    assert PASSWORD not in str(told.value.as_json())
    assert strange.asked == ["/v2/"]


def test_a_token_server_on_this_machine_is_asked(strange: Strange) -> None:
    strange.realm = f"http://{strange.host}/token"

    client(strange).check()

    assert strange.asked == ["/v2/", "/token?service=us", "/v2/"]


def test_a_list_without_end_is_given_up(strange: Strange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries, "PAGES", 7)

    with pytest.raises(Unreachable, match="has no end of its list app/tags/list after 7 pages"):
        client(strange).tags("app")

    assert strange.pages == 7


def test_an_answer_without_end_is_given_up(strange: Strange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries, "LARGEST", 1000)
    strange.blob = b" " * 1001

    with pytest.raises(Told, match="does not answer") as told:
        client(strange).manifest("app", "sha256:" + "0" * 64)

    assert told.value.code == "registry-unreachable"


def test_a_manifest_nested_without_end_has_nothing_to_say() -> None:
    assert ImageManifest("sha256:0", "x", b"[" * 100_000).document == {}


@pytest.mark.parametrize(
    ("host", "here"),
    [("localhost", True), ("localhost:5000", True), ("127.0.0.1:5000", True), ("127.9.9.9", True),
     ("127.0.0.1.example.org", False), ("127.example.org:5000", False), ("localhost.example.org", False)],
)  # fmt: skip
def test_only_addresses_of_this_machine_are_this_machine(host: str, here: bool) -> None:
    assert is_here(host) is here
