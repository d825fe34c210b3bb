"""invoke secrets.*"""

from typing import TYPE_CHECKING, Annotated

from conche.command import Invocation, command

if TYPE_CHECKING:
    from conche.outcome import Outcome

Name = Annotated[str, "the secret, as stack.yaml names it"]
FromFile = Annotated[str | None, "read the value from this file"]
Of = Annotated[str | None, "which encrypted file, if stack.yaml names several"]


@command(changes=True)
def init(
    invocation: Invocation,
    generate: Annotated[bool, "generate the values that can be generated"] = False,
    env: Of = None,
) -> "Outcome":
    """Make your own key, recipients and encrypted file.

    Replaces the demonstration key, but never overwrites another key.
    """
    from conche.secrets.init import init
    from conche.secrets.several import within

    return init(within(invocation, env), generate=generate)


@command()
def encrypt(
    invocation: Invocation,
    file: Annotated[str, "YAML, JSON or dotenv file with the values; - for standard input"],
    merge: Annotated[bool, "keep what is in the encrypted file"] = False,
    replace: Annotated[bool, "replace the encrypted file"] = False,
    env: Of = None,
) -> "Outcome":
    """Import plaintext values, all as text."""
    from conche.secrets.encrypt import encrypt
    from conche.secrets.several import within

    return encrypt(within(invocation, env), file, merge=merge, replace=replace)


@command(changes=True, aliases=("decrypt",))
def render(
    invocation: Invocation,
    check: Annotated[bool, "only report what is stale, with exit code 1"] = False,
    env_only: Annotated[bool, "only .env"] = False,
    files_only: Annotated[bool, "only docker/secrets/*.txt"] = False,
    env: Of = None,
) -> "Outcome":
    """Write .env and docker/secrets/*.txt."""
    from conche.secrets.render import render
    from conche.secrets.several import within

    return render(within(invocation, env), check=check, env_only=env_only, files_only=files_only)


@command()
def get(
    invocation: Invocation,
    name: Name,
    show: Annotated[bool, "show it on a terminal too"] = False,
    length: Annotated[bool, "print its length instead"] = False,
    fingerprint: Annotated[bool, "print a fingerprint instead, keyed by the age key"] = False,
    env: Of = None,
) -> "Outcome":
    """Print one value, into a pipe."""
    from conche.secrets.get import get
    from conche.secrets.several import within

    return get(within(invocation, env), name, show=show, length=length, fingerprint=fingerprint)


@command(name="set", changes=True)
def set_(
    invocation: Invocation,
    name: Name,
    from_file: FromFile = None,
    generate: Annotated[bool, "generate a value"] = False,
    raw: Annotated[bool, "keep the newline at the end of a single line"] = False,
    env: Of = None,
) -> "Outcome":
    """Set one value: typed, piped in, or generated.

    It is never given on the command line, where every user of the machine could read it.
    """
    from conche.secrets.set import ValueSource, set_
    from conche.secrets.several import within

    return set_(within(invocation, env), name, ValueSource(from_file, generate, raw))


@command(changes=True, destroys=True)
def unset(invocation: Invocation, name: Name, env: Of = None) -> "Outcome":
    """Remove one secret."""
    from conche.secrets.several import within
    from conche.secrets.unset import unset

    return unset(within(invocation, env), name)


@command(name="list")
def list_(invocation: Invocation, env: Of = None) -> "Outcome":
    """List the secrets, what they are for, and which have values."""
    from conche.secrets.list import list_
    from conche.secrets.several import within

    return list_(within(invocation, env))


@command(changes=True, bare="name")
def declare(
    invocation: Invocation,
    name: Annotated[str | None, "one secret of the encrypted file"] = None,
    all_: Annotated[bool, "all that stack.yaml does not declare"] = False,
    env: Of = None,
) -> "Outcome":
    """Write declarations into stack.yaml for what the encrypted file has."""
    from conche.secrets.declare import declare
    from conche.secrets.several import within

    return declare(within(invocation, env), name, all_=all_)


@command()
def check(invocation: Invocation, env: Of = None) -> "Outcome":
    """Check the encrypted file against stack.yaml, the checkout and the key."""
    from conche.secrets.check import check
    from conche.secrets.several import within

    return check(within(invocation, env))


@command()
def diff(
    invocation: Invocation,
    revision: Annotated[str, "git revision to compare with"] = "HEAD",
    env: Of = None,
) -> "Outcome":
    """List the names whose values differ from a git revision."""
    from conche.secrets.diff import diff
    from conche.secrets.several import within

    return diff(within(invocation, env), revision)


@command(changes=True)
def rotate(
    invocation: Invocation,
    identity: Annotated[bool, "also a new age key: added and tested, the old one kept"] = False,
    finish: Annotated[bool, "with --identity: remove the old key"] = False,
    env: Of = None,
) -> "Outcome":
    """Make a new data key, or a new age key."""
    from conche.secrets.rotate import rotate
    from conche.secrets.several import within

    return rotate(within(invocation, env), identity=identity, finish=finish)


@command(name="rotate-value", changes=True)
def rotate_value(invocation: Invocation, name: Name, from_file: FromFile = None, env: Of = None) -> "Outcome":
    """Replace one secret's value: generated, or typed."""
    from conche.secrets.rotate_value import rotate_value
    from conche.secrets.several import within

    return rotate_value(within(invocation, env), name, from_file=from_file)


@command()
def run(
    invocation: Invocation,
    only: Annotated[str | None, "these secrets, with commas; default: all"] = None,
    env: Of = None,
) -> "Outcome":
    """Run the command after `--` with the secrets in its environment."""
    from conche.secrets.run import run
    from conche.secrets.several import within

    return run(within(invocation, env), only=only)


@command()
def scan(
    invocation: Invocation,
    staged: Annotated[bool, "scan what is staged, not the checkout, as a pre-commit hook"] = False,
    history: Annotated[bool, "also every git object, reachable or not"] = False,
    image: Annotated[list[str], "also an image; may be repeated"] = (),  # type: ignore[assignment]
    logs: Annotated[bool, "also the containers' logs of every environment, and files below logs/"] = False,
) -> "Outcome":
    """Search for real values where they should not be."""
    from conche.secrets.scan import scan

    return scan(invocation, staged=staged, history=history, image=list(image), logs=logs)


@command(name="backup-key", changes=True)
def backup_key(
    invocation: Invocation,
    path: Annotated[str, "the new file, preferably on another disk"],
) -> "Outcome":
    """Write a copy of the key, encrypted with a passphrase."""
    from conche.secrets.backup_key import backup_key

    return backup_key(invocation, path)


@command()
def edit(
    invocation: Invocation,
    name: Annotated[str | None, "only this secret"] = None,
    allow_disk: Annotated[bool, "even if the temporary file is on disk"] = False,
    env: Of = None,
) -> "Outcome":
    """Edit the values in your editor.

    The plaintext is in memory only; what is saved is checked, and only the difference is written.
    """
    from conche.secrets.edit import edit
    from conche.secrets.several import within

    return edit(within(invocation, env), name, allow_disk=allow_disk)


@command()
def merge(
    invocation: Invocation,
    base: Annotated[str, "the common ancestor, git's %O"],
    ours: Annotated[str, "this side, git's %A; the result is written here"],
    theirs: Annotated[str, "the other side, git's %B"],
) -> "Outcome":
    """Merge two encrypted files: a git merge driver."""
    from conche.secrets.merge import merge

    return merge(invocation, base, ours, theirs)
