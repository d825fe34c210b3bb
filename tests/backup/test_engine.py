"""Volumes and commands, on the real engine: containers wait no longer than they must, and come back."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest

from conche.backup import manifest
from conche.engine import containers, volumes
from conche.engine.connection import Engine
from tests import warm
from tests.backup.checkouts import with_backup
from tests.backup.hostile import Content, entry, file, pack
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine


@pytest.fixture
def running(small: SmallStack, engine: Engine) -> SmallStack:
    """A small stack that runs, with a section `backup` and something in its volume."""
    with_backup(small)
    small.up()
    inside(
        small,
        "echo first > /kept/journal; mkdir -p /kept/deep/er /kept/.hidden; echo x > /kept/deep/er/file;"
        "chmod 640 /kept/deep/er/file; chown 1000:1000 /kept/deep/er/file; ln -s er/file /kept/deep/link;"
        "ln /kept/deep/er/file /kept/second-name; echo y > /kept/.hidden/dot; mkfifo /kept/fifo",
    )
    return small


def inside(stack: SmallStack, script: str) -> str:
    argv = ["docker", "exec", f"{stack.name}-web", "sh", "-euc", script]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def listing(stack: SmallStack) -> str:
    return inside(
        stack, "cd /kept; find . -printf '%p %y %m %U:%G %l\\n' | grep -v restore- | sort; cat journal deep/er/file"
    )


def backup(stack: SmallStack, *words: str) -> Path:
    done = stack.invoke("backup.create", "daily", "--json", *words)
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["value"]["folder"])


def test_a_volume_is_dumped_while_its_container_is_paused_and_goes_on(running: SmallStack, engine: Engine) -> None:
    before = [(c.id, c.started_at) for c in running.containers(engine)]

    folder = backup(running)

    record = json.loads((folder / "manifest.json").read_text())["components"]["kept"]
    assert record["consistency"].startswith("paused for")
    assert [(c.id, c.started_at, c.state) for c in running.containers(engine)] == [(*one, "running") for one in before]
    assert [one["name"] for one in record["left_out"]] == ["fifo"]
    listed = subprocess.run(["tar", "tzf", folder / "kept/kept.tar.gz"], capture_output=True, text=True, check=True)
    assert {"deep/er/file", "deep/link", "second-name", "journal", ".hidden/dot"} <= set(listed.stdout.split())
    dump = subprocess.run(["zcat", folder / "journal/journal.txt.gz"], capture_output=True, text=True, check=True)
    assert dump.stdout == "first\n"


def test_a_volume_and_a_command_come_back(running: SmallStack, engine: Engine) -> None:
    before = listing(running)
    folder = backup(running)
    inside(running, "echo second > /kept/journal; rm -r /kept/deep /kept/.hidden; echo z > /kept/new")

    done = running.invoke("backup.restore", folder.name, "--force")

    assert done.returncode == 0, done.stderr
    assert listing(running).replace("./fifo", "") == before.replace("./fifo p 644 0:0 \n", "")
    assert [c.state for c in running.containers(engine)] == ["running"]
    assert inside(running, "cat /kept/.pre-restore-*/journal") == "second\n"
    backup(running)
    assert ".pre-restore" not in inside(running, "ls -a /kept")


def forged(folder: Path, content: Content) -> None:
    """Put another archive in place of the volume's, and make the manifest say that it is ours."""
    known = manifest.read(folder)
    record = known.components["kept"]
    place = pack(folder / record.artifacts[0].path, content)
    one = record.artifacts[0].model_copy(
        update={
            "size": place.stat().st_size,
            "sha256": hashlib.sha256(place.read_bytes()).hexdigest(),
            "members": len(content),
            "content": sum(info.size for info, _ in content),
            "pieces": "",
        }
    )
    records = {**known.components, "kept": record.model_copy(update={"artifacts": (one,)})}
    (folder / manifest.FILE).write_bytes(known.model_copy(update={"components": records}).render())


