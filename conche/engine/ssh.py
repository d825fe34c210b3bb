"""Extends the Docker SDK's ssh transport with connections that close cleanly after the other end has gone."""

from __future__ import annotations

import contextlib
from typing import Any

from docker.transport.sshconn import SSHConnection, SSHConnectionPool, SSHHTTPAdapter, SSHSocket

__all__ = ["Adapter"]


class _Socket(SSHSocket):
    """The standard streams of an ssh process.

    On close, the SDK writes a goodbye to the other end, which raises BrokenPipeError if that has already hung up, as it
    does at the end of each exec and attach: which of them is first is a race.
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
    """Carries requests to an engine through the ssh program, which supports ~/.ssh/config, agents and jump hosts."""

    def get_connection(self, url: str | bytes, proxies: object = None) -> _Pool:  # noqa: ARG002 - the SDK's own
        """Return a pool for one request: each request gets an ssh process of its own, as in the SDK."""
        return _Pool(timeout=self.timeout, maxsize=self.max_pool_size, host=self.ssh_host)
