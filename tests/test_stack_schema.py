"""stack.yaml: its schema takes what the model takes, and its format is a number."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from conche import stack
from conche.errors import Refused
from conche.stack import StackInvalid
from conche.version import version
from tests.test_stack import REPOSITORY, VALID, environment, problems, root

__all__ = ["root"]


# The schema


def valid_by_schema(text: str) -> bool:
    return bool(jsonschema.Draft202012Validator(stack.schema()).is_valid(yaml.safe_load(text)))


def test_the_schema_takes_what_the_model_takes() -> None:
    jsonschema.Draft202012Validator.check_schema(stack.schema())

    assert valid_by_schema(VALID)
    assert valid_by_schema((REPOSITORY / "stack.yaml").read_text())


@pytest.mark.parametrize(
    "line",
    [
        "    port: '1'",
        "    port: 70000",
        "    zzz: 1",
        "  Dev: {compose: [a]}",
        "  prod: {}",
        "  prod: {compose: []}",
        "images: 3",
    ],
)
def test_the_schema_refuses_what_the_model_refuses(line: str) -> None:
    assert problems(environment(line)) != []
    assert not valid_by_schema(environment(line))


def test_every_key_of_the_schema_is_described() -> None:
    schema = stack.schema()
    fields = [field for section in (schema, *schema["$defs"].values()) for field in section["properties"].values()]

    assert [field for field in fields if "description" not in field] == []


def test_the_schema_is_written_once(tmp_path: Path) -> None:
    assert [stack.write_schema(tmp_path), stack.write_schema(tmp_path)] == [True, False]
    assert yaml.safe_load((tmp_path / "stack.schema.json").read_text()) == stack.schema()


def test_aliases_that_multiply_without_end_are_refused() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]

    with pytest.raises(StackInvalid, match="problem"):
        stack.parse("\n".join(levels))


# The format of the file itself


def test_a_file_says_its_format_or_is_of_the_first() -> None:
    assert stack.parse(VALID).format == stack.parse("format: 1\n" + VALID).format == 1


@pytest.mark.parametrize("number", ["2", "99999999999999999999", "0x10"])
def test_a_file_of_a_later_format_is_refused_by_that_alone(number: str, root: Path) -> None:
    (root / "stack.yaml").write_text(f"format: {number}\n{VALID}hosts: {{a: {{}}}}\n")

    with pytest.raises(Refused) as caught:
        stack.load(root)

    assert (caught.value.code, caught.value.evidence) == ("stack-newer", ())
    assert f"is of format {int(number, 0)}. This is Conche {version()}, which reads format 1." in caught.value.message


@pytest.mark.parametrize("number", ["0", "-1", "'2'", "1.5", "true", "[2]", "null"])
def test_what_is_no_format_is_a_problem_like_any_other(number: str) -> None:
    [problem] = problems(f"format: {number}\n{VALID}")

    assert problem.startswith(":1  format: got ")
