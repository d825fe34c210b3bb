"""Where a secret comes from: a mounted file, a file named by the environment, or the environment."""

import errno
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import SecretStr

SECRETS_DIR = Path("/run/secrets")

_ABSENT = os.strerror(errno.ENOENT)

log = logging.getLogger(__name__)


def read_secret(name: str, environ: Mapping[str, str], secrets_dir: Path = SECRETS_DIR) -> SecretStr | None:
    """The value of the secret `name`, without the white space around it; None where there is none.

    Looked for in `<secrets_dir>/<name in lower case>`, then in the file that `<NAME>_FILE` names, then in
    `<NAME>`. An empty value counts as none. Falling back past the first place logs a warning that names the
    place and the reason, never the value.
    """
    mounted = secrets_dir / name.lower()
    value, reason = _read(mounted)
    if value:
        return SecretStr(value)
    fallback = next(_fallbacks(name, environ), None)
    if fallback or reason != _ABSENT:
        log.warning("Failed to read secret from %s (%s)", mounted, reason)
    return SecretStr(fallback) if fallback else None


def _fallbacks(name: str, environ: Mapping[str, str]) -> Iterator[str]:
    if named := environ.get(f"{name}_FILE"):
        value, reason = _read(Path(named))
        if value:
            yield value
        else:
            log.warning("Failed to read secret from %s (%s)", named, reason)
    if value := environ.get(name, "").strip():
        yield value


def _read(path: Path) -> tuple[str, str]:
    try:
        value = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        return "", getattr(error, "strerror", None) or "not UTF-8 text"
    return value, "" if value else "the file is empty"