def test_a_forged_archive_reaches_a_volume_only_as_far_as_it_is_harmless(running: SmallStack, engine: Engine) -> None:
    folder, before = backup(running), listing(running)
    attacks: dict[str, Content] = {
        "d is not a file, folder or link": [file("one"), entry("d", tarfile.BLKTYPE, devmajor=8)],
        "something below l": [entry("l", tarfile.SYMTYPE, "/etc"), file("l/cron.d", b"evil")],
        "which its manifest contradicts": [*[file(f"f{number}") for number in range(2000)], file("more")],
    }
    for said, content in attacks.items():
        forged(folder, content)
        if "contradicts" in said:
            raw = (folder / manifest.FILE).read_text().replace('"members": 2001', '"members": 2002')
            found = json.loads(raw)
            del found["digest"]
            (folder / manifest.FILE).write_bytes(manifest.Manifest.model_validate(found).render())
        done = running.invoke("backup.restore", folder.name, "--component", "kept", "--force")
        assert (done.returncode, said in done.stderr) == (4, True), done.stderr
        assert listing(running) == before
        assert ".restore-" not in inside(running, "ls -a /kept")

    forged(folder, [file("su", b"root", mode=0o6755), entry("d", tarfile.DIRTYPE, mode=0o3770), file("journal", b"j")])
    done = running.invoke("backup.restore", folder.name, "--component", "kept", "--force")

    assert done.returncode == 3, done.stderr
    assert "su; set it by hand" in done.stderr
    assert inside(running, "cd /kept; stat -c %a su d").split() == ["755", "3770"]


def test_data_with_which_the_service_does_not_work_are_taken_back(running: SmallStack, engine: Engine) -> None:
    inside(running, "echo poison > /kept/poison")
    running.replace(
        "docker/server.py",
        "behaviour = path",
        "if __import__('os').path.exists('/kept/poison'): raise SystemExit('poisoned')\nbehaviour = path",
    )
    folder = backup(running)
    inside(running, "rm /kept/poison; echo good > /kept/journal")
    built = running.invoke("env.up", "--build")
    assert built.returncode == 0, built.stderr
    before = listing(running)

    done = running.invoke("backup.restore", folder.name, "--component", "kept", "--force")

    assert done.returncode == 4, done.stderr
    assert "restore-taken-back" in done.stderr
    assert "poisoned" in done.stderr
    assert listing(running) == before
    assert [c.state for c in running.containers(engine)] == ["running"]
    assert ".restore-" not in inside(running, "ls -a /kept")


def signalled_while_paused(stack: SmallStack, engine: Engine, number: signal.Signals) -> warm.Popen[str]:
    """A backup that was sent a signal as soon as it had paused the container, with seconds of work to do; ended."""
    inside(stack, "head -c 100000000 /dev/urandom > /kept/large")
    [container] = stack.containers(engine)
    events = engine.client.api.events(decode=True, filters={"container": container.id, "event": "pause"})
    process = warm.Popen[str](
        stack.argv("backup.create"), cwd=stack.folder, env=stack.environment(), stderr=subprocess.PIPE, text=True
    )
    next(events)
    process.send_signal(number)
    process.communicate()
    events.close()
    return process


def test_a_kill_while_paused_is_healed_by_the_next_command(running: SmallStack, engine: Engine) -> None:
    signalled_while_paused(running, engine, signal.SIGKILL)
    paused = [c.state for c in running.containers(engine)]

    healed = running.invoke("backup.verify")

    assert paused == ["paused"]
    assert "left containers paused or stopped" in healed.stderr
    assert [c.state for c in running.containers(engine)] == ["running"]
    assert engine.client.api.containers(all=True, filters={"label": f"io.conche.helper-of={running.name}-kept"}) == []


def test_a_kill_while_a_program_reads_its_dump_is_taken_back_by_the_next_command(
    running: SmallStack, engine: Engine
) -> None:
    running.replace(
        "stack.yaml",
        "cat > /kept/journal.new && mv /kept/journal.new /kept/journal",
        "cat > /kept/journal; [ ! -p /kept/hold ] || { echo > /kept/reached; cat /kept/hold; }",
    )
    folder = backup(running)
    inside(running, "echo second > /kept/journal; mkfifo /kept/hold /kept/reached")
    process = warm.Popen[str](
        running.argv("backup.restore", folder.name, "--component", "journal", "--force"),
        cwd=running.folder, env=running.environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    inside(running, "cat /kept/reached")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    half = inside(running, "cat /kept/journal; echo > /kept/hold; rm /kept/hold /kept/reached")

    healed = running.invoke("backup.verify")

    assert half == "first\n"
    assert "restoring the old data of journal" in healed.stderr
    assert healed.returncode == 0, healed.stderr
    assert inside(running, "cat /kept/journal") == "second\n"
    assert running.invoke("backup.restore", folder.name, "--component", "journal", "--force").returncode == 0
    assert inside(running, "cat /kept/journal") == "first\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_paused_lets_the_container_go_on(
    running: SmallStack, engine: Engine, number: signal.Signals
) -> None:
    process = signalled_while_paused(running, engine, number)

    assert process.returncode == 128 + number
    assert [c.state for c in running.containers(engine)] == ["running"]
    target = running.folder.parent / f"{running.name}-backups"
    assert sorted(path.name for path in (target / ".store").iterdir()) == ["backup.lock"]
    assert list((target / "daily").iterdir()) == []


