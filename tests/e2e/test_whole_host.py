"""docs/how-to/disaster-recovery.md, walked on an empty host: nothing is left but one backup and the recovery key.

Forgejo, InfluxDB and the application are stand-ins with the volumes of the real ones: the images of these come from
elsewhere. The registry is a real one. tests/real/recovery.py walks it on the real servers.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from conche.engine.connection import Engine
from tests import warm
from tests.documents import lines
from tests.e2e.factories import commit, copied
from tests.stacks import ROOT, SmallStack, free_port

pytestmark = [pytest.mark.engine, pytest.mark.e2e]

DOCUMENT = (ROOT / "docs/how-to/disaster-recovery.md").read_text().partition("## From off-site")[0]

BASE = "python:3.11-slim-bookworm"

STAND_INS = {
    "scripts/bootstrap && . .venv/bin/activate": "test -x scripts/bootstrap",
    "scripts/install-engine": "test -x scripts/install-engine",
    # This host was on no tailnet.
    "invoke backup.restore latest --component tailscale-git --component tailscale-prod --component tailscale-dev"
    " --force": "invoke backup.show latest",
    # No Forgejo answers behind the stand-in.
    "invoke ci.setup": "invoke ci.runner.up --dry-run",
    "git push && invoke ci.watch": "git remote get-url origin",
    "invoke backup.cron install": "invoke backup.cron install --dry-run",
}
"""What is typed in the place of a line of the document."""

WEB = """\
services:
  fastapi-app-{environment}:
    image: {registry}/{name}:{tag}
    init: true
    command: [python3, -m, http.server, "8000", --directory, /models]
    ports: ["127.0.0.1:${{CONCHE_PORT}}:8000"]
    volumes: [models:/models, data:/data]
    healthcheck:
      test: [CMD, python3, -ISc, "import socket; socket.create_connection(('127.0.0.1', 8000))"]
      interval: 3s
      start_period: 30s
volumes:
  models: {{name: {name}_models_{environment}}}
  data: {{name: {name}_influxdb_{environment}_data}}
