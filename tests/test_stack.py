"""stack.yaml becomes one frozen model, or all its problems are reported at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from conche import stack
from conche.errors import Refused
from conche.stack import StackInvalid, StackProblem, parse

REPOSITORY = Path(__file__).parents[1]

VALID = """\
name: shop
registry: registry.example.org:5000
images:
  web: {dockerfile: docker/web.Dockerfile, repository: shop/web}
environments:
  dev: {compose: [compose/dev.yaml], tag: develop, port: 8001}
  prod: {compose: [compose/dev.yaml, compose/prod.yaml], project: shop, port: 8000, protected: true}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make a folder with the files that `VALID` names."""
    for file in ("docker/web.Dockerfile", "compose/dev.yaml", "compose/prod.yaml"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "stack.yaml").write_text(VALID)
    return tmp_path


def problems(text: str, root: Path | None = None) -> list[str]:
    """Return the problems of a stack file, as they are shown."""
    if root is None:
        with pytest.raises(StackInvalid) as caught:
            stack.parse(text)
    else:
        (root / "stack.yaml").write_text(text, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(StackInvalid) as caught:
            stack.load(root)
    assert (caught.value.status, caught.value.code) == (2, "stack-invalid")
    assert caught.value.evidence == tuple(map(str, caught.value.problems))
    return [shown.removeprefix("stack.yaml") for shown in caught.value.evidence]


def environment(line: str) -> str:
    """Return a stack file with one environment, whose last line is given."""
    return f"name: shop\nregistry: host\nenvironments:\n  dev:\n    compose: [a.yaml]\n{line}\n"


@pytest.mark.parametrize(
    ("registry", "own"),
    [
        ("localhost:5000", "forge"),
        ("127.0.0.1:5000", "forge"),
        ("localhost:5001", None),
        ("localhost", None),
        ("registry.example.org:5000", None),
    ],
)
def test_a_registry_is_the_stacks_own_where_an_environment_publishes_its_port_here(registry: str, own: str) -> None:
    made = stack.parse(
        f"name: shop\nregistry: {registry}\nenvironments:\n"
        "  dev: {compose: [a.yaml]}\n  forge: {compose: [b.yaml], port: 5000}\n"
    )

    assert made.own_registry == own


def test_environments_may_have_one_port_on_different_addresses() -> None:
    """The registry's own environment is then the one that publishes where the registry is asked for."""
    made = stack.parse(
        "name: shop\nregistry: localhost:5000\nenvironments:\n"
        "  far: {compose: [a.yaml], port: 5000, publish: 100.64.0.1}\n  here: {compose: [b.yaml], port: 5000}\n"
    )

    assert made.own_registry == "here"


# What is right


def test_the_stack_of_this_repository_is_what_it_says() -> None:
    own = stack.load(REPOSITORY)

    assert (own.name, own.registry, list(own.images), list(own.environments)) == (
        "chocolate-factory",
        "localhost:5000",
        ["fastapi-app"],
        ["dev", "prod", "git"],
    )
    assert {name: (each.tag, each.branch, each.port, each.protected) for name, each in own.environments.items()} == {
        "dev": ("develop", "develop", 8001, False),
        "prod": ("production", "main", 8000, True),
        "git": ("latest", None, 5000, False),
    }
    assert own.environments["dev"].compose == (Path("compose/dev.yaml"),)
    assert own.reference("fastapi-app", "dev") == "localhost:5000/chocolate-factory:develop"


def test_what_is_not_said_has_a_default(root: Path) -> None:
    loaded = stack.load(root)

    assert loaded.environments["prod"].model_dump(exclude={"compose"}) == {
        "project": "shop",
        "tag": "latest",
        "branch": None,
        "port": 8000,
        "publish": "127.0.0.1",
        "health": None,
        "protected": True,
        "engine": None,
        "deploy": stack.Deploy().model_dump(),
        "profiles": (),
    }
    assert (loaded.images["web"].context, loaded.bases) == (Path(), {})


def test_names_of_projects_and_images_are_composed(root: Path) -> None:
    loaded = stack.load(root)

    assert (loaded.project("dev"), loaded.project("prod")) == ("shop-dev", "shop")
    assert loaded.reference("web", "dev") == "registry.example.org:5000/shop/web:develop"


def test_without_a_registry_an_image_is_named_by_its_repository_alone() -> None:
    text = environment("    tag: develop").replace(
        "registry: host\n", "images: {web: {dockerfile: x, repository: shop}}\n"
    )

    loaded = stack.parse(text)

    assert (loaded.registry, loaded.reference("web", "dev")) == (None, "shop:develop")


def test_anchors_and_merge_keys_are_understood() -> None:
    text = environment("    port: 1").replace("  dev:", "  dev: &dev") + "  prod: {<<: *dev, port: 2}\n"

    assert [each.port for each in stack.parse(text).environments.values()] == [1, 2]


def test_one_port_on_two_engines_is_no_conflict() -> None:
    text = environment("    port: 1") + "  prod: {compose: [a.yaml], port: 1, engine: 'ssh://deploy@host'}\n"

    assert [each.port for each in stack.parse(text).environments.values()] == [1, 1]


