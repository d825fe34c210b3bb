"""Which certificate authorities are trusted: read once, because reading them takes longer than most requests."""

from __future__ import annotations

import functools
import os
import ssl

__all__ = ["trusted"]


def trusted(*, trust_env: bool = True) -> ssl.SSLContext:
    """Return what `httpx` takes as `verify`; every connection of this process shares it.

    Args:
        trust_env: whether SSL_CERT_FILE and SSL_CERT_DIR name the authorities, as in `httpx`.
    """
    named = (os.environ.get("SSL_CERT_FILE", ""), os.environ.get("SSL_CERT_DIR", "")) if trust_env else ("", "")
    return _read(trust_env, named)


@functools.lru_cache(maxsize=4)
def _read(trust_env: bool, _named: tuple[str, str]) -> ssl.SSLContext:
    import httpx

    return httpx.create_ssl_context(trust_env=trust_env)
