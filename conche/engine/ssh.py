"""The Docker SDK's way to an engine over ssh, with connections that can be closed after their other end has gone."""

from __future__ import annotations

import contextlib
from typing import Any

from docker.transport.sshconn import SSHConnection, SSHConnectionPool, SSHHTTPAdapter, SSHSocket

__all__ = ["Adapter"]


class _Socket(SSHSocket):
    """The standard streams of an ssh process.

    The SDK says goodbye to the other end when it closes, and ends with BrokenPipeError where that has hung up first, as
    it does at the end of each exec and attach: how fast it does so is chance.
    """

    def close(self) -> None:
        process: Any = self.proc
        if process is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.terminate()
        super(SSHSocket, self).close()


class _Connection(SSHConnection):
    def connect(self) -> None:
        host: Any = self.ssh_host
        self.sock: Any = _Socket(host)
        self.sock.settimeout(self.timeout)
        self.sock.connect()


class _Pool(SSHConnectionPool):
    def _new_conn(self) -> Any:
        timeout: Any = self.timeout
        return _Connection(None, timeout, self.ssh_host)


class Adapter(SSHHTTPAdapter):
    """Carries requests to an engine by the ssh program, which knows ~/.ssh/config, agents and jump hosts."""

    def get_connection(self, url: str | bytes, proxies: object = None) -> _Pool:  # noqa: ARG002 - the SDK's own
        """A pool for one request: each has an ssh of its own, as the SDK does it."""
        return _Pool(timeout=self.timeout, maxsize=self.max_pool_size, host=self.ssh_host)
