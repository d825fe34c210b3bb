"""env.influx.rotate-token: at every moment the token in the encrypted file is one that the server accepts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from conche.engine.connection import Engine
from tests import warm
from tests.backup.databases import Database
from tests.stacks import SmallStack, free_port
from tests.standing import standing

pytestmark = pytest.mark.engine

DECLARED = """\
secrets:
  declared:
    influxdb_token: {outputs: [file], services: [influxdb], generate: hex32}
environments:
"""


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, engine: Engine, base_image: str) -> Iterator[Database]:
    """An InfluxDB whose token is in the encrypted file, and is rendered from there."""
    stack = SmallStack.create(tmp_path_factory.mktemp("rotating") / "checkout", free_port())
    made = Database.create(stack, engine)
    stack.replace("stack.yaml", "environments:\n", DECLARED)
    stack.replace("compose/dev.yaml", "../token.txt", "../docker/secrets/influxdb_token.txt")
    assert stack.invoke("secrets.init").returncode == 0
    put(stack, made.token)
    assert stack.invoke("env.down").returncode == 0  # the same content from another file is no change
    stack.up()
    made.write("prices eur=1 1700000000\n")
    yield made
    stack.remove_all(engine)


@pytest.fixture
def database(kept: Database) -> Iterator[Database]:
    """The same for every test; no rotation is under way."""
    yield kept
    kept.stack.up()
    assert rotate(kept, "--finish").returncode == 0


def put(stack: SmallStack, value: str) -> None:
    argv = stack.argv("secrets.set", "influxdb_token")
    warm.run(argv, cwd=stack.folder, env=stack.environment(), input=value, text=True, check=True, capture_output=True)


def rotate(database: Database, *words: str) -> subprocess.CompletedProcess[str]:
    return database.stack.invoke("env.influx.rotate-token", "--env", "dev", *words)


def stored(database: Database) -> str:
    """The token in the encrypted file."""
    return database.stack.invoke("secrets.get", "influxdb_token").stdout


def listed(database: Database, token: str) -> dict[str, str] | None:
    """The tokens that the server knows, with their ids, if it accepts this one."""
    script = "INFLUX_TOKEN=$(cat) exec influx auth list --json"
    argv = ["docker", "exec", "-i", database.influx.container.id, "sh", "-c", script]
    done = subprocess.run(argv, input=token, capture_output=True, text=True, check=False)
    return {one["token"]: one["id"] for one in json.loads(done.stdout)} if done.returncode == 0 else None


def test_both_are_valid_until_everybody_has_the_new_one(database: Database) -> None:
    old = stored(database)
    planned, unchanged = rotate(database, "--dry-run", "--json"), stored(database) == old

    begun = rotate(database)
    new = stored(database)
    both = (listed(database, old), listed(database, new))
    again, early = rotate(database), rotate(database, "--finish")
    database.stack.up()
    ended = rotate(database, "--finish", "--json")

    steps = [(one["action"], one["subject"]) for one in json.loads(planned.stdout)["plan"]]
    assert steps == [("create", "key influxdb_token"), ("set", "secret influxdb_token")]
    assert (unchanged, begun.returncode, new != old) == (True, 0, True), begun.stderr
    assert both[0] == both[1]
    assert set(both[0] or ()) == {old, new}
    assert "invoke env.influx.rotate-token --env dev --finish" in begun.stdout
    assert (again.returncode, "error [rotation-unfinished]" in again.stderr) == (2, True), again.stderr
    assert (early.returncode, "error [token-in-use]" in early.stderr) == (2, True), early.stderr
    assert "/run/secrets/influxdb_token has another one" in early.stderr
    assert ended.returncode == 0, ended.stderr
    assert (listed(database, old), set(listed(database, new) or ())) == (None, {new})
    # What backups fall back on has the new one too, and they go on.
    configured = database.sh("cat /etc/influxdb2/influx-configs; stat -c %a /etc/influxdb2/influx-configs")
    assert (old in configured, f'token = "{new}"' in configured, configured.split()[-1]) == (False, True, "600")
    assert database.stack.invoke("backup.create").returncode == 0
    said = "".join(one.stdout + one.stderr for one in (planned, begun, again, early, ended))
    assert [old in said, new in said] == [False, False]


STEPS = {
    "before it is made": ("subprocess.Popen", "'auth', 'create'", ()),
    "after it was made": ("os.rename", "secrets.enc.yaml", ()),
    "before the configuration has it": ("subprocess.Popen", ".conche", ("--finish",)),
    "before the old one goes": ("subprocess.Popen", "'auth', 'delete'", ("--finish",)),
}


@pytest.mark.parametrize(
    "step",
    [name if name == "before the old one goes" else pytest.param(name, marks=pytest.mark.long) for name in STEPS],
)
def test_killed_at_any_step_the_file_has_a_valid_one_and_the_next_command_goes_on(
    database: Database, step: str
) -> None:
    event, at, words = STEPS[step]
    old = stored(database)
    if words:
        assert rotate(database).returncode == 0
        database.stack.up()
    before = stored(database)
    with standing(database.stack, "env.influx.rotate-token", "--env", "dev", *words, event=event, at=at) as one:
        one.kill()

    between = stored(database)
    valid = listed(database, between)
    again = rotate(database, *words)
    after = stored(database)

    assert (between, valid is None) == (before, False)
    assert again.returncode == 0, again.stderr
    assert set(listed(database, after) or ()) == ({after} if words else {old, after})


def test_meanwhile_nobody_else_is_at_the_environment_or_its_secrets_and_a_backup_goes_on(database: Database) -> None:
    event, at, _ = STEPS["after it was made"]
    stack, at_once = database.stack, ("--lock-wait", "0")
    with standing(stack, "env.influx.rotate-token", "--env", "dev", event=event, at=at) as one:
        others = [
            stack.invoke("env.restart", *at_once),
            stack.invoke("env.influx.rotate-token", "--env", "dev", *at_once),
            stack.invoke("secrets.set", "influxdb_token", "--generate"),
        ]
        beside = stack.invoke("backup.create", *at_once)
        code, said = one.go_on()

    assert [done.returncode for done in others] == [7, 7, 7], [done.stderr for done in others]
    assert all("env.influx.rotate-token" in done.stderr for done in others[:2])
    assert (code, beside.returncode) == (0, 0), said + beside.stderr
