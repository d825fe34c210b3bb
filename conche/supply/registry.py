"""A client of a registry's HTTP API: tags, manifests, deletion. It never transfers layers.

Source of the API: https://distribution.github.io/distribution/spec/api/
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from conche.engine.transfer import Credentials
from conche.errors import KeyUnusable, NotFound, Refused, Unreachable, did_you_mean
from conche.stack import is_here
from conche.supply.reference import Reference
from conche.tls import trusted

if TYPE_CHECKING:
    import httpx

__all__ = ["Advice", "ImageManifest", "Registry"]

KINDS = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
)
"""The kinds of manifest we understand. Unless we list them, a registry may convert one, which changes its digest."""

PAGE = 1000
"""Tags requested at a time."""

TIMEOUT = 30.0
"""Seconds for one answer."""

PAGES = 1000
"""Most pages of a list that are read: a million tags."""

LARGEST = 16 << 20
"""Bytes of an answer that are read; registries refuse manifests of more than 4 MiB."""

PAUSE = 0.1
"""Seconds between two requests to a registry that is starting."""


_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")


@dataclass(frozen=True)
class ImageManifest:
    """A manifest as the registry keeps it, byte for byte.

    Attributes:
        digest: sha256 of `content`.
        kind: media type.
    """

    digest: str
    kind: str
    content: bytes

    @cached_property
    def document(self) -> Mapping[str, Any]:
        """The parsed content; empty if it is not a JSON object."""
        try:
            parsed = json.loads(self.content)
        except (ValueError, RecursionError):
            return {}
        return parsed if isinstance(parsed, dict) else {}

    @property
    def names(self) -> frozenset[str]:
        """The image ids an engine may use: the configuration's digest, or the manifest's in the newer image store."""
        return frozenset(one for one in (self.configured, self.digest) if one)

    @property
    def configured(self) -> str:
        """Digest of the image's configuration; empty if there is none, as in an index."""
        described = self.document.get("config")
        return str(described.get("digest") or "") if isinstance(described, dict) else ""

    @property
    def listed(self) -> tuple[Mapping[str, Any], ...] | None:
        """An index's entries for its manifests; None for the manifest of one image."""
        found = self.document.get("manifests")
        if not isinstance(found, list):
            return None
        return tuple(one for one in found if isinstance(one, dict) and _DIGEST.fullmatch(str(one.get("digest"))))


class Advice(NamedTuple):
    """What is told if a registry does not answer or refuses us.

    Attributes:
        unreachable: what to type if it does not answer.
        denied: what to type if it refuses us.
        note: what may be the reason.
    """

    unreachable: str = "invoke images.login    # tries again"
    denied: str = "invoke images.login    # shows which user is tried"
    note: str = ""


ADVICE = Advice()
"""The advice for a registry of which nothing is known."""


