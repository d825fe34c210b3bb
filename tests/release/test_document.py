"""The document of a release: pure, pinned, and free of the checkout."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from conche.errors import Refused
from conche.release.document import RELEASE, SECRETS, Document, definition, make, shape
from conche.secret import Secret

RENDERED: dict[str, Any] = {
    "name": "x-prod",
    "services": {
        "web": {
            "image": "registry/web:production",
            "build": {"context": "."},
            "environment": {"TOKEN": "interpolated"},
            "networks": {"inside": None},
            "secrets": [{"source": "token"}],
        },
        "store": {
            "image": "database:1",
            "environment": None,
            "networks": {"inside": {"aliases": ["db"]}},
            "secrets": [{"source": "plain"}],
            "volumes": [{"type": "bind", "source": "/checkout/conf", "target": "/conf"}],
        },
    },
    "secrets": {"token": {"file": "/checkout/secrets/token.txt"}, "plain": {"file": "/checkout/plain.txt"}},
}


def made(release: str = "r7", *, serves: str | None = "web", **said: Any) -> Document:
    given: dict[str, Any] = {
        "pins": {"registry/web:production": "registry/web@sha256:1"},
        "contents": {"secret token": b"the token", "secret plain": b"a\nb"},
        "marks": {"store": {SECRETS: "0f"}},
        "replicas": {},
    }
    return make(RENDERED, release=release, serves=serves, **{**given, **said})


def told(release: str) -> dict[str, str]:
    return {"CONCHE_RELEASE": release, "CONCHE_IMAGE_DIGEST": "sha256:1"}


def test_images_are_pinned_and_nothing_is_built() -> None:
    web = made().body["services"]["web"]

    assert web["image"] == "registry/web@sha256:1"
    assert "build" not in web


def test_what_the_edge_serves_says_of_which_release_it_is() -> None:
    body = made().body["services"]

    assert body["web"]["labels"] == {RELEASE: "r7"}
    assert body["web"]["environment"] == {"TOKEN": "interpolated", **told("r7")}
    assert body["web"]["networks"]["inside"]["aliases"] == ["web-r7"]
    assert body["store"]["networks"]["inside"]["aliases"] == ["db"]
    assert body["store"]["labels"] == {SECRETS: "0f"}


def test_a_swarm_gives_secrets_the_owner_and_mode_they_ask_for() -> None:
    rendered = copy.deepcopy(RENDERED)
    given = {"source": "plain", "uid": "5", "gid": "6", "mode": 256}
    rendered["services"]["store"]["secrets"] = [given]
    said: dict[str, Any] = {"pins": {}, "contents": {}, "marks": {}, "replicas": {}, "serves": None, "release": "r7"}

    documents = {swarm: make(rendered, **said, swarm=swarm).body["services"]["store"] for swarm in (True, False)}

    assert documents[True]["secrets"] == [given]
    assert documents[False]["secrets"] == [{"source": "plain"}]


def test_secret_files_become_values_that_no_document_holds() -> None:
    document = made()

    assert document.body["secrets"] == {
        "token": {"environment": "CONCHE_SECRET_TOKEN"},
        "plain": {"environment": "CONCHE_SECRET_PLAIN"},
    }
    assert document.variables == {"CONCHE_SECRET_TOKEN": "the token", "CONCHE_SECRET_PLAIN": "a\nb"}
    assert document.body["services"]["web"]["secrets"] == [{"source": "token"}]
    assert document.body["services"]["store"]["secrets"] == [{"source": "plain"}]
    assert b"the token" not in document.content()
    assert "the token" not in repr(document)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a\0b", b"x" * 130_000])
def test_a_secret_that_is_no_text_is_refused(content: bytes) -> None:
    with pytest.raises(Refused) as refused:
        made(contents={"secret token": content})

    assert refused.value.code == "secret-not-text"


def with_configs(*given: dict[str, Any], **said: Any) -> Any:
    """The rendering with configs of the store, as a release has them."""
    rendered = copy.deepcopy(RENDERED)
    rendered["services"]["store"]["configs"] = list(given)
    rendered["configs"] = {key: one[0] for key, one in said.items()}
    contents = {f"config {key}": one[1] for key, one in said.items()}
    document = make(rendered, release="r7", pins={}, contents=contents, marks={}, serves=None, replicas={})
    return document.body


def test_configs_become_values_wherever_they_came_from() -> None:
    body = with_configs(
        {"source": "rules"},
        rules=({"name": "x_rules", "file": "/checkout/rules.conf"}, b"cost: $5\n"),
        level=({"name": "x_level", "environment": "LEVEL"}, b"2"),
        empty=({"name": "x_empty", "file": "/checkout/empty"}, b""),
    )

    assert body["configs"] == {
        "rules": {"name": "x_rules", "content": "cost: $$5\n"},
        "level": {"name": "x_level", "content": "2"},
        "empty": {"name": "x_empty", "content": "\n"},
    }


def test_a_config_from_a_file_keeps_of_its_mode_whether_it_can_be_run(tmp_path: Path) -> None:
    plain, script = tmp_path / "plain", tmp_path / "script"
    plain.write_text("a")
    script.write_text("b")
    script.chmod(0o755)

    body = with_configs(
        {"source": "plain", "uid": "1000", "mode": 0o400},
        {"source": "script", "target": "/start"},
        {"source": "inline", "mode": 0o440},
        plain=({"file": str(plain)}, b"a"),
        script=({"file": str(script)}, b"b"),
        inline=({"content": "c"}, b"c"),
    )

    assert body["services"]["store"]["configs"] == [
        {"source": "plain"},
        {"source": "script", "target": "/start", "mode": 0o555},
        {"source": "inline", "mode": 0o440},
    ]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a\0b", b"x" * 2_000_000])
def test_a_config_that_is_no_text_is_refused(content: bytes) -> None:
    with pytest.raises(Refused) as refused:
        with_configs(rules=({"file": "/checkout/rules.conf"}, content))

    assert refused.value.code == "config-not-text"


def test_secrets_whose_keys_look_alike_have_variables_of_their_own() -> None:
    rendered = copy.deepcopy(RENDERED)
    rendered["secrets"] = {key: {"file": f"/checkout/{key}"} for key in ("db-pass", "db_pass", "db.pass")}
    contents = {f"secret {key}": key.encode() for key in rendered["secrets"]}

    document = make(rendered, release="r7", pins={}, contents=contents, marks={}, serves=None, replicas={})

    assert {key: document.variables[said["environment"]] for key, said in document.body["secrets"].items()} == {
        "db-pass": "db-pass", "db_pass": "db_pass", "db.pass": "db.pass",
    }  # fmt: skip


def test_making_it_twice_gives_the_same_and_leaves_the_rendering_alone() -> None:
    before = copy.deepcopy(RENDERED)

    assert made().content() == made().content()
    assert before == RENDERED


def test_a_definition_is_the_same_in_every_release_and_another_with_another_secret() -> None:
    one, two, rotated = made("r7").body, made("r8").body, made("r8", marks={"store": {SECRETS: "aa"}}).body

    assert definition(one, "web") == definition(two, "web")
    assert definition(one, "store") == definition(two, "store")
    assert definition(rotated, "store") != definition(two, "store")


def test_a_shape_does_not_know_where_the_checkout_stands() -> None:
    elsewhere: dict[str, Any] = copy.deepcopy(RENDERED)
    elsewhere["services"]["store"]["volumes"][0]["source"] = "/home/me/conf"

    assert shape(RENDERED, "store", "/checkout") == shape(elsewhere, "store", "/home/me")
    assert shape(RENDERED, "store", "/checkout") != shape(elsewhere, "store", "/checkout")


def test_an_earlier_release_under_a_new_number_is_the_same_but_for_its_name() -> None:
    again = made("r7").renumbered("web", "r7", "r12")

    assert again == made("r12")
    assert made(serves=None).renumbered(None, "r7", "r12") == made(serves=None)


def test_without_an_edge_a_service_that_is_as_it_was_keeps_what_it_was_told() -> None:
    first, second = (made(release, serves=None, told=["web"]) for release in ("r7", "r8"))
    other = made("r8", serves=None, told=["web"], marks={"web": {SECRETS: "0f"}})

    assert first.body["services"]["web"]["environment"] == {"TOKEN": "interpolated", **told("r7")}
    assert first.body["services"]["store"]["environment"] is None
    assert definition(first.body, "web") == definition(made(serves=None).body, "web")
    assert second.after(first, None) == first
    assert other.after(first, None) == other
    assert other.body["services"]["web"]["environment"]["CONCHE_RELEASE"] == "r8"


def test_a_service_that_was_deployed_before_it_could_be_told_is_no_other_for_it() -> None:
    bare = copy.deepcopy(RENDERED)
    del bare["services"]["web"]["environment"]
    before, now = (
        make(bare, release=release, pins={}, contents={}, marks={}, serves=None, replicas={}, told=names)
        for release, names in (("r7", ()), ("r8", ("web",)))
    )

    assert definition(now.body, "web") == definition(before.body, "web")
    assert now.after(before, None) == before


def test_going_back_without_an_edge_tells_the_new_release() -> None:
    again = made("r7", serves=None, told=["web"]).renumbered(None, "r7", "r12")

    assert again == made("r12", serves=None, told=["web"])


def test_what_is_sealed_comes_back_whole_with_all_that_must_be_hidden() -> None:
    document = Document(made().body, made().variables, ("interpolated",))

    back = Document.unpacked(document.packed())

    assert back == document
    assert {one.reveal() for one in back.secrets()} == {"the token", "a\nb", "interpolated"}


def test_a_value_that_no_release_keeps_is_the_one_of_today_and_no_part_of_a_definition() -> None:
    first = made(unsealed={"plain": "store_key"})
    other = made(unsealed={"plain": "store_key"}, contents={"secret token": b"the token", "secret plain": b"spent"})

    kept = Document.unpacked(first.packed())

    assert first.variables["CONCHE_SECRET_PLAIN"] == "a\nb"
    assert b"a\\nb" not in first.packed()
    assert "CONCHE_SECRET_PLAIN" not in kept.variables
    assert kept.valued({"store_key": Secret("of today"), "other": Secret("x")}).variables == {
        "CONCHE_SECRET_TOKEN": "the token",
        "CONCHE_SECRET_PLAIN": "of today",
    }
    assert definition(first.body, "store") == definition(other.body, "store")
    assert kept.valued({}) == kept
    assert b"of today" not in kept.valued({"store_key": Secret("of today")}).packed()


def test_replicas_that_were_scaled_count_for_more_than_the_file() -> None:
    assert made(replicas={"web": 3}).body["services"]["web"]["deploy"] == {"replicas": 3}
