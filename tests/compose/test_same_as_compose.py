"""What `docker compose up` makes of a file, `env.up` makes of it too: every key, alone and with others.

`--whole-corpus` takes each file of the corpus by itself; random_files.py puts them together at random.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.compose.corpus import CASES, REFUSED, VARIANTS, choice, laid_together, variants
from tests.compose.trial import Trial

pytestmark = pytest.mark.engine

ALWAYS = ("runtime-unknown", "unknown-key", "user-unknown")
"""Of what is refused, what is tried in each run."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "document" not in metafunc.fixturenames:
        return
    whole = metafunc.config.getoption("--whole-corpus")
    refused = {str(case): case.document for case in CASES if case.group == REFUSED and case.name in ALWAYS}
    alone = {str(case): laid_together([(case, "it")]) for case in CASES if case.group != VARIANTS}
    documents = {"choice": choice(), **({"variants": variants(), **alone} if whole else refused)}
    metafunc.parametrize("document", documents.values(), ids=documents)


def test_what_compose_makes_of_a_file_conche_makes_too(document: Any, trial: Trial) -> None:
    trial.see_the_same(document)