class Registry:
    """One registry.

    Attributes:
        credentials: ours for it, for an engine that pushes or pulls.

    Args:
        host: host[:port].
        credentials: None if it needs none.
        patience: seconds for one answer.
        advice: what is told if it does not answer or refuses us.
        environments: `repository:tag` -> the environment that it is released for.
    """

    def __init__(
        self,
        host: str,
        credentials: Credentials | None = None,
        *,
        patience: float = TIMEOUT,
        advice: Advice = ADVICE,
        environments: Mapping[str, str] | None = None,
    ) -> None:
        self.host = host
        self.credentials = credentials
        self._patience = patience
        self._advice = advice
        self._environments = environments or {}
        # As engines do: https except for this machine.
        self._base = f"{'http' if is_here(host) else 'https'}://{host}/v2/"
        self._tokens: dict[str, str] = {}

    def check(self) -> None:
        """Check that the registry lets us in.

        Raises:
            KeyUnusable: it refuses the user or password.
            Unreachable: it does not answer, or is not a registry.
        """
        answer = self._ask("GET", "")
        if "html" in answer.headers.get("Content-Type", ""):
            raise self._no_registry(answer)

    def wait(self, seconds: float) -> None:
        """Wait until a registry that has just been started answers.

        Raises:
            Unreachable: it does not answer in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.check()
            except Unreachable:
                if time.monotonic() > deadline:
                    raise
                time.sleep(PAUSE)
            else:
                return

    def tags(self, repository: str) -> tuple[str, ...]:
        """Return the sorted tags of a repository; none if there is no such repository."""
        try:
            return tuple(sorted(self._listed(f"{repository}/tags/list", "tags")))
        except NotFound:
            return ()

    def manifest(self, repository: str, wanted: str) -> ImageManifest:
        """Return the manifest of a tag or digest.

        Raises:
            NotFound: with the existing tags.
        """
        try:
            return self._manifest(repository, wanted)
        except NotFound:
            raise self._no_tag(repository, wanted) from None

    def _manifest(self, repository: str, wanted: str) -> ImageManifest:
        answer = self._ask("GET", f"{repository}/manifests/{wanted}", accept=KINDS)
        content = answer.content
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        if wanted.startswith("sha256:") and digest != wanted:
            raise Unreachable(
                "registry-failed",
                f"{self.host} answered {repository}@{wanted} with different content.",
                looked_at=[f"their digest: {digest}"],
            )
        return ImageManifest(digest, answer.headers.get("Content-Type", KINDS[0]).split(";")[0], content)

    def digest(self, repository: str, wanted: str) -> str | None:
        """Return the digest of the manifest that a tag or digest names; None if there is none."""
        try:
            return self._manifest(repository, wanted).digest
        except NotFound:
            return None

    def configuration(self, repository: str, manifest: ImageManifest) -> Mapping[str, Any]:
        """Return an image's configuration: labels, user, history; empty for an index."""
        if not manifest.configured:
            return {}
        return self._json(self._ask("GET", f"{repository}/blobs/{manifest.configured}"))

    def put(self, repository: str, tag: str, manifest: ImageManifest) -> None:
        """Make a tag mean this manifest; the registry refuses if it does not have its layers already."""
        self._ask("PUT", f"{repository}/manifests/{tag}", content=manifest.content, kind=manifest.kind)

    def delete(self, repository: str, digest: str) -> None:
        """Delete a manifest and every tag that means it; its layers go with the next garbage collection."""
        with contextlib.suppress(NotFound):
            self._ask("DELETE", f"{repository}/manifests/{digest}")

    def _no_tag(self, repository: str, wanted: str) -> NotFound:
        tags = self.tags(repository)
        environment = self._environments.get(f"{repository}:{wanted}")
        release = f"invoke images.release --env {environment}    # builds and pushes it"
        return NotFound(
            "no-such-image",
            f"{self.host} has no {Reference(self.host, repository)}"
            f"{'@' if ':' in wanted else ':'}{wanted}.{did_you_mean(wanted, tags)}",
            looked_at=[f"tags: {', '.join(tags) or 'none'}"],
            next_command="\n".join(["invoke images.list", *([release] if environment else [])]),
        )

    def _listed(self, path: str, key: str) -> Iterator[str]:
        following = f"{path}?n={PAGE}"
        for _ in range(PAGES):
            answer = self._ask("GET", following)
            yield from self._json(answer).get(key) or ()
            link = re.match(r"<[^>]*?/v2/([^>]+)>", answer.headers.get("Link", ""))
            if not link:
                return
            following = link[1]
        raise Unreachable(
            "registry-failed",
            f"{self.host} has no end of its list {path} after {PAGES} pages.",
            looked_at=[self._base + following],
        )

    def _ask(
        self, method: str, path: str, *, content: bytes = b"", kind: str = "", accept: tuple[str, ...] = ()
    ) -> httpx.Response:
        headers = [("Content-Type", kind)] if kind else []
        headers += [("Accept", one) for one in accept]
        answer = self._sent(method, path, content, [*headers, *self._authorization("")])
        if answer.status_code == 401 and "bearer" in answer.headers.get("WWW-Authenticate", "").lower():
            answer = self._sent(method, path, content, [*headers, *self._authorization(self._token(answer))])
        self._raise_for(answer, f"{method} {path}")
        return answer

    @cached_property
    def _client(self) -> httpx.Client:
        import httpx

        # A proxy cannot reach this machine's own registry.
        trust_env = not is_here(self.host)
        verify = trusted(trust_env=trust_env)
        return httpx.Client(timeout=self._patience, follow_redirects=True, trust_env=trust_env, verify=verify)

    def _sent(self, method: str, path: str, content: bytes, headers: list[tuple[str, str]]) -> httpx.Response:
        import httpx

        try:
            return self._whole(method, self._base + path, content=content, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(
                "registry-unreachable",
                f"The registry {self.host} does not answer.",
                looked_at=[self._base, *([self._advice.note] if self._advice.note else [])],
                evidence=[str(error) or type(error).__name__],
                next_command=self._advice.unreachable,
            ) from error

    def _whole(self, method: str, url: str, **options: Any) -> httpx.Response:
        """Read an answer as it comes in, of limited size and in limited time."""
        import httpx

        until, content = time.monotonic() + self._patience, bytearray()
        with self._client.stream(method, url, **options) as answer:
            for block in answer.iter_bytes():
                content += block
                if len(content) > LARGEST:
                    raise httpx.ReadError(f"the answer has more than {LARGEST >> 20} MiB", request=answer.request)
                if time.monotonic() > until:
                    raise httpx.ReadTimeout("the answer goes on and on", request=answer.request)
        # Its content is unpacked and whole by now.
        packing = ("content-encoding", "content-length", "transfer-encoding")
        kept = [(name, value) for name, value in answer.headers.items() if name not in packing]
        return httpx.Response(answer.status_code, headers=kept, content=bytes(content), request=answer.request)

    def _authorization(self, token: str) -> list[tuple[str, str]]:
        if token:
            return [("Authorization", f"Bearer {token}")]
        if self.credentials is None:
            return []
        pair = f"{self.credentials.user}:{self.credentials.password.reveal()}"
        return [("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")]

    def _token(self, answer: httpx.Response) -> str:
        """Get the token that a registry with a token server requires.

        Source: https://distribution.github.io/distribution/spec/auth/token/
        """
        import httpx

        asked = dict(re.findall(r'(\w+)="([^"]*)"', answer.headers["WWW-Authenticate"]))
        realm = asked.pop("realm", "")
        self._require_tls(realm)
        key = json.dumps(asked, sort_keys=True)
        if key not in self._tokens:
            try:
                found = self._whole("GET", realm, params=asked, headers=self._authorization(""))
                said = found.json() if found.is_success else {}
            except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError):
                said = {}
            named = said if isinstance(said, dict) else {}
            self._tokens[key] = str(named.get("token") or named.get("access_token") or "")
        return self._tokens[key]

    def _require_tls(self, realm: str) -> None:
        """Refuse a token server at which the password could be read on the way.

        Which server that is, is the registry's to say: it is told the password itself, too.
        """
        parts = urlsplit(realm)
        if self.credentials is not None and parts.scheme != "https" and not is_here(parts.netloc):
            raise Refused(
                "registry-login-in-clear",
                f"{self.host} wants the password at {parts.netloc or 'no address'}, which has no TLS. It was not sent.",
                looked_at=[realm.partition("?")[0]],
                next_command=f"curl --include {self._base}    # shows its WWW-Authenticate; correct it there",
            )

    def _raise_for(self, answer: httpx.Response, asked: str) -> None:
        if answer.is_success:
            return
        words = [f"{asked}: {answer.status_code} {answer.reason_phrase}", *_said(answer)]
        if answer.status_code in (401, 403):
            who = f"user {self.credentials.user}" if self.credentials else "requests without a password"
            raise KeyUnusable(
                "registry-denied",
                f"{self.host} rejects {who}.",
                looked_at=[self._advice.note] if self._advice.note else [],
                evidence=words,
                next_command=self._advice.denied,
            )
        if answer.status_code == 404:
            raise NotFound("no-such-image", f"{self.host} has no such object.", evidence=words)
        if answer.status_code == 405:
            raise Refused(
                "registry-keeps",
                f"{self.host} does not allow {'deletion' if asked.startswith('DELETE') else 'changes'}.",
                evidence=words,
                next_command="set REGISTRY_STORAGE_DELETE_ENABLED=true on it    # and no read-only mode",
            )
        raise Unreachable("registry-failed", f"{self.host} answered with an error.", evidence=words)

    def _json(self, answer: httpx.Response) -> Mapping[str, Any]:
        """Return an answer's JSON object; something other than a registry may answer there with a web page."""
        try:
            found = answer.json()
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self._no_registry(answer)
        return found

    def _no_registry(self, answer: httpx.Response) -> Unreachable:
        return Unreachable(
            "registry-failed",
            f"{self.host} answers, but not like a registry.",
            looked_at=[str(answer.url)],
            next_command=f"curl --include {self._base}    # what is it?",
        )


def _said(answer: httpx.Response) -> list[str]:
    """Return the registry's own error messages."""
    try:
        errors = answer.json().get("errors") or []
    except (ValueError, AttributeError):
        return []
    return [f"{error.get('code', '')}: {error.get('message', '')}" for error in errors if isinstance(error, dict)]
