"""An HTTP connection to a server, with its errors translated into ours. The token is sent only in a header."""

from __future__ import annotations

import contextlib
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conche.ci.forge.cleartext import require_tls
from conche.ci.forge.routes import Server, server_of
from conche.errors import KeyUnusable, NotFound, Refused, Unreachable
from conche.secret import Secret
from conche.tls import trusted

if TYPE_CHECKING:
    import httpx

__all__ = ["CORRECT", "Client", "TooManyRequests"]

PATIENCE = 20.0
"""Seconds to wait for one answer."""

REDIRECTS = 3
"""How often a download may be sent on."""

LARGEST = 32 << 20
"""Bytes of an answer that are read; no server of ours says that much at once."""


SLOWEST = 16 << 10
"""Bytes a second below which a file is not waited for."""


CORRECT = "correct ci.server in stack.yaml"
"""The advice that remains if an address does not answer."""


DIRECT = {f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")}
"""What is asked without a proxy, which could not reach this machine's own addresses."""


class TooManyRequests(Unreachable):
    """The server wants to be asked less often: again after `after` seconds."""

    after: float = 60.0


class Client:
    """Calls of `/api/v1` on one server.

    Args:
        address: http:// or https://, without a slash at its end.
        token: None calls anonymously.
        advice: returns what to type if the server does not answer.
        patience: seconds to wait for one answer, however it trickles in.
    """

    def __init__(
        self,
        address: str,
        token: Secret | None,
        advice: Callable[[], str] = lambda: CORRECT,
        *,
        patience: float = PATIENCE,
    ) -> None:
        self.address = address.rstrip("/")
        self._token = token
        self._advice = advice
        self._patience = patience
        self._http: httpx.Client | None = None

    def close(self) -> None:
        """Close the connection."""
        if self._http is not None:
            self._http.close()

    def server(self) -> Server:
        """Ask what answers there. Forgejo 1.21 gave a version like Gitea's; it is known by an endpoint of its own.

        Raises:
            Unreachable: it is another product.
        """
        try:
            answer = self.json("GET", "/version")
        except NotFound as error:
            raise self._another(error.looked_at) from error
        said = str(answer.get("version")) if isinstance(answer, dict) else ""
        if not re.match(r"v?\d+\.\d", said):
            raise self._another([f"GET /api/v1/version: {str(answer)[:200]}"])
        if "+gitea" in said:
            return server_of(said, forgejo=True)
        own = self._send("GET", "/api/forgejo/v1/version", None)
        return server_of(said, forgejo=own.status_code == 200)

    def json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Make a call and return its decoded JSON; an empty answer is {}.

        Raises:
            Unreachable: no answer, or one that is not JSON.
        """
        answer = self.call(method, path, body)
        if not answer.content:
            return {}
        try:
            return answer.json()
        except ValueError:
            raise self._no_json(answer) from None

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        """Make a call below `/api/v1`.

        Raises:
            NotFound: 404 and 405.
            KeyUnusable: 401 and 403.
            TooManyRequests: 429.
            Unreachable: no connection, an untrusted certificate, or an error of the server's own.
        """
        answer = self._send(method, f"/api/v1{path}", body)
        if not answer.is_success:
            raise self._translated(answer)
        return answer

    def upload(self, path: str, file: Path) -> None:
        """Send a file as the form's field `attachment`, below `/api/v1`; raises what `call` does."""
        with file.open("rb") as stream:
            answer = self._send("POST", f"/api/v1{path}", None, {"attachment": (file.name, stream)})
        if not answer.is_success:
            raise self._translated(answer)

    def blocks(self, path: str, size: int) -> Iterator[bytes]:
        """Yield the content at any path of the server.

        Args:
            size: how many bytes it has to have; it may take the time that they take at `SLOWEST`, and no more.

        Raises:
            Unreachable: it has another size, or as `call` does.
            NotFound, KeyUnusable, TooManyRequests: as `call` does.
        """
        import httpx

        seen, until = 0, time.monotonic() + self._patience + size / SLOWEST
        try:
            with self._download(path) as answer:
                if not answer.is_success:
                    raise self._translated(self._whole(answer))
                for block in answer.iter_bytes():
                    seen += len(block)
                    if seen > size:
                        break
                    if time.monotonic() > until:
                        raise httpx.ReadTimeout("the file comes in too slowly", request=answer.request)
                    yield block
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        if seen != size:
            raise Unreachable(
                "server-failed", f"{self.address} does not give {path} as it is: {seen} bytes instead of {size}.",
                next_command="try again",
            )  # fmt: skip

    def text(self, path: str, most: int, named: str = "") -> str:
        """Return the text at any path of the server; of one that is longer than `most` bytes, its end.

        Args:
            named: what the name under which the server hands it out has to contain.

        Raises:
            NotFound: 404 and 405, or it is handed out under another name.
            Unreachable, KeyUnusable, TooManyRequests: as `call` does; also for a page instead of a text.
        """
        import httpx

        try:
            with self._download(path) as answer:
                page = answer.headers.get("Content-Type", "").startswith("text/html")
                if page or not answer.is_success:
                    whole = self._whole(answer)
                    raise self._no_json(whole, "text") if whole.is_success else self._translated(whole)
                if named not in answer.headers.get("Content-Disposition", ""):
                    raise NotFound("server-has-no-such-thing", f"{self.address} has no {named} at {path}.")
                kept = bytearray()
                for block in answer.iter_bytes():
                    kept += block
                    if len(kept) > 2 * most:
                        del kept[:-most]
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        return bytes(kept[-most:]).decode(errors="replace")

    @contextlib.contextmanager
    def _download(self, path: str) -> Iterator[httpx.Response]:
        """Open what is at a path of the server, or in the object storage to which the server redirects for it.

        The storage is told neither the token nor anything else: its address is signed for this one download.

        Raises:
            Refused: it is redirected from TLS to an address without.
            Unreachable: the storage does not have it.
        """
        import httpx

        with contextlib.ExitStack() as opened:
            answer = opened.enter_context(self._connection().stream("GET", path))
            for _ in range(REDIRECTS):
                if not answer.is_redirect:
                    break
                place = answer.url.join(answer.headers.get("Location", ""))
                if place.scheme not in ("https", answer.url.scheme):
                    raise self._moved(answer)
                storage = opened.enter_context(httpx.Client(timeout=self._patience, mounts=DIRECT, verify=trusted()))
                answer = opened.enter_context(storage.stream("GET", place))
                if not answer.is_success and not answer.is_redirect:
                    raise self._not_stored(answer)
            yield answer

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, files: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        import httpx

        try:
            with self._connection().stream(method, path, json=body, files=files) as answer:
                return self._whole(answer)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error

    def _whole(self, answer: httpx.Response) -> httpx.Response:
        """Read an answer as it comes in, of limited size and in limited time."""
        import httpx

        until, content = time.monotonic() + self._patience, bytearray()
        for block in answer.iter_bytes():
            content += block
            if len(content) > LARGEST:
                raise self._too_much(answer)
            if time.monotonic() > until:
                raise httpx.ReadTimeout("the answer goes on and on", request=answer.request)
        # Its content is unpacked and whole by now.
        packing = ("content-encoding", "content-length", "transfer-encoding")
        headers = [(name, value) for name, value in answer.headers.items() if name not in packing]
        return httpx.Response(answer.status_code, headers=headers, content=bytes(content), request=answer.request)

    def _connection(self) -> httpx.Client:
        import httpx

        if self._http is None:
            headers = {"Accept": "application/json, text/plain"}
            if self._token is not None:
                require_tls(self.address)
                headers["Authorization"] = f"token {self._token.reveal()}"
            self._http = httpx.Client(
                base_url=self.address, headers=headers, timeout=self._patience, mounts=DIRECT, verify=trusted()
            )
        return self._http

    def _unreachable(self, error: Exception) -> Unreachable:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ssl.SSLError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None or "CERTIFICATE_VERIFY_FAILED" in str(error):
            return Unreachable(
                "server-certificate-refused",
                f"The certificate of {self.address} is not trusted here, or it does not speak TLS.",
                looked_at=[self.address],
                evidence=[str(error)],
                next_command="export SSL_CERT_FILE=/path/to/your-ca.pem    # or correct ci.server in stack.yaml",
            )
        import httpx

        late = f" within {self._patience:g} s" if isinstance(error, httpx.TimeoutException) else ""
        return Unreachable(
            "server-unreachable",
            f"The server {self.address} does not answer{late}.",
            looked_at=[self.address],
            evidence=[str(error) or type(error).__name__],
            next_command=self._advice(),
        )

    def _translated(self, answer: httpx.Response) -> Exception:
        asked, words = f"{answer.request.method} {answer.request.url.path}", _words(answer)
        seen = [f"{asked}: {answer.status_code} {answer.reason_phrase}"]
        if answer.status_code == 401:
            return KeyUnusable(
                "server-token-refused",
                f"{self.address} rejects this token." if self._token else f"{self.address} requires a token.",
                looked_at=seen,
                evidence=words,
                next_command=self.new_token(),
            )
        if answer.status_code == 403:
            return self._forbidden(answer, seen, words)
        if answer.status_code in (404, 405):
            text = f"{self.address} has no {asked}."
            return NotFound("server-has-no-such-thing", text, looked_at=seen, evidence=words)
        if answer.status_code == 429:
            return self._too_many(answer, seen)
        if answer.is_redirect:
            return self._moved(answer)
        return Unreachable("server-failed", f"{self.address} answered with an error.", looked_at=seen, evidence=words)

    def _moved(self, answer: httpx.Response) -> Refused:
        # What is after `?` may be a signature by which anybody could fetch it.
        place = answer.headers.get("Location", "another address").partition("?")[0]
        return Refused(
            "server-moved",
            f"{self.address} redirects to {place}.",
            looked_at=[f"{answer.request.method} {answer.request.url.path}: {answer.status_code}"],
            next_command="set ci.server in stack.yaml to that server",
        )

    def _not_stored(self, answer: httpx.Response) -> Unreachable:
        return Unreachable(
            "server-failed",
            f"{self.address} redirects to {answer.url.host} for a file, which answered with an error.",
            looked_at=[f"GET {answer.url.path}: {answer.status_code} {answer.reason_phrase}"],
            next_command="try again",
        )

    def _forbidden(self, answer: httpx.Response, seen: list[str], words: list[str]) -> KeyUnusable:
        scopes = re.findall(r"(?:read|write):[a-z]+", " ".join(words))
        lacks = f"the scope {' or '.join(dict.fromkeys(scopes))}" if scopes else _right(answer)
        return KeyUnusable(
            "server-token-lacks-right",
            f"The token is not allowed to do that on {self.address}: it lacks {lacks}.",
            looked_at=seen,
            evidence=words,
            next_command=self.new_token(),
        )

    def _too_many(self, answer: httpx.Response, seen: list[str]) -> TooManyRequests:
        after = answer.headers.get("Retry-After", "")
        error = TooManyRequests(
            "server-wants-a-pause",
            f"Too many requests to {self.address}; it asks to wait {after or '60'} s.",
            looked_at=seen,
            next_command="wait, and try again",
        )
        error.after = float(after) if after.isdigit() else 60.0
        return error

    def _no_json(self, answer: httpx.Response, wanted: str = "JSON") -> Unreachable:
        title = re.search(r"<title[^>]*>(.*?)</title>", answer.text, re.IGNORECASE | re.DOTALL)
        kind = answer.headers.get("Content-Type", "nothing named").partition(";")[0]
        return Unreachable(
            "server-answers-no-json",
            f"{self.address} answered with {kind} instead of {wanted}: a proxy is in between, or it is another server.",
            looked_at=[f"{answer.request.method} {answer.request.url.path}"],
            evidence=[" ".join((title[1] if title else answer.text[:200]).split())],
            next_command=CORRECT,
        )

    def _too_much(self, answer: httpx.Response) -> Unreachable:
        return Unreachable(
            "server-answers-no-json",
            f"{self.address} answered with more than {LARGEST >> 20} MiB: it is another server.",
            looked_at=[f"{answer.request.method} {answer.request.url.path}"],
            next_command=CORRECT,
        )

    def _another(self, seen: Sequence[str]) -> Unreachable:
        return Unreachable(
            "server-is-another",
            f"{self.address} is neither a Gitea nor a Forgejo: it does not tell a version of theirs.",
            looked_at=seen,
            next_command=CORRECT,
        )

    def new_token(self) -> str:
        """Say how to make a token."""
        return (
            f"open {self.address}/user/settings/applications, make a token with the scope write:repository, then\n"
            "export FORGEJO_TOKEN=…    # or: read -rs FORGEJO_TOKEN && export FORGEJO_TOKEN"
        )


def _right(answer: httpx.Response) -> str:
    if "/secrets" in answer.request.url.path or "/runners" in answer.request.url.path:
        return "the rights of an owner or administrator of the repository"
    return "write access to the repository" if answer.request.method != "GET" else "read access"


def _words(answer: httpx.Response) -> list[str]:
    """Return the server's own error message, if it gave one."""
    try:
        said = answer.json()
    except ValueError:
        return []
    return [str(said["message"])] if isinstance(said, dict) and said.get("message") else []
