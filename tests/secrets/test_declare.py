"""secrets.declare writes what the encrypted file has into stack.yaml, and changes nothing else there."""

from __future__ import annotations

import pytest

from conche.errors import Refused
from conche.secrets.declare import with_declarations
from conche.stack import parse
from tests.secrets.declared import Checkout

HEAD = "name: shop  # ours\nenvironments: {dev: {compose: [a.yaml]}}\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "secrets:\n  declared:\n    old: {required: false}  # kept\n    # a remark\n\n# end\n",
            "secrets:\n  declared:\n    old: {required: false}  # kept\n    new: {env: new}\n    # a remark\n\n# end\n",
        ),
        (
            "secrets:\n  declared:\n      old:\n        env: OLD\nci: {}\n",
            "secrets:\n  declared:\n      old:\n        env: OLD\n      new: {env: new}\nci: {}\n",
        ),
        ("secrets:\n  declared: {old: {}}\n", "secrets:\n  declared: {old: {}, new: {env: new}}\n"),
        ("secrets:\n  declared: {}\n", "secrets:\n  declared: {new: {env: new}}\n"),
        ("secrets:\n  file: a.yaml", "secrets:\n  file: a.yaml\n  declared:\n    new: {env: new}\n"),
        ("secrets: {declared: {old: {}}}\n", "secrets: {declared: {old: {}, new: {env: new}}}\n"),
    ],
)
def test_declarations_come_behind_those_that_are_there(before: str, after: str) -> None:
    text = with_declarations(HEAD + before, {"new": {"env": "new"}})

    assert text == HEAD + after
    secrets = parse(text).secrets
    assert secrets is not None
    assert secrets.declared["new"].env == "new"


@pytest.mark.parametrize("section", ["", "secrets: {}\n", "secrets: {file: a.yaml}\n", "secrets:\n  declared:\n"])
def test_where_nothing_can_be_added_it_is_shown_what_to_write(section: str) -> None:
    with pytest.raises(Refused) as refused:
        with_declarations(HEAD + section, {"new": {}})

    assert "new: {}" in refused.value.next_command


@pytest.mark.process
def test_everything_in_the_file_is_declared_as_the_compose_files_use_it(checkout: Checkout) -> None:
    checkout.small.write("values.env", "reader=a\nWriter=b\nas_file=c\n")
    checkout.small.replace(
        "compose/dev.yaml", "SETTING: ", "READS: ${reader:-}\n      WRITES: ${WRITER:-}\n      SETTING: "
    )
    with (checkout.folder / "compose/dev.yaml").open("a") as file:
        file.write("secrets: {as_file: {file: ../docker/secrets/as_file.txt}}\n")
    checkout.ok("secrets.encrypt", "values.env", "--merge")

    planned = checkout.ok("secrets.declare", "--all", "--dry-run")
    before = (checkout.folder / "stack.yaml").read_text()
    checkout.ok("secrets.declare", "--all")

    assert "writer" in planned
    text = (checkout.folder / "stack.yaml").read_text()
    added = [line for line in text.splitlines() if line not in before.splitlines()]
    assert added == ["    as_file: {outputs: [file]}", "    reader: {env: reader}", "    writer: {}"]
    assert "Nothing to do" in checkout.ok("secrets.declare", "--all")
    assert "Nothing to do" in checkout.ok("secrets.declare", "reader")


@pytest.mark.process
@pytest.mark.parametrize(("words", "code"), [((), 2), (("nowhere",), 6), (("api_key", "--all"), 2)])
def test_what_is_not_one_secret_or_all_is_refused(words: tuple[str, ...], code: int, checkout: Checkout) -> None:
    assert checkout.call("secrets.declare", *words).returncode == code
