"""Indexes: what buildx pushes for one platform or several, with attestations beside the images."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from conche.engine.connection import Engine
from conche.errors import NotFound, Refused
from conche.images.promote import _meant
from conche.supply.description import Description, describe, moment
from conche.supply.inventory import Running
from conche.supply.registry import ImageManifest
from tests.images.registries import USER, Shop
from tests.images.test_promote import up

INDEX = "application/vnd.oci.image.index.v1+json"
IMAGE = "application/vnd.oci.image.manifest.v1+json"


def manifest(document: dict[str, Any], kind: str = IMAGE) -> ImageManifest:
    content = json.dumps(document).encode()
    return ImageManifest(f"sha256:{hashlib.sha256(content).hexdigest()}", kind, content)


def index_of(*entries: dict[str, Any]) -> ImageManifest:
    return manifest({"schemaVersion": 2, "mediaType": INDEX, "manifests": list(entries)}, INDEX)


def entry(of: ImageManifest, architecture: str = "amd64") -> dict[str, Any]:
    platform = {"architecture": architecture, "os": "linux"}
    return {"mediaType": of.kind, "digest": of.digest, "size": len(of.content), "platform": platform}


def attestation(of: ImageManifest, about: ImageManifest) -> dict[str, Any]:
    said = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": about.digest}
    return {**entry(of, "unknown"), "annotations": said}


class Recorded:
    """A registry that has these manifests, and configurations by digest."""

    def __init__(self, *kept: ImageManifest, **created: str) -> None:
        self.kept = {one.digest: one for one in kept}
        self.created = created

    def manifest(self, _repository: str, digest: str) -> ImageManifest:
        if digest not in self.kept:
            raise NotFound("no-such-image", "gone")
        return self.kept[digest]

    def configuration(self, _repository: str, of: ImageManifest) -> dict[str, Any]:
        return {"created": self.created.get(of.configured, ""), "config": {"Labels": {"of": of.configured}}}


def image(name: str, *layers: tuple[str, int]) -> ImageManifest:
    said = [{"digest": digest, "size": size} for digest, size in layers]
    return manifest({"schemaVersion": 2, "config": {"digest": name}, "layers": said})


def described(registry: Recorded, of: ImageManifest) -> Description:
    return describe(registry, "shop", of)  # type: ignore[arg-type]


ONE, TWO, PROOF = image("one", ("base", 100), ("a", 5)), image("two", ("base", 100), ("b", 7)), image("proof", ("p", 1))
DATES = {"one": "2026-01-01T00:00:00Z", "two": "2026-01-02T03:00:00+02:00"}


def test_an_index_is_as_old_as_its_newest_image_and_as_large_as_their_layers() -> None:
    whole = index_of(entry(TWO, "s390x"), entry(ONE), attestation(PROOF, ONE))

    said = described(Recorded(ONE, TWO, PROOF, **DATES), whole)

    assert (said.size, said.created, said.problem) == (112, DATES["two"], "")
    assert said.parts == {ONE.digest, TWO.digest, PROOF.digest}


@pytest.mark.parametrize(
    "whole",
    [
        index_of(entry(ONE), entry(TWO)),
        index_of(attestation(PROOF, ONE)),
        index_of(),
        index_of({"digest": "nonsense"}),
        index_of(entry(index_of(entry(TWO)))),
    ],
)
def test_an_index_of_which_something_is_not_known_has_no_date(whole: ImageManifest) -> None:
    said = described(Recorded(ONE, **DATES), whole)

    assert (said.created, moment(said.created)) == ("", None)
    assert said.problem


@pytest.mark.parametrize("layers", [None, "x", [None], [{"size": "9"}], [{"digest": 1}], [{"digest": "a", "size": -1}]])
def test_a_manifest_of_another_shape_has_no_size(layers: Any) -> None:
    assert described(Recorded(), manifest({"config": {"digest": "one"}, "layers": layers})).size == 0


@pytest.mark.parametrize(
    ("created", "known"),
    [("", False), ("yesterday", False), ("0001-01-01T00:00:00Z", False), ("1970-01-01T00:00:00Z", False),
     ("2026-01-01T00:00:00.123456789Z", True), ("2026-01-01", True)],
)  # fmt: skip
def test_the_epoch_is_no_date(created: str, *, known: bool) -> None:
    assert (moment(created) is not None) is known


def push_index(shop: Shop, tag: str, *extra: dict[str, Any]) -> ImageManifest:
    """Put an index of the image that `develop` means, with something beside it, under another tag."""
    registry = shop.registry.client()
    child = registry.manifest(shop.name, "develop")
    whole = index_of(entry(child), *extra)
    registry.put(shop.name, tag, whole)
    return whole


def released(shop: Shop, day: int) -> str:
    shop.layered(bytes([day]) * 2000)
    tag = shop.commit("again", date=f"2026-01-{day:02}T00:00:00Z")
    shop.release()
    return tag


@pytest.mark.engine
def test_an_index_is_kept_by_its_age_and_listed_with_its_size(shop: Shop) -> None:
    tags = [released(shop, day) for day in range(1, 4)]
    push_index(shop, "1a2b3c4")
    released(shop, 4)

    planned = shop.json("images.prune", "--keep", "2", "--dry-run")
    entries = {one["tag"]: one for one in shop.json("images.list")["value"]}

    going = [step["subject"] for step in planned["plan"] if "(registry)" in step["subject"]]
    assert going == [f"image {shop.name}:{tag} (registry)" for tag in sorted(tags[:2])]
    assert (entries["1a2b3c4"]["size"], entries["1a2b3c4"]["created"]) == (
        entries[tags[2]]["size"], entries[tags[2]]["created"],
    )  # fmt: skip


@pytest.mark.engine
@pytest.mark.parametrize("asked", ["index", "child"])
def test_the_digest_that_was_asked_for_is_promoted(shop: Shop, engine: Engine, asked: str) -> None:
    shop.release()
    whole, child = push_index(shop, "whole").digest, str(shop.digest("develop"))
    name = f"{shop.registry.host}/{shop.name}"
    login = {"username": USER, "password": shop.registry.password}
    engine.client.api.pull(f"{name}@{whole}", auth_config=login)
    wanted = whole if asked == "index" else child
    shop.replace("compose/dev.yaml", f"{shop.name}:develop", f"{shop.name}@{wanted}")
    up(shop, engine)

    done = shop.invoke("images.promote", "--from", "dev", "--to", "prod")

    assert done.returncode == 0, done.stderr
    known = engine.client.images.get(f"{name}@{child}").attrs["RepoDigests"]
    assert {f"{name}@{whole}", f"{name}@{child}"} <= set(known)
    assert shop.digest("production") == wanted


def runs(tag: str = "", digest: str = "") -> Running:
    return Running("dev", "web", "shop", "id", frozenset({ONE.digest, BOTH.digest}), "", tag=tag, digest=digest)


BOTH = index_of(entry(ONE))


class Tagged:
    """A registry in which a tag means something."""

    def __init__(self, **meaning: str) -> None:
        self.meaning = meaning

    def digest(self, _repository: str, tag: str) -> str | None:
        return self.meaning.get(tag)


@pytest.mark.parametrize(
    ("run", "meaning", "wanted"),
    [
        (runs(digest=ONE.digest), {}, ONE),
        (runs(digest=BOTH.digest), {}, BOTH),
        (runs(tag="develop"), {"develop": ONE.digest}, ONE),
        (runs(tag="develop"), {"develop": BOTH.digest}, BOTH),
        (runs(tag="develop"), {"develop": TWO.digest}, BOTH),
        (runs(), {}, BOTH),
    ],
)
def test_of_several_digests_the_one_it_was_made_from_is_meant(
    run: Running, meaning: dict[str, str], wanted: ImageManifest
) -> None:
    found = {one.digest: one for one in (ONE, BOTH)}

    assert _meant(Tagged(**meaning), "shop", [run], found) == wanted  # type: ignore[arg-type]


def test_where_nothing_tells_digests_apart_none_is_promoted() -> None:
    with pytest.raises(Refused) as refused:
        _meant(Tagged(), "shop", [runs(tag="gone")], {one.digest: one for one in (ONE, TWO)})  # type: ignore[arg-type]

    assert refused.value.code == "digest-unclear"
    assert refused.value.looked_at == tuple(sorted((ONE.digest, TWO.digest)))
