"""Find the server, the repository on it, and the token."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from conche.ci.forge.client import CORRECT, Client
from conche.ci.forge.forge import Forge
from conche.ci.forge.kept import FILE, kept
from conche.ci.workflows.runners import serving
from conche.command import Invocation
from conche.errors import KeyUnusable, Refused
from conche.process import run
from conche.secret import Secret

__all__ = [
    "SECOND",
    "TOKENS",
    "connect",
    "given_token",
    "origin",
    "place_said",
    "reach",
    "repository",
    "without_password",
]

SECOND = "forge"
"""The remote that takes precedence over origin: `ci.setup` adds it if origin is on another server."""

TOKENS = ("FORGEJO_TOKEN", "GITEA_TOKEN")
"""Variables that may hold a token; a declared secret with one of these as its variable counts too."""

TOKEN_FILE = "FORGEJO_TOKEN_FILE"  # noqa: S105 - the name of a variable
"""Variable with the path of a file that holds a token."""

_SCP = re.compile(r"(?:[^@/]+@)?(?P<host>[^:/]+):(?P<path>[^/].*)")


def connect(call: Invocation, *, anonymous: bool = False) -> Forge:
    """Return this repository on its server.

    Args:
        anonymous: go on without a token if there is none, instead of refusing.

    Raises:
        Refused: neither stack.yaml nor git's origin says where it is.
        KeyUnusable: there is no token.
    """
    address, repository = _place(call)
    return reach(call, address, repository, anonymous=anonymous, named=not _named_by_job(call))


def reach(call: Invocation, address: str, repository: str, *, anonymous: bool = False, named: bool = True) -> Forge:
    """Return a repository on a given server; otherwise like `connect`.

    Args:
        named: the stack, the checkout or whoever called says that this is the server; a variable alone is no reason to
            send it a token that is kept in the secrets.
    """
    token = _token(call, address, stored=named)
    client = Client(address, token, lambda: _unreachable(call))
    if token is not None and not (token.reveal().isascii() and token.reveal().isprintable()):
        raise KeyUnusable(
            "server-token-refused",
            f"The token for {address} contains invalid characters: it was not copied correctly.",
            next_command=client.new_token(),
        )
    if token is None and not anonymous:
        raise KeyUnusable(
            "server-token-missing",
            f"There is no token for {address}.",
            looked_at=[*(f"{name} (unset)" for name in TOKENS), f"{FILE} (none for this server)"],
            next_command=f"invoke ci.setup\n{client.new_token()}",
        )
    return Forge(client, repository)


def _unreachable(call: Invocation) -> str:
    """Return what to type if the server does not answer: it may be a service of this stack."""
    here = serving(call.root, call.stack)
    return f"invoke env.status --env {here}    # or {CORRECT}" if here else CORRECT


def repository(call: Invocation) -> str:
    """Return this repository's OWNER/NAME on its server; empty if neither stack.yaml nor git's remote says it."""
    return _said(call)[1]


def place_said(call: Invocation, own: str = "") -> tuple[str, str]:
    """Return the address of the server and OWNER/NAME on it, each empty if nothing says it.

    A remote on another server, such as the one this was cloned from, does not determine the name.

    Args:
        own: the address of a server of this stack, which takes precedence over git's remotes.
    """
    section, (_, _, remote) = call.stack.ci, _said(call)
    there, name = origin(remote) or ("", "")
    address = section.server or own or there
    same = urlsplit(there).hostname == urlsplit(address).hostname
    return address.rstrip("/"), section.repository or (name if same else "")


def _place(call: Invocation) -> tuple[str, str]:
    address, name, remote = _said(call)
    if not address or not name:
        raise Refused(
            "server-unknown",
            "Neither stack.yaml nor git says where this repository is.",
            looked_at=[
                "ci.server and ci.repository in stack.yaml",
                f"git's remote: {without_password(remote) or 'none'}",
            ],
            next_command="invoke ci.setup\n"
            "set ci.server (such as http://localhost:3000) and ci.repository (OWNER/NAME) in stack.yaml",
        )
    return address.rstrip("/"), name


def _said(call: Invocation) -> tuple[str, str, str]:
    """Return the address and OWNER/NAME, each empty if nothing says it, and git's remote."""
    section, remote = call.stack.ci, _remote(call) or _of_this_job()
    address, name = origin(remote) or ("", "")
    return section.server or address, section.repository or name, remote


