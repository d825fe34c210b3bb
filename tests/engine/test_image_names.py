"""A name that no image can have is said as such, in what Compose makes of a service's name too."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import docker.errors
import pytest
import requests

from conche.engine import images
from conche.engine.connection import Engine
from conche.errors import ConcheError


class Images:
    """An engine's images, which are all refused by the same words."""

    def __init__(self, words: str) -> None:
        self.words = words

    def get(self, _: str) -> object:
        response = requests.Response()
        response.status_code = 400
        raise docker.errors.APIError("400 Client Error", response, self.words)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("no such image: shop-Web: invalid reference format: repository name must be lowercase", "image-name-invalid"),
        ("invalid reference format: repository name (library/shop-Web) must be lowercase", "image-name-invalid"),
        ("no space left on device", "disk-full"),
        ("something else", "engine-refused"),
    ],
)
def test_a_name_that_no_image_can_have_is_not_the_engines_fault(words: str, code: str) -> None:
    engine = Engine("tcp://nowhere:1")
    client: Any = SimpleNamespace(images=Images(words))
    engine.client = client

    with pytest.raises(ConcheError) as refused:
        images.find(engine, "shop-Web")

    assert (refused.value.code, list(refused.value.evidence)) == (code, [words])
