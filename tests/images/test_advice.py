"""What to type where the private registry does not answer or refuses us, by what stack.yaml says of it."""

from __future__ import annotations

import pytest

from conche.stack import parse
from conche.supply.login import advice
from conche.supply.registry import Advice

LOGIN = "login: {user: who, password: word}\nsecrets: {declared: {who: {}, word: {}}}\n"
ELSEWHERE = "invoke images.login    # tries again; or correct `registry` in stack.yaml"


@pytest.mark.parametrize(
    ("registry", "section", "unreachable", "denied"),
    [
        ("localhost:5000", LOGIN, "invoke env.up --env forge", "invoke secrets.set word\ninvoke env.up --env forge"),
        ("localhost:5000", "", "invoke env.up --env forge", "docker login localhost:5000"),
        ("registry.example.org", LOGIN, ELSEWHERE, "invoke secrets.set word"),
        ("registry.example.org", "", ELSEWHERE, "docker login registry.example.org"),
    ],
)
def test_the_advice_has_the_names_that_this_stack_has(
    registry: str, section: str, unreachable: str, denied: str
) -> None:
    stack = parse(
        f"name: shop\nregistry: {registry}\n{section}"
        "environments: {dev: {compose: [a.yaml]}, forge: {compose: [b.yaml], port: 5000}}\n"
    )

    assert advice(stack) == Advice(unreachable, denied)
