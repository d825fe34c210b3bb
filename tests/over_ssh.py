"""Stand in for another machine reached by ssh: a real sshd in front of this machine's engine."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.stacks import free_port

PROGRAMS = f"{os.environ.get('PATH', '')}:/usr/sbin"
"""Where to look for sshd: Debian's openssh-server installs it in a folder that not every PATH has."""


@dataclass(frozen=True)
class Machine:
    """A machine with an engine.

    Attributes:
        address: of the engine, as written after `engine:` in stack.yaml.
        path: PATH with an ssh that knows the machine's key and has one of its own.
        log: what its sshd writes.
    """

    address: str
    path: str
    log: Path

    def logins(self) -> int:
        """How many times somebody has logged in."""
        return self.log.read_text().count("Accepted publickey")


@contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """Run such a machine for this block."""
    sshd = shutil.which("sshd", path=PROGRAMS)
    assert sshd is not None, "sshd is missing: apt-get install openssh-server"
    port, user = free_port(), getpass.getuser()
    for name in ("host", "user"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(argv, check=True)
    _configure(folder, port, user)
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    argv = [sshd, "-D", "-E", str(folder / "log"), "-f", str(folder / "sshd_config")]
    with subprocess.Popen(argv) as process:
        try:
            while "listening on" not in _log(folder):
                assert process.poll() is None, _log(folder)
            yield Machine(f"ssh://{user}@127.0.0.1:{port}", f"{folder / 'bin'}:{os.environ['PATH']}", folder / "log")
        finally:
            process.terminate()


def _log(folder: Path) -> str:
    file = folder / "log"
    return file.read_text() if file.exists() else ""


def _configure(folder: Path, port: int, user: str) -> None:
    """Write both ends' settings, without reading or writing those of whoever runs the tests."""
    key = (folder / "user.pub").read_text()
    (folder / "authorized").write_text(key)
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nAuthorizedKeysFile {folder / 'authorized'}\n"
        f"AllowUsers {user}\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nStrictModes no\n"
        f"UsePAM no\nPidFile none\nMaxStartups 100\nLogLevel VERBOSE\n"
    )
    (folder / "ssh_config").write_text(
        f"Host *\n  IdentityFile {folder / 'user'}\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder / 'known'}\n"
        f"  BatchMode yes\n"
    )
    ssh = folder / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder / "ssh_config"} "$@"\n')
    ssh.chmod(0o755)
