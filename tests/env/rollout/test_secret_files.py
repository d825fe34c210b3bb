"""A container of a release reads its secret files, whoever it runs as, and none of them comes from the checkout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.engine.connection import Engine
from conche.stack import load
from conche.supply.base import provide
from tests.edged import EdgedStack
from tests.stacks import free_port, variables_in

SECTION = """\
secrets:
  declared:
    owned: {outputs: [file], environments: [prod], owner: 1000, required: false}
"""


@pytest.fixture
def stack(tmp_path: Path, engine: Engine, base_image: str) -> Iterator[EdgedStack]:
    made = EdgedStack.create(tmp_path / "checkout", free_port())
    provide(engine, load(made.folder).bases, "nginx:1.27", lambda _: None)
    made.write("stack.yaml", (made.folder / "stack.yaml").read_text() + SECTION)
    made.replace(
        "compose/prod.yaml",
        "    stop_grace_period: 3s\n",
        '    stop_grace_period: 3s\n    user: "1000:1000"\n'
        '    secrets: [owned, {source: plain, uid: "1000", mode: 0400}]\n',
    )
    made.replace(
        "compose/prod.yaml",
        "volumes:\n  edge:",
        "secrets:\n  owned: {file: ../docker/secrets/owned.txt}\n  plain: {file: ../plain.txt}\nvolumes:\n  edge:",
    )
    made.write("docker/secrets/owned.txt", "the owned one")
    made.write("plain.txt", "the plain one")
    yield made
    made.remove_all(engine)


@pytest.mark.engine
def test_a_user_that_the_image_does_not_name_reads_its_secret_files(stack: EdgedStack, engine: Engine) -> None:
    done = stack.deploy(stack.version("one"))

    assert done.returncode == 0, done.stderr
    [web] = [one for one in stack.containers(engine) if one.service == "web"]
    container = engine.client.containers.get(web.id)
    read = container.exec_run(["cat", "/run/secrets/owned", "/run/secrets/plain"])
    assert (read.exit_code, read.output) == (0, b"the owned onethe plain one")
    assert [mount["Destination"] for mount in container.attrs["Mounts"]] == []
    assert "not supported" not in done.stderr


@pytest.mark.engine
def test_variables_of_what_stands_behind_the_edge_are_the_values_themselves(stack: EdgedStack, engine: Engine) -> None:
    stack.replace(
        "compose/prod.yaml",
        'environment: {SETTING: "${SETTING:-none}"}',
        'environment: {SETTING: "${SETTING:-none}", DB_PASSWORD: "${DB_PASSWORD}", URL: "pg://a:${DB_PASSWORD}@db"}',
    )
    stack.write(".env", "DB_PASSWORD='edge$$pass\"word'\n")

    def variables() -> list[str]:
        [web] = [one for one in stack.containers(engine) if one.service == "web"]
        said = variables_in(web.id)
        return [said[name] for name in ("DB_PASSWORD", "URL", "SETTING")]

    expected = ['edge$$pass"word', 'pg://a:edge$$pass"word@db']
    version = stack.version("one")
    for setting, back in (("none", False), ("new", False), ("none", True)):
        done = stack.rollback() if back else stack.deploy(version, SETTING=setting)
        assert done.returncode == 0, done.stderr
        assert "edge$$pass" not in done.stdout + done.stderr
        assert variables() == [*expected, setting]