"""


@dataclass
class Host:
    """A machine on which a document is followed.

    Attributes:
        folder: where its user is.
        renamed: what the document calls otherwise.
        walked: the lines of the document, as they were typed.
    """

    folder: Path
    state: Path
    renamed: dict[str, str]
    walked: list[str] = field(default_factory=list)

    def types(self, line: str) -> None:
        """One line of the document."""
        self.walked.append(line)
        line = STAND_INS.get(line, line)
        line = re.sub("|".join(map(re.escape, self.renamed)), lambda found: self.renamed[found[0]], line)
        if line.startswith("cd "):
            self.folder = self.folder / line.removeprefix("cd ")
            return
        argv = shlex.split(line) if line.startswith("invoke ") else ["invoke"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(self.state)}
        python = SmallStack(self.folder, "", 0).argv(*argv[1:])
        done = warm.run(
            python if line.startswith("invoke ") else ["bash", "-euo", "pipefail", "-c", line],
            cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=800,
        )  # fmt: skip
        # Nothing is rendered yet when the document has it asked.
        allowed = (0, 1) if line == "invoke secrets.check" else (0,)
        assert done.returncode in allowed, f"{line}: {done.returncode}\n{done.stdout}{done.stderr}"


@dataclass(frozen=True)
class Lost:
    """What was on the server, and what is left of it."""

    name: str
    port: int
    backup: Path
    recovery: Path
    images: list[dict[str, Any]]


@pytest.fixture
def lost(tmp_path: Path, engine: Engine, base_image: str) -> Any:
    stack, host = copied(tmp_path / "server/chocolate-factory")
    port = _with_stand_ins(stack, host)
    recovery = tmp_path / "recovery.key"
    _works(stack, "secrets.init", "--generate")
    _works(stack, "secrets.set", "registry_user", stdin="admin")
    said = _works(stack, "backup.recovery-key", str(recovery))
    stack.replace("stack.yaml", "recipients: []", f"recipients: [{re.findall('age1[a-z0-9]+', said)[0]}]")
    commit(stack)
    for words in (("env.up", "--env", "git"), ("images.release", "--env", "prod"), ("images.release", "--env", "dev")):
        _works(stack, *words)
    _works(stack, "env.up", "--env", "prod")
    _inside(stack, f"{stack.name}-prod-fastapi-app-prod-1", "echo trained > /models/prophet.pkl; echo row > /data/rows")
    bare = tmp_path / "chocolate-factory.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", stack.folder, bare], check=True)
    forgejo = f"{stack.name}_forgejo"
    _inside(stack, forgejo, "mkdir -p /var/lib/gitea/git/repositories/you")
    subprocess.run(["docker", "cp", bare, f"{forgejo}:/var/lib/gitea/git/repositories/you/"], check=True)
    _works(stack, "backup.create", "daily")
    [backup] = (tmp_path / f"server/{stack.name}-backups/daily").iterdir()
    usb = tmp_path / "usb"
    shutil.copytree(backup, usb / backup.name, symlinks=True)
    shutil.move(recovery, usb / "recovery.key")
    images = stack.json("images.list")["value"]
    stack.remove_all(engine)
    shutil.rmtree(tmp_path / "server")
    shutil.rmtree(bare)
    yield Lost(stack.name, port, usb / backup.name, usb / "recovery.key", images)
    stack.remove_all(engine)


def _with_stand_ins(stack: SmallStack, registry: str) -> int:
    """Small services in the place of those whose images come from elsewhere; the port of production."""
    port = free_port()
    for environment, tag in (("dev", "develop"), ("prod", "production")):
        described = WEB.format(environment=environment, tag=tag, name=stack.name, registry=registry)
        stack.write(f"compose/{environment}.yaml", described)
    stack.write("docker/fastapi.Dockerfile", f"FROM {BASE}\nCOPY src/fastapi-app/app/marker.py /\n")
    git = yaml.safe_load((stack.folder / "compose/git.yaml").read_text())
    git["services"]["forgejo"] = {
        "image": BASE, "container_name": f"{stack.name}_forgejo", "init": True, "command": ["sleep", "infinity"],
        "volumes": ["forgejo:/var/lib/gitea", "forgejo-config:/etc/gitea"],
    }  # fmt: skip
    stack.write("compose/git.yaml", yaml.safe_dump(git))
    described = yaml.safe_load((stack.folder / "stack.yaml").read_text())
    prod, dev = described["environments"]["prod"], described["environments"]["dev"]
    del prod["deploy"], dev["deploy"]
    prod |= {"port": port, "health": f"http://127.0.0.1:{port}/"}
    dev["health"] = f"http://127.0.0.1:{stack.port}/"
    influxdb = {"driver": "volume", "environment": "prod", "volume": f"{stack.name}_influxdb_prod_data"}
    described["backup"]["components"]["influxdb"] = influxdb
    stack.write("stack.yaml", yaml.safe_dump(described, sort_keys=False))
    return port


def _works(stack: SmallStack, *words: str, stdin: str = "") -> str:
    done = warm.run(
        stack.argv(*words), cwd=stack.folder, env=stack.environment(), input=stdin, capture_output=True, timeout=800
    )
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def _inside(stack: SmallStack, container: str, script: str) -> str:
    argv = ["docker", "exec", container, "sh", "-euc", script]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def digests(listed: list[dict[str, Any]]) -> set[tuple[str, str]]:
    """What the registry has, by tag; what only the engine has, has none."""
    return {(one["tag"], one["digest"]) for one in listed if one["digest"]}


def test_all_three_environments_come_back_from_one_backup_and_the_recovery_key(lost: Lost, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    host = Host(home, tmp_path / "state", {
        "/media/usb": str(lost.backup.parent),
        "chocolate-factory_daily_20251022_020000": lost.backup.name,
        "chocolate-factory-backups": f"{lost.name}-backups",
    })  # fmt: skip

    for line in lines(DOCUMENT):
        host.types(line)

    stack = SmallStack(home / "chocolate-factory", lost.name, 0)
    assert host.walked.count("invoke env.up --env git") == 1
    assert STAND_INS.keys() <= set(host.walked)
    with urllib.request.urlopen(f"http://127.0.0.1:{lost.port}/prophet.pkl") as answer:
        assert answer.read() == b"trained\n"
    assert _inside(stack, f"{lost.name}-prod-fastapi-app-prod-1", "cat /data/rows") == "row\n"
    kept = "cat /var/lib/gitea/git/repositories/you/chocolate-factory.git/HEAD"
    assert _inside(stack, f"{lost.name}_forgejo", kept).startswith("ref: refs/heads/")
    environment = {"XDG_STATE_HOME": str(host.state)}
    there = stack.json("images.list", **environment)["value"]
    assert digests(there) == digests(lost.images)
    assert stack.invoke("secrets.get", "registry_user", **environment).stdout == "admin"
