"""env.influx.token --read-only: the secret is a token that reads, and that the server refuses when it writes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from conche.engine.connection import Engine
from conche.secret import Secret
from tests import warm
from tests.backup.databases import Database
from tests.stacks import SmallStack, free_port
from tests.standing import standing

pytestmark = [pytest.mark.engine, pytest.mark.in_order]

DECLARED = """\
secrets:
  declared:
    influxdb_token: {outputs: [file], services: [influxdb]}
    influxdb_token_dev: {outputs: [env], environments: [dev], required: false}
environments:
"""


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory, engine: Engine, base_image: str) -> Iterator[Database]:
    """An InfluxDB whose operator token is in the encrypted file."""
    stack = SmallStack.create(tmp_path_factory.mktemp("reading") / "checkout", free_port())
    made = Database.create(stack, engine)
    stack.replace("stack.yaml", "environments:\n", DECLARED)
    assert stack.invoke("secrets.init").returncode == 0
    put(stack, "influxdb_token", made.token)
    yield made
    stack.remove_all(engine)


def put(stack: SmallStack, name: str, value: str) -> None:
    argv = stack.argv("secrets.set", name)
    warm.run(argv, cwd=stack.folder, env=stack.environment(), input=value, text=True, check=True, capture_output=True)


def made(database: Database, *words: str) -> subprocess.CompletedProcess[str]:
    return database.stack.invoke("env.influx.token", "--env", "dev", "--read-only", *words)


def stored(database: Database) -> str:
    return database.stack.invoke("secrets.get", "influxdb_token_dev").stdout.strip()


def readers(database: Database) -> list[str]:
    """The tokens in the server that are no operator's."""
    return [one.token.reveal() for one in database.influx.authorizations() if one.token.reveal() != database.token]


def test_it_is_made_once_proven_and_stored_and_a_second_run_has_nothing_to_do(database: Database) -> None:
    planned, before = made(database, "--dry-run", "--json"), readers(database)
    done, again = made(database), made(database)

    token = stored(database)
    steps = [(one["action"], one["subject"]) for one in json.loads(planned.stdout)["plan"]]
    assert steps == [("create", "key influxdb_token_dev"), ("set", "secret influxdb_token_dev")]
    assert (before, done.returncode, readers(database)) == ([], 0, [token]), done.stderr
    assert database.influx.may(Secret(token), "energy") == {"read"}
    assert "invoke env.up --env dev" in done.stdout
    assert (again.returncode, "Nothing to do" in again.stdout) == (0, True), again.stderr
    assert token not in "".join(one.stdout + one.stderr for one in (planned, done, again))


def test_one_that_may_write_or_is_unknown_is_replaced(database: Database) -> None:
    assert made(database).returncode == 0
    old = stored(database)

    put(database.stack, "influxdb_token_dev", database.token)
    asked = made(database)
    assert (asked.returncode, "confirmation-needed" in asked.stderr) == (2, True), asked.stderr
    assert stored(database) == database.token
    writing = made(database, "--yes")
    put(database.stack, "influxdb_token_dev", "from another server")
    unknown = made(database, "--yes")

    assert (writing.returncode, unknown.returncode) == (0, 0), writing.stderr + unknown.stderr
    assert readers(database) == [stored(database)]
    assert database.influx.may(Secret(stored(database)), "energy") == {"read"}
    # What was made before, and is not stored anywhere, is what is stored next.
    assert stored(database) == old


def test_killed_before_it_is_stored_the_next_command_stores_the_one_that_was_made(database: Database) -> None:
    put(database.stack, "influxdb_token_dev", "changeme")
    for known in database.influx.authorizations():
        if known.token.reveal() != database.token:
            database.influx.revoke(known)

    words = ("env.influx.token", "--env", "dev", "--read-only")
    with standing(database.stack, *words, event="os.rename", at="secrets.enc.yaml") as one:
        one.kill()
    [left] = readers(database)
    done = made(database)

    assert (done.returncode, stored(database), readers(database)) == (0, left, [left]), done.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--env", "dev"), 2, "error [token-kind-missing]"),
        (("--env", "dev", "--read-only", "--secret", "nobody"), 6, "error [secret-not-declared]"),
    ],
)
def test_what_cannot_be_made_or_kept_is_refused(
    database: Database, words: tuple[str, ...], code: int, says: str
) -> None:
    before = readers(database)

    done = database.stack.invoke("env.influx.token", *words)

    assert (done.returncode, says in done.stderr, readers(database)) == (code, True, before), done.stderr
