"""invoke env.health"""

from __future__ import annotations

import time
from urllib.parse import urlsplit

from conche.command import Invocation
from conche.errors import CheckFailed, Refused
from conche.outcome import Outcome, Table
from conche.tls import trusted

__all__ = ["health"]

PAUSE = 0.5
"""Seconds between two requests of `env.health --wait`."""

ANSWER_SHOWN = 2000
"""Characters of an answer that are shown."""


def health(call: Invocation, name: str, *, wait: bool, timeout: float | None) -> Outcome:
    """Ask the environment's URL from outside, as its users do.

    Raises:
        CheckFailed: it does not answer 2xx; with `wait`, not in time.
    """
    import httpx

    url = call.environment(name).health
    if url is None:
        raise Refused(
            "no-health-url",
            f"Environment {name} has no health URL.",
            next_command=f"add environments.{name}.health to stack.yaml",
        )
    trust_env = not _is_here(url)
    limit = time.monotonic() + (timeout if timeout is not None else 120.0)
    while True:
        try:
            answer = httpx.get(url, timeout=10, trust_env=trust_env, verify=trusted(trust_env=trust_env))
            said = f"answered {answer.status_code}"
            if answer.is_success:
                value = {"url": url, "status": answer.status_code, "answer": answer.text[:ANSWER_SHOWN]}
                return Outcome(
                    value=value,
                    tables=[
                        Table(
                            ("url", "status", "answer"), ((url, str(answer.status_code), answer.text[:ANSWER_SHOWN]),)
                        )
                    ],
                )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            said = str(error) or type(error).__name__
        if not wait or time.monotonic() >= limit:
            raise CheckFailed(
                "health-check-failed",
                f"{url}: {said}.",
                looked_at=[url],
                next_command=f"invoke env.status --env {name}\ninvoke env.logs --env {name} --tail 50",
            )
        time.sleep(PAUSE)


def _is_here(url: str) -> bool:
    """Return whether a URL means this machine, where no proxy helps."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