@pytest.mark.parametrize("section", ["", "images", "environments"])
def test_nothing_in_it_can_be_assigned(section: str, root: Path) -> None:
    loaded = stack.load(root)
    model = next(iter(getattr(loaded, section).values())) if section else loaded

    for name in type(model).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(model, name, None)


# What is wrong


def test_every_problem_is_told_at_once_with_its_place(root: Path) -> None:
    text = """\
name: Shop
registri: localhost:5000
images:
  web: {dockerfile: docker/w.Dockerfile, repository: "a b"}
environments:
  dev:
    compose: [compose/dev.yml]
    port: 99999
    prot: 8001
    tag: 1.10
  prod: {compose: [], protected: maybe}
"""

    hint = " Did you mean 'web.Dockerfile'?"

    assert problems(text, root) == [
        ":1  name: got 'Shop', expected text that matches ^[a-z][a-z0-9]*([-_][a-z0-9]+)*$",
        ":2  registri: unknown key. Did you mean 'registry'?",
        ":4  images.web.dockerfile: got 'docker/w.Dockerfile', expected a file that exists." + hint,
        ":4  images.web.repository: got 'a b', expected text that matches ^[a-z0-9]+([._/-][a-z0-9]+)*$",
        ":7  environments.dev.compose.0: got 'compose/dev.yml', expected a file that exists. Did you mean 'dev.yaml'?",
        ":8  environments.dev.port: got 99999, expected less than or equal to 65535",
        ":9  environments.dev.prot: unknown key. Did you mean 'port'?",
        ":10  environments.dev.tag: got 1.1, expected a valid string",
        ":11  environments.prod.compose: got [], expected at least 1",
        ":11  environments.prod.protected: got 'maybe', expected a valid boolean",
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("    port: '8001'", ":6  environments.dev.port: got '8001', expected a valid integer"),
        ("    port: 0", ":6  environments.dev.port: got 0, expected greater than or equal to 1"),
        ("    port: 80.5", ":6  environments.dev.port: got 80.5, expected a valid integer"),
        ("    protected: 'yes'", ":6  environments.dev.protected: got 'yes', expected a valid boolean"),
        (
            "    health: localhost",
            ":6  environments.dev.health: got 'localhost', expected text that matches ^https?://",
        ),
        (
            "    health: /x",
            ":6  environments.dev.health: got '/x', expected a URL; a path needs `port`, and an engine on this machine",
        ),
        (
            "    port: 1\n    engine: ssh://far\n    health: /x",
            ":8  environments.dev.health: got '/x', expected a URL; a path needs `port`, and an engine on this machine",
        ),
        (
            "    port: 1\n    engine: swarm+ssh://far\n    health: /x",
            ":8  environments.dev.health: got '/x', expected a URL; a path needs `port`, and an engine on this machine",
        ),
        (
            "    engine: host",
            ":6  environments.dev.engine: got 'host', expected text that matches ^(swarm|(swarm\\+)?(ssh|tcp|unix",
        ),
        ("    project: 'a b'", ":6  environments.dev.project: got 'a b', expected text that matches"),
        ("    tag: '-x'", ":6  environments.dev.tag: got '-x', expected text that matches"),
        ("    zzz: 1", ":6  environments.dev.zzz: unknown key; known: compose, project, tag, branch, port, publish"),
        ("  Dev: {compose: [a]}", ":6  environments.Dev: got 'Dev', expected text that matches"),
        ("  prod: 3", ":6  environments.prod: got 3, expected a mapping"),
        ("  prod: {compose: a}", ":6  environments.prod.compose: got 'a', expected a list"),
        ("  prod: {compose: [1]}", ":6  environments.prod.compose.0: got 1, expected "),
        (
            "  prod: {}",
            ":6  environments.prod.compose: is missing; expected Compose files, in the order Compose merges",
        ),
        ("    port: 1\n    port: 2", ":7  environments.dev.port: duplicate key; first on line 6"),
        ("name: again", ":6  name: duplicate key; first on line 1"),
        ("images: 3", ":6  images: got 3, expected a mapping"),
        ("bases: {a: {packages: []}}", ":6  bases.a.suite: is missing; expected Debian release"),
        ("\tport: 1", ":6  (top): a tab indents this line; YAML requires spaces"),
        ("    tag: [a", ":7  (top): not YAML: "),
        ("    tag: *nowhere", ":6  (top): not YAML: found undefined alias 'nowhere'"),
        ("    tag: !!python/object:os.system x", ":6  (top): not YAML: could not determine a constructor"),
        ("    tag: 2024-99-99", ":6  (top): not YAML: '2024-99-99' is not a valid timestamp"),
        ("    port: !!int x", ":6  (top): not YAML: 'x' is not a valid int"),
        ("    protected: !!bool x", ":6  (top): not YAML: 'x' is not a valid bool"),
        ("    ? [a]\n    : 1", ":6  (top): not YAML: found unhashable key"),
        ("    2024-01-01: 1", "  (top): cannot be written as JSON: keys must be str"),
        ('    tag: "\\ud800"', "  (top): Invalid JSON"),
        ("    tag: &a [*a]", "  (top): an alias is inside its own anchor"),
        ("    tag: " + "[\n" * 3000, ":103  (top): not YAML: nested more than 100 levels deep"),
        (
            "    port: 1\n  prod: {compose: [a.yaml], port: 1}",
            "  (top): expected another port: environments dev and prod both publish 1 on one engine",
        ),
        (
            "secrets: {declared: {key: {sealed: false}}}",
            ":6  secrets.declared.key: got {'sealed': False}, expected `outputs: [file]` with `sealed: false`",
        ),
        (
            "    port: 1\n  prod: {compose: [a.yaml], port: 1, publish: 0.0.0.0}",
            "  (top): expected another port: environments dev and prod both publish 1 on one engine",
        ),
    ],
)
def test_a_problem_is_told_with_line_path_value_and_what_was_expected(line: str, problem: str) -> None:
    (told,) = problems(environment(line))

    assert told[: len(problem)] == problem