def _remote(call: Invocation) -> str:
    """Return the address of git's remote; empty if it has none."""
    found = ""
    for name in (SECOND, "origin"):
        answer = run(["git", "-C", str(call.root), "remote", "get-url", name], timeout=10)
        found = found or (answer.stdout.raw.strip() if answer.ok else "")
    return found


def _named_by_job(call: Invocation) -> bool:
    """Return whether only the variables of a job say which server it is."""
    return not call.stack.ci.server and not _remote(call)


def _of_this_job() -> str:
    """Return the address of the repository whose job this is; a runner's checkout may have no remote."""
    server, name = os.environ.get("GITHUB_SERVER_URL", ""), os.environ.get("GITHUB_REPOSITORY", "")
    return f"{server.rstrip('/')}/{name}" if server and name else ""


def without_password(remote: str) -> str:
    """Return a remote's address without its user and password, fit to be shown."""
    return re.sub(r"(?<=://)[^/@]*@", "", remote)


def origin(remote: str) -> tuple[str, str] | None:
    """Return the web address and owner/name of a git remote; for ssh, assume https on the same host."""
    try:
        parts = urlsplit(remote)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:  # such as a port that is not a number
        return None
    if parts.scheme in ("http", "https") and parts.hostname:
        path = parts.path.strip("/").removesuffix(".git")
        prefix, _, repository = _cut(path)
        return (f"{parts.scheme}://{parts.hostname}{port}{prefix}", repository) if repository else None
    if parts.scheme == "ssh" and parts.hostname:
        repository = _cut(parts.path.strip("/").removesuffix(".git"))[2]
        return (f"https://{parts.hostname}", repository) if repository else None
    scp = _SCP.fullmatch(remote) if "://" not in remote else None
    if scp:
        repository = _cut(scp["path"].removesuffix(".git"))[2]
        return (f"https://{scp['host']}", repository) if repository else None
    return None


def _cut(path: str) -> tuple[str, str, str]:
    """Split a path into the server's prefix and its last two parts, owner and name."""
    parts = path.split("/")
    if len(parts) < 2 or not all(parts):
        return "", "", ""
    prefix = "/".join(parts[:-2])
    return f"/{prefix}" if prefix else "", "/", "/".join(parts[-2:])


def given_token() -> Secret | None:
    """Return this shell's token: from a variable, or from the file that a variable names.

    Raises:
        KeyUnusable: there is no such file, or nothing in it.
    """
    said = next((os.environ[name].strip() for name in TOKENS if os.environ.get(name, "").strip()), "")
    file = os.environ.get(TOKEN_FILE, "")
    if said or not file:
        return Secret(said) if said else None
    try:
        said = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _no_token_in(file, str(getattr(error, "strerror", "it is not text"))) from error
    if not said:
        raise _no_token_in(file, "it is empty")
    return Secret(said)


def _no_token_in(file: str, why: str) -> KeyUnusable:
    text = f"The file that {TOKEN_FILE} names has no token: {why}."
    return KeyUnusable("server-token-missing", text, looked_at=[file], next_command=f"export {TOKEN_FILE}=PATH")


def _token(call: Invocation, address: str, *, stored: bool) -> Secret | None:
    """Find the token: in this shell, kept for this server, or in the encrypted file; output redacts it from now on.

    Args:
        stored: the encrypted file counts.
    """
    token = given_token() or kept(call.root, address)
    section = call.stack.secrets
    named = [name for name, one in section.declared.items() if one.variable(name) in TOKENS] if section else []
    if token is None and stored and named and call.vault.key is not None:
        known = call.vault.known()
        token = next((known[name] for name in named if name in known), None)
    if token is not None:
        call.output.redact.learn([token])
    return token
