"""Extends the Docker SDK's ssh transport with connections that serve several requests and close cleanly.

Logging in takes most of the time of a request, and the SDK logs in for each one.
"""

from __future__ import annotations

import contextlib
import select
from typing import IO, Any

from docker.transport.sshconn import SSHConnection, SSHConnectionPool, SSHHTTPAdapter, SSHSocket

__all__ = ["Adapter"]


class _Answer:
    """What an ssh process says, for one response: its end closes a response, but not the process's output.

    It has no buffer of its own. What an exec says after its response is read from `channel`, and must all be there.
    """

    def __init__(self, output: Any, channel: _Socket) -> None:
        self._output, self.channel = output, channel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._output, name)

    def close(self) -> None:
        """Leave the output open for the next response."""


def _readable(stream: Any) -> bool:
    """Return whether a stream has something to read, or has ended."""
    poll = select.poll()
    poll.register(stream, select.POLLIN)
    return bool(poll.poll(0))


class _Socket(SSHSocket):
    """The standard streams of an ssh process.

    On close, the SDK writes a goodbye to the other end, which raises BrokenPipeError if that has already hung up, as it
    does at the end of each exec and attach: which of them is first is a race.
    """

    proc: Any
    raw = False
    """Whether it was used for more than requests and responses, as an exec does."""

    def makefile(self, *_: Any, **__: Any) -> Any:
        return _Answer(self.proc.stdout, self)

    def recv(self, *given: Any) -> Any:
        self.raw = True
        receive: Any = super().recv
        return receive(*given)

    def taken_over(self) -> IO[bytes]:
        """Return the output, for more than responses."""
        self.raw = True
        output: IO[bytes] = self.proc.stdout
        return output

    def ended_well(self) -> bool:
        """Return whether the other end hung up and no connection broke, when the output has been read to its end."""
        return bool(self.proc.wait() == 0)

    def idles(self) -> bool:
        """Return whether it can carry another request: the other end is there and has nothing to say."""
        return not self.raw and self.proc.poll() is None and not _readable(self.proc.stdout)

    def close(self) -> None:
        if self.proc is not None:
            with contextlib.suppress(OSError):
                self.proc.stdin.close()
            self.proc.terminate()
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

    def _get_conn(self, timeout: Any = None) -> Any:
        """Return a connection that can carry a request; the SDK does not look whether one of the pool still can."""
        found: Any = super()._get_conn(timeout)
        while found.sock is not None and not found.sock.idles():
            found.close()
            found = super()._get_conn(timeout)
        return found


class Adapter(SSHHTTPAdapter):
    """Carries requests to an engine through the ssh program, which supports ~/.ssh/config, agents and jump hosts."""

    def __init__(self, address: str, timeout: int) -> None:
        super().__init__(address, timeout, shell_out=True)
        self._pool = _Pool(timeout=self.timeout, maxsize=self.max_pool_size, host=self.ssh_host)

    def get_connection(self, url: str | bytes, proxies: object = None) -> _Pool:  # noqa: ARG002 - the SDK's own
        """Return the one pool: a request takes a connection that is free, and logs in only if there is none."""
        return self._pool

    def close(self) -> None:
        super().close()
        self._pool.close()
