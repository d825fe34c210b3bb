"""Which jobs an event lets run, as far as their conditions are decided by it."""

from __future__ import annotations

import pytest

from conche.ci.act import act
from conche.ci.workflows.expressions import may_run

DEVELOP = act.github("push", "develop")


@pytest.mark.parametrize(
    ("condition", "runs"),
    [
        ("", True),
        ("github.ref == 'refs/heads/develop'", True),
        ("github.ref == 'refs/heads/main'", False),
        ("${{ github.ref == 'refs/heads/main' }}", False),
        ("github.ref != 'refs/heads/main'", True),
        ("github.ref_name != 'Develop'", False),
        ("github.event_name == 'pull_request'", False),
        ("always() && github.ref == 'refs/heads/main'", False),
        ("needs.a.outputs.b == 'c' && github.ref == 'refs/heads/main'", False),
        ("github.ref == 'refs/heads/main' || github.event_name == 'push'", True),
        ("!(always() && github.ref == 'refs/heads/main' && always())", True),
        ("contains(github.ref, 'main')", True),
        ("github.actor == 'somebody'", True),
        ("github.ref == 'a && b'", True),
    ],
)
def test_only_what_the_event_rules_out_is_left_out(condition: str, runs: bool) -> None:
    assert may_run(condition, DEVELOP) is runs


@pytest.mark.parametrize(
    ("condition", "runs"), [("", False), ("success()", False), ("always()", True), ("!cancelled()", True)]
)
def test_a_job_goes_with_the_one_that_it_needs(condition: str, runs: bool) -> None:
    assert may_run(condition, DEVELOP, skipped=True) is runs


def test_a_pull_request_has_no_branch_of_its_own() -> None:
    assert not may_run("github.ref == 'refs/heads/main'", act.github("pull_request", "main"))
    assert may_run("github.base_ref == 'main'", act.github("pull_request", "main"))
