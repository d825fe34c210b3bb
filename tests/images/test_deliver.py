"""images.build, push, pull, release, against a real registry."""

from __future__ import annotations

import os

import pytest

from tests.images.registries import Shop

pytestmark = pytest.mark.engine


def test_a_release_is_pushed_under_its_revision_and_its_environments_tag(shop: Shop) -> None:
    shop.layered(os.urandom(1 << 16))
    revision = shop.git("log", "-1", "--format=%h")

    reference = shop.release()

    assert reference == f"{shop.registry.host}/{shop.name}@{shop.digest('develop')}"
    assert shop.tags() == tuple(sorted((revision, "develop")))
    assert shop.digest(revision) == shop.digest("develop")


def test_a_second_release_of_the_same_commit_changes_nothing(shop: Shop) -> None:
    shop.layered(os.urandom(1 << 16))
    first = shop.json("images.release")

    second = shop.json("images.release")

    assert (first["changed"], second["changed"]) == (True, False)
    assert second["value"]["layers_moved"] == 0
    assert second["value"]["digest"] == first["value"]["digest"]
