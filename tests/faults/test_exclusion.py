"""Commands that would harm each other exclude each other: one stands in the middle, and another one is tried."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from conche.engine import lock
from conche.engine.connection import Engine
from conche.locking import KEPT, LEFT, NOTHING, TAKEN, Lock
from conche.vault import keys
from tests import warm
from tests.backup.checkouts import with_backup
from tests.stacks import SmallStack, free_port
from tests.standing import Standing, standing

SECRETS = "secrets: {declared: {alpha: {required: false, generate: hex20}}}\n"

HOLDERS = {
    "env.restart": (["env.restart"], "http.client.send", "/restart"),
    "env.up": (["env.up"], "subprocess.Popen", "--detach"),
    "images.prune": (["images.prune", "--yes"], "socket.connect", ", 5000"),
    "backup.create": (["backup.create"], "http.client.send", "--create"),
    "backup.restore": (["backup.restore", "latest", "--component", "kept", "--force"], "http.client.send", "/stop"),
    "backup.verify": (["backup.verify"], "open", "kept.tar.gz"),
    "secrets.set": (["secrets.set", "alpha", "--generate"], "os.rename", "secrets.enc.yaml"),
}
"""One of each kind, and some more: what is called, and where it stands while it holds its locks."""

CALLED = {"secrets.set": "set alpha"}
"""What the holder is called where the lock says what is done, and not by which command."""

KINDS = ("env.restart", "images.prune", "backup.create", "backup.restore", "backup.verify", "env.networks")
"""One of each kind, to be tried beside each of those."""

_, OTHER = keys.generate()

COMMANDS = {
    "backup.adopt": ["backup.adopt", "--all"],
    "backup.authenticate": ["backup.authenticate", "--rotate"],
    "backup.create": ["backup.create"],
    "backup.drill": ["backup.drill"],
    "backup.prune": ["backup.prune"],
    "backup.restore": ["backup.restore", "latest", "--force"],
    "backup.settle": ["backup.settle"],
    "backup.verify": ["backup.verify"],
    "env.deploy": ["env.deploy", "--local", "--allow-dirty"],
    "env.down": ["env.down"],
    "env.influx.prune": ["env.influx.prune", "90d", "--env", "dev"],
    "env.networks": ["env.networks", "--create"],
    "env.recover": ["env.recover"],
    "env.restart": ["env.restart"],
    "env.rollback": ["env.rollback"],
    "env.scale": ["env.scale", "web", "--replicas", "2"],
    "env.up": ["env.up", "--build"],
    "env.update": ["env.update", "web", "--build"],
    "images.prune": ["images.prune", "--yes"],
    "secrets.recipients.add": ["secrets.recipients.add", keys.generate()[1]],
    "secrets.recipients.remove": ["secrets.recipients.remove", OTHER],
    "secrets.rotate": ["secrets.rotate"],
    "secrets.rotate-value": ["secrets.rotate-value", "alpha"],
    "secrets.set": ["secrets.set", "alpha", "--generate"],
    "secrets.unset": ["secrets.unset", "alpha", "--yes"],
}
"""What takes its locks in a stack of one service."""

ASK_FOR_MORE = {
    "backup.sync": "a repository",
    "backup.undo": "a restore",
    "ci.runner.up": "a server",
    "env.influx.rotate-token": "a database",
    "env.influx.token": "a database",
    "env.maintenance": "an edge",
    "secrets.edit": "an editor",
    "secrets.encrypt": "a file",
    "secrets.init": "a checkout without secrets",
}
"""What looks for something else before it takes its locks."""


def test_every_command_that_locks_is_tried_or_asks_for_more() -> None:
    assert {name for name, takes in TAKEN.items() if takes.locks} == (
        {name for name in COMMANDS if TAKEN[name].locks} | ASK_FOR_MORE.keys()
    )
    assert not COMMANDS.keys() & ASK_FOR_MORE.keys()
    # What rotates a database's token needs one: tests/env/test_rotate_token.py holds it.
    assert {TAKEN[name] for name in HOLDERS} == {*TAKEN.values()} - {KEPT, NOTHING}
    assert {TAKEN[name] for name in {*HOLDERS, *KINDS}} == {*TAKEN.values()} - {KEPT}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, engine: Engine, base_image: str) -> Iterator[SmallStack]:
    """A stack that runs, with a backup and secrets; what each test changes in it is the journal and the containers."""
    made = SmallStack.create(tmp_path_factory.mktemp("exclusion") / "checkout", free_port())
    with_backup(made)
    # Only for a copy of a service does a drill take the environment.
    kept = f"volume: {made.name}-kept, environment: dev"
    made.replace("stack.yaml", kept, f"{kept}, drill: true")
    made.write("stack.yaml", SECRETS + (made.folder / "stack.yaml").read_text())
    for words in (
        ["secrets.init"],
        ["secrets.recipients.add", OTHER],
        ["secrets.set", "alpha", "--generate"],
        ["env.up"],
    ):
        done = made.invoke(*words)
        assert done.returncode == 0, done.stderr
    journal(made, "first")
    done = made.invoke("backup.create")
    assert done.returncode == 0, done.stderr
    yield made
    made.remove_all(engine)


@pytest.fixture
def elsewhere(tmp_path: Path) -> dict[str, str]:
    """Variables with which a command is another user's, for whom only the engine and the target are the same."""
    return {"XDG_STATE_HOME": str(tmp_path / "other state")}


