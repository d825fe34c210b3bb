"""An InfluxDB for tests: the stand-in, or the image that CONCHE_TEST_INFLUXDB_IMAGE names."""

from __future__ import annotations

import os
import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

from conche.backup.influx import Influx
from conche.engine import containers, health, images
from conche.engine.connection import Engine
from conche.engine.images import Build
from conche.testing import influxdb
from tests.stacks import SmallStack

REAL = os.environ.get("CONCHE_TEST_INFLUXDB_IMAGE", "")

COMPOSE = """\
services:
  influxdb:
    image: {image}
    stop_grace_period: 2s
    environment:
      DOCKER_INFLUXDB_INIT_MODE: setup
      DOCKER_INFLUXDB_INIT_USERNAME: admin
      DOCKER_INFLUXDB_INIT_PASSWORD: a-long-password
      DOCKER_INFLUXDB_INIT_ADMIN_TOKEN_FILE: /run/secrets/influxdb_token
      DOCKER_INFLUXDB_INIT_ORG: factory
      DOCKER_INFLUXDB_INIT_BUCKET: energy
    secrets: [influxdb_token]
    volumes: ["data:/var/lib/influxdb2", "config:/etc/influxdb2"]
    healthcheck:
      {{test: ["CMD", "influx", "ping"], interval: 1s, timeout: 5s, retries: 30, start_period: 30s}}
volumes:
  data: {{name: {name}-data}}
  config: {{name: {name}-config}}
secrets:
  influxdb_token: {{file: ../token.txt}}
"""

BACKUP = """\
backup:
  components:
    influxdb: {driver: influxdb, environment: dev, service: influxdb, buckets: [energy]}
"""


STANDS_STILL = """\
#!/bin/bash
case "$1 $2" in
  "bucket delete") what=bucket-delete ;;
  *) what=$1 ;;
esac
if mv "/tmp/influx-$what" "/tmp/influx-$what-waits" 2>/dev/null; then
  while [ -e "/tmp/influx-$what-waits" ]; do sleep 0.1; done
fi
exec /usr/local/bin/influx "$@"
"""
"""What the stand-in does in the middle of its work, a real one's program does before it."""


@dataclass(frozen=True)
class Database:
    """A stack whose one service is an InfluxDB with the bucket `energy` of the organisation `factory`."""

    stack: SmallStack
    engine: Engine
    token: str

    @classmethod
    def create(cls, stack: SmallStack, engine: Engine, real: str = REAL) -> Database:
        image = real or f"localhost:5000/{stack.name}:influxdb"
        if not real:
            images.build(engine, Build(image, influxdb.DOCKERFILE, influxdb.CONTEXT))
        token = secrets.token_hex(16)
        stack.write("token.txt", token)
        (stack.folder / "token.txt").chmod(0o644)
        stack.write("compose/dev.yaml", COMPOSE.format(image=image, name=stack.name))
        stack.write("stack.yaml", (stack.folder / "stack.yaml").read_text() + BACKUP)
        stack.up()
        return cls(stack, engine, token)

    @property
    def influx(self) -> Influx:
        [container] = self.stack.containers(self.engine)
        return Influx(self.engine, container, "/run/secrets/influxdb_token")

    def write(self, lines: str, bucket: str = "energy") -> None:
        """Line protocol with whole seconds."""
        script = 'INFLUX_TOKEN=$(cat /run/secrets/influxdb_token) exec influx write --org factory --precision s -b "$1"'
        argv = ["docker", "exec", "-i", self.influx.container.id, "sh", "-c", script, "sh", bucket]
        subprocess.run(argv, input=lines.encode(), check=True, capture_output=True)

    def influx_says(self, words: str) -> str:
        """What the database's own program answers, with the operator token."""
        return self.sh(f"INFLUX_TOKEN=$(cat /run/secrets/influxdb_token) exec influx {words}")

    def sh(self, script: str) -> str:
        argv = ["docker", "exec", self.influx.container.id, "sh", "-euc", script]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def let_stand_still(self) -> None:
        """Have the program wait where a test asks it to (conche/testing/influxdb/influx)."""
        if REAL:
            argv = ["docker", "exec", "-i", self.influx.container.id, "sh", "-euc"]
            script = "cat > /usr/local/sbin/influx; chmod 755 /usr/local/sbin/influx; rm -rf /tmp/*"
            subprocess.run([*argv, script], input=STANDS_STILL.encode(), check=True)

    def wait(self) -> None:
        """Until it answers."""
        [container] = self.stack.containers(self.engine)
        service = containers.definition(self.engine, container)
        waiting = health.wait(
            self.engine, lambda: self.stack.containers(self.engine), {container.service: service}, timeout=300
        )
        assert not waiting.failed

    def backup(self) -> Path:
        done = self.stack.invoke("backup.create", "--json")
        assert done.returncode == 0, done.stderr
        return next((self.stack.folder.parent / f"{self.stack.name}-backups/daily").iterdir())