@pytest.mark.parametrize(
    ("publish", "host"),
    [("127.0.0.1", "localhost"), ("0.0.0.0", "localhost"), ("192.0.2.7", "192.0.2.7"), ("fd00::7", "[fd00::7]")],
)
def test_a_path_is_asked_where_the_port_is_published(publish: str, host: str) -> None:
    stack = parse(environment(f"    port: 8001\n    publish: '{publish}'\n    health: /health"))

    assert stack.environments["dev"].health == f"http://{host}:8001/health"


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "word", "3", "null", "---\n"], ids=repr)
def test_a_file_that_is_no_mapping_is_told_what_to_be(text: str) -> None:
    assert problems(text) == ["  (top): expected a mapping with name and environments"]


def test_a_file_with_two_documents_is_refused() -> None:
    assert problems(VALID + "---\n" + VALID)[0].startswith(":8  (top): not YAML: but found another document")


def test_a_file_that_is_not_utf8_is_told_where(root: Path) -> None:
    assert problems("name: caf\udce9\n", root) == ["  (top): byte 9 is not UTF-8"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("compose", "a file that exists."),
        ("compose/dev.yaml/x", "a file that exists."),
        ("x" * 300, "a file that exists."),
        ("a\\0b", "a file that exists."),
        ("", "a file that exists."),
    ],
    ids=["folder", "below a file", "too long", "NUL", "empty"],
)
def test_a_path_that_is_no_file_is_refused(path: str, expected: str, root: Path) -> None:
    (told,) = problems(VALID.replace("[compose/dev.yaml]", f'["{path}"]'), root)

    assert told.startswith(":6  environments.dev.compose.0: got ")
    assert f"expected {expected}" in told


@pytest.mark.parametrize(("broken", "loads"), [("", True), ("    prot: 1\n", False)])
def test_files_that_are_missing_are_told_and_left_out_for_those_who_can_do_without(
    broken: str, loads: bool, tmp_path: Path
) -> None:
    (tmp_path / "stack.yaml").write_text(f"name: shop\nenvironments:\n  dev:\n    compose: [gone.yaml]\n{broken}")
    told: list[str] = []

    if loads:
        assert stack.load(tmp_path, missing=told.append).environments.keys() == {"dev"}
    else:
        with pytest.raises(StackInvalid):
            stack.load(tmp_path, missing=told.append)

    assert ["gone.yaml" in one for one in told] == [True] * loads
    with pytest.raises(StackInvalid):
        stack.load(tmp_path)


def test_a_build_context_is_a_folder(root: Path) -> None:
    (told,) = problems(VALID.replace("{dockerfile", "{context: docker/web.Dockerfile, dockerfile"), root)

    assert told.startswith(":4  images.web.context: got 'docker/web.Dockerfile', expected a folder that exists.")


@pytest.mark.parametrize(("kind", "reason"), [("absent", "No such file or directory"), ("folder", "Is a directory")])
def test_a_missing_stack_file_is_told_with_where_it_was_looked_for(kind: str, reason: str, tmp_path: Path) -> None:
    if kind == "folder":
        (tmp_path / "stack.yaml").mkdir()

    with pytest.raises(Refused) as caught:
        stack.load(tmp_path)

    assert (caught.value.code, caught.value.message, caught.value.looked_at) == (
        "stack-missing",
        f"No stack file could be read: {reason}.",
        (str(tmp_path / "stack.yaml"),),
    )


def test_a_refusal_counts_its_problems_and_says_where_keys_are_explained() -> None:
    one, two = StackProblem(0, "", "a"), StackProblem(3, "a.0", "b")

    assert [StackInvalid(which, Path("f")).message for which in ([one], [one, two])] == [
        "f has one problem.",
        "f has 2 problems.",
    ]
    assert "conche docs stack" in StackInvalid([one], Path("f")).next_command
    assert [str(one), str(two)] == ["stack.yaml  (top): a", "stack.yaml:3  a.0: b"]