def journal(stack: SmallStack, content: str | None = None) -> str:
    """What is in the volume, after writing it."""
    write = "" if content is None else f"echo {content} > /kept/journal; "
    argv = ["docker", "exec", f"{stack.name}-web", "sh", "-c", f"{write}cat /kept/journal"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def states(stack: SmallStack, engine: Engine) -> list[str]:
    return [one.state for one in stack.containers(engine)]


def backed_up(stack: SmallStack) -> str:
    """What the newest backup has of the journal."""
    newest = max((stack.folder.parent / f"{stack.name}-backups/daily").iterdir(), key=lambda one: one.name)
    argv = ["zcat", str(newest / "journal/journal.txt.gz")]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def held_by(stack: SmallStack, name: str, **extra: str) -> AbstractContextManager[Standing]:
    """A command that stands while it holds what it takes."""
    words, event, at = HOLDERS[name]
    return standing(stack, *words, event=event, at=at, **extra)


def excludes(one: str, other: str) -> bool:
    """Whether two commands at the same environment share a lock; no restore here has secrets, and nothing is left."""
    shared = {*TAKEN[one].locks} & {*TAKEN[other].locks}
    left = {name for name, takes in TAKEN.items() if takes == LEFT}
    backups = {name for name, takes in TAKEN.items() if Lock.TARGET in takes.locks}
    shared -= {Lock.ENVIRONMENT} if left & {one, other} else set()
    return bool(shared - ({Lock.SECRETS} if backups & {one, other} else set()))


def each_tried(stack: SmallStack, names: set[str], **extra: str) -> dict[str, subprocess.CompletedProcess[str]]:
    """Commands, one after another; but those that take one lock only, and wait seconds for that, at once."""
    at_once = sorted(name for name in names if TAKEN[name].locks == (Lock.SECRETS,))
    with ThreadPoolExecutor(max(1, len(at_once))) as pool:
        ended = dict(zip(at_once, pool.map(lambda name: tried(stack, name, **extra), at_once), strict=True))
    return ended | {name: tried(stack, name, **extra) for name in sorted(names - {*at_once})}


def tried(stack: SmallStack, name: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """A command that does not wait."""
    patience = ["--lock-wait", "0"] if Lock.ENVIRONMENT in TAKEN[name].locks else []
    return stack.invoke(*COMMANDS[name], *patience, **extra)


@pytest.mark.engine
@pytest.mark.parametrize("holder", HOLDERS)
def test_commands_of_each_kind_exclude_each_other_as_the_table_says(
    stack: SmallStack, engine: Engine, elsewhere: dict[str, str], holder: str, request: pytest.FixtureRequest
) -> None:
    others = {*KINDS}
    if request.config.getoption("--every-pair"):
        others |= {name for name in COMMANDS if excludes(holder, name)}
    before = journal(stack, f"before-{holder}")
    wrong = []
    with held_by(stack, holder, SETTING=holder) as standing:
        for name, done in each_tried(stack, others, SETTING="other", **elsewhere).items():
            refused = done.returncode == 7 and CALLED.get(holder, f"invoke {holder}") in done.stderr
            if refused != excludes(holder, name) or (done.returncode == 7) != refused:
                wrong.append((name, done.returncode, done.stderr))
        code, said = standing.go_on()

    assert wrong == []
    # No registry answers, which is seen only under the locks.
    assert code == (9 if holder == "images.prune" else 0), said
    assert states(stack, engine) == ["running"]
    restored = holder == "backup.restore" or not excludes(holder, "backup.restore")
    assert journal(stack) == (backed_up(stack) if restored else before)


@pytest.mark.engine
@pytest.mark.parametrize(
    "holder",
    [
        "env.up",
        "backup.restore",
        *(pytest.param(holder, marks=pytest.mark.long) for holder in ("backup.create", "backup.verify")),
    ],
)
def test_a_command_that_is_killed_holds_nothing_any_more(
    stack: SmallStack, engine: Engine, elsewhere: dict[str, str], holder: str
) -> None:
    before = journal(stack, f"killed-{holder}")
    with held_by(stack, holder, SETTING=f"{holder}, killed") as standing:
        standing.kill()

    settled = tried(stack, "backup.create", **elsewhere)
    restarted = tried(stack, "env.restart")

    assert settled.returncode == 0, settled.stderr
    assert restarted.returncode == 0, restarted.stderr
    assert states(stack, engine) == ["running"]
    assert journal(stack) == before == backed_up(stack)


@pytest.mark.engine
def test_a_restore_waits_for_what_is_at_work_and_says_once_for_whom(
    stack: SmallStack, elsewhere: dict[str, str]
) -> None:
    words = ["backup.restore", "latest", "--component", "kept", "--force", "--lock-wait", "600"]
    journal(stack, "now")
    with held_by(stack, "env.restart") as standing:
        waiting = warm.Popen[str](
            stack.argv(*words), cwd=stack.folder, env=stack.environment(**elsewhere), stderr=subprocess.PIPE, text=True
        )
        assert waiting.stderr is not None
        first = next(line for line in waiting.stderr if "waiting for" in line)
        code, said = standing.go_on()
        rest = waiting.communicate()[1]

    assert "invoke env.restart --env dev" in first
    assert code == 0, said
    assert waiting.returncode == 0, rest
    assert "waiting for" not in rest
    assert journal(stack) == backed_up(stack) != "now"


@pytest.mark.engine
def test_a_backup_waits_for_a_deployment_as_long_as_stack_yaml_says(
    stack: SmallStack, elsewhere: dict[str, str]
) -> None:
    with held_by(stack, "env.restart") as standing:
        waiting = warm.Popen[str](
            stack.argv("backup.create"), cwd=stack.folder, env=stack.environment(**elsewhere),
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert waiting.stderr is not None
        first = next(line for line in waiting.stderr if "waiting for" in line)
        stack.replace("stack.yaml", "backup:\n", "backup:\n  lock_wait: 0\n")
        refused = stack.invoke("backup.create")
        stack.replace("stack.yaml", "  lock_wait: 0\n", "")
        code, said = standing.go_on()
        rest = waiting.communicate()[1]

    assert "invoke env.restart --env dev" in first
    assert (refused.returncode, "already-running" in refused.stderr) == (7, True), refused.stderr
    assert "--lock-wait 600" in refused.stderr
    assert code == 0, said
    assert waiting.returncode == 0, rest


@pytest.mark.engine
def test_a_deployment_waits_for_a_backup(stack: SmallStack, engine: Engine, elsewhere: dict[str, str]) -> None:
    words = ["env.deploy", "--local", "--allow-dirty", "--lock-wait", "900"]
    with held_by(stack, "backup.create") as standing:
        waiting = warm.Popen[str](
            stack.argv(*words), cwd=stack.folder, env=stack.environment(**elsewhere), stderr=subprocess.PIPE, text=True
        )
        assert waiting.stderr is not None
        first = next(line for line in waiting.stderr if "waiting for" in line)
        paused = states(stack, engine)
        code, said = standing.go_on()
        rest = waiting.communicate()[1]

    assert "invoke backup.create daily" in first
    assert paused == ["paused"]
    assert code == 0, said
    assert waiting.returncode == 0, rest
    assert states(stack, engine) == ["running"]


@pytest.mark.engine
def test_what_is_read_while_it_goes_on_waits_for_nobody(stack: SmallStack) -> None:
    stack.replace("stack.yaml", "environment: dev, drill: true}", "environment: dev, consistency: live}")
    with held_by(stack, "env.restart") as standing:
        done = stack.invoke("backup.create", "--json")
        code, said = standing.go_on()
    stack.replace("stack.yaml", ", consistency: live", "")

    record = json.loads((Path(json.loads(done.stdout)["value"]["folder"]) / "manifest.json").read_text())
    assert record["components"]["kept"]["consistency"] == "live: containers went on writing"
    assert done.returncode == 0, done.stderr
    assert code == 0, said


@pytest.mark.engine
def test_an_environment_is_free_again_once_it_need_not_stand_still(stack: SmallStack, engine: Engine) -> None:
    with standing(stack, "backup.create", event="http.client.send", at="/kept/journal") as beside:
        holder = lock.holder(engine, stack.project)
        done = tried(stack, "env.restart")
        beside.go_on()

    assert holder is None
    assert done.returncode == 0, done.stderr