def test_a_stopped_container_is_left_stopped(running: SmallStack, engine: Engine) -> None:
    [container] = running.containers(engine)
    containers.stop(engine, container)

    done = running.invoke("backup.create", "--json")

    document = json.loads(done.stdout)["value"]
    record = json.loads((Path(document["folder"]) / "manifest.json").read_text())["components"]["kept"]
    assert done.returncode == 3
    reason = "web is not running in dev, and a dump or a restore needs it. Next: invoke env.up --env dev"
    assert document["missing"] == [f"journal: journal failed: {reason}"]
    assert record["consistency"] == "at rest: no container that uses it ran"
    assert [c.state for c in running.containers(engine)] == ["exited"]


def test_a_stopped_or_live_volume_is_dumped_as_asked(running: SmallStack, engine: Engine) -> None:
    running.replace("stack.yaml", "environment: dev}", "environment: dev, consistency: stop}")
    stopped = json.loads((backup(running) / "manifest.json").read_text())["components"]["kept"]
    running.replace("stack.yaml", "consistency: stop", "consistency: live")
    live = json.loads((backup(running) / "manifest.json").read_text())["components"]["kept"]

    assert stopped["consistency"].startswith("stopped for")
    assert live["consistency"] == "live: containers went on writing"
    assert [c.state for c in running.containers(engine)] == ["running"]


def test_a_volume_that_is_gone_degrades(small: SmallStack) -> None:
    with_backup(small)

    done = small.invoke("backup.create", "--json")

    assert done.returncode == 4
    assert "backup-empty" in done.stderr
    assert "is not a volume of the engine" in done.stderr


def test_an_engine_that_does_not_answer_is_said(small: SmallStack) -> None:
    with_backup(small)

    done = small.invoke("backup.create", "--json", DOCKER_HOST="unix:///nowhere.sock")

    assert done.returncode == 4
    assert "No Docker engine answers" in done.stderr


def test_plain_files_of_a_volume_keep_links_and_owner(running: SmallStack, engine: Engine) -> None:
    running.replace("stack.yaml", "environment: dev}", "environment: dev, unpacked: true}")
    inside(
        running,
        "rm -r /kept/* /kept/.hidden; mkdir /kept/latest; echo m > /kept/m.pkl; ln -s ../m.pkl /kept/latest/m;"
        "chown -R 1000:1000 /kept/latest /kept/m.pkl; echo j > /kept/journal; chown 1000 /kept/journal",
    )
    folder = backup(running)
    before = inside(running, "cd /kept; find . ! -path . -printf '%p %y %m %U %l\\n' | sort")
    inside(running, "rm -r /kept/latest /kept/m.pkl")

    done = running.invoke("backup.restore", folder.name, "--component", "kept", "--force")

    assert (folder / "kept/m.pkl").read_text() == "m\n"
    assert (folder / "kept/latest/m").readlink() == Path("../m.pkl")
    assert done.returncode == 0, done.stderr
    assert inside(running, "cd /kept; find . ! -path . -printf '%p %y %m %U %l\\n' | grep -v restore- | sort") == before


def test_a_folder_of_the_host_is_a_volume_too(small: SmallStack, engine: Engine, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "one").write_text("1")
    section = f"backup:\n  components:\n    data: {{driver: volume, volume: {data}, environment: dev}}\n"
    small.write("stack.yaml", (small.folder / "stack.yaml").read_text() + section)
    folder = backup(small)
    (data / "one").write_text("2")
    (data / "two").write_text("2")

    done = small.invoke("backup.restore", folder.name, "--force")

    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in data.iterdir() if not path.name.startswith(".pre-restore")) == ["one"]
    assert (data / "one").read_text() == "1"
    assert volumes.using(engine, str(data)) == ()
