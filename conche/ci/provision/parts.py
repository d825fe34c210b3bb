"""The parts of `ci.setup`: each has a function that plans what is missing, and one that makes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePosixPath

from conche.ci import secrets as of_actions
from conche.ci.act import credentials
from conche.ci.forge import Forge
from conche.ci.forge.client import Client
from conche.ci.forge.kept import FILE, keep, kept
from conche.ci.forge.where import given_token
from conche.ci.provision import probe
from conche.ci.provision.server import account
from conche.ci.provision.site import SetupSite
from conche.ci.runner.up import up as bring_up
from conche.ci.workflows.runners import runners as described
from conche.ci.workflows.workflow import workflows
from conche.errors import CheckFailed, KeyUnusable, NotFound, Refused, Unreachable
from conche.outcome import Action, Kind, Step
from conche.secret import Secret
from conche.secrets.init import init
from conche.vault.store import Edit
from conche.vault.values import PLACEHOLDERS, demonstrates, opened

__all__ = [
    "actions_secrets",
    "asked",
    "branch",
    "commit",
    "key",
    "labels",
    "make_branch",
    "make_commit",
    "make_key",
    "make_protected_branch",
    "make_remote",
    "make_repository",
    "make_runners",
    "make_secrets",
    "make_token",
    "protected_branch",
    "put_secrets",
    "remote",
    "repository",
    "runners",
    "secrets",
    "token",
    "try_labels",
]


CHANGE_SECRETS = frozenset({Kind.RECIPIENT, Kind.SECRET, Kind.RUNNER, Kind.RUNNERS})
"""Kinds of things whose steps change the encrypted file before it is committed."""


def secrets(site: SetupSite) -> list[Step]:
    """Plan a key of the user's own, and values for secrets that have a usual one."""
    section, store = opened(site.call.stack, site.call.root)
    if not store.file.exists() or demonstrates(store, section):
        return [Step(Action.CREATE, Kind.FILE, store.file.name, "there is none for your own key yet")]
    return [Step(Action.SET, Kind.SECRET, name, "it has no value yet") for name in _usual(site)]


def _usual(site: SetupSite) -> dict[str, Secret]:
    section, store = opened(site.call.stack, site.call.root)
    there = store.read()
    usual = {name: one.development for name, one in section.declared.items() if one.required and one.development}
    return {n: Secret(value) for n, value in usual.items() if n not in there or there[n].reveal() in PLACEHOLDERS}


def make_secrets(site: SetupSite) -> None:
    """Make the file if needed, then replace placeholders in it with their usual values."""
    section, store = opened(site.call.stack, site.call.root)
    if not store.file.exists() or demonstrates(store, section):
        _say(site, init(site.call, generate=True).lines)
    usual = _usual(site)
    if usual:
        store.change("ci.setup", lambda _: Edit(put=usual))
    # A call finds its key once, and may have looked for it before there was one.
    site.call = replace(site.call)
    site.renewed = True


def _say(site: SetupSite, lines: Iterable[str]) -> None:
    """Tell what another task has to say, without the next command of its own, which is a later part of this one."""
    for line in lines:
        if not line.startswith("Next: "):
            site.call.output.say(line)


def token(site: SetupSite) -> list[Step]:
    """Plan a token that this server accepts; a given one is kept, so that the next command has it."""
    given = given_token()
    have = site.token
    if have is not None and _accepted(site, have):
        same = given is None or kept(site.call.root, site.address) == given
        return [] if same else [Step(Action.KEEP, Kind.FILE, str(FILE), "you supplied the token")]
    if given is not None or site.own is None:
        raise KeyUnusable(
            "server-token-refused" if have else "server-token-missing",
            f"{site.address} rejects the token." if have else f"There is no token for {site.address}.",
            looked_at=["FORGEJO_TOKEN, GITEA_TOKEN, FORGEJO_TOKEN_FILE", str(FILE)],
            next_command=site.client.new_token(),
        )
    return [
        Step(
            Action.CREATE,
            Kind.FILE,
            str(FILE),
            "the server has not given you a token yet",
        )
    ]


def _accepted(site: SetupSite, have: Secret) -> bool:
    try:
        Client(site.address, have).json("GET", "/user")
    except KeyUnusable as error:
        if error.code == "server-token-refused":
            return False
        # The token is known but may not read its account; `repository` checks what it has to be able to do.
    return True


def make_token(site: SetupSite) -> None:
    """Keep the given token, or have the server make one."""
    given = given_token()
    if given is None:
        assert site.own is not None
        there = site.own.accounts()
        name = account(site.repository, there)
        if name not in there:
            site.own.make_account(site.call, name)
        given = site.own.token(site.call, name)
        site.repository = site.repository or f"{name}/{site.call.stack.name}"
    keep(site.call.root, site.address, given)


def repository(site: SetupSite) -> list[Step]:
    """Plan the repository on the server; if it is there, we must be allowed to change it.

    Raises:
        KeyUnusable: the token may not do what the later parts need.
    """
    name = site.call.stack.name
    if site.token is None:
        return [Step(Action.CREATE, Kind.REPOSITORY, site.repository or name, "there is no token for the server yet")]
    site.repository = site.repository or f"{site.forge.user()}/{name}"
    forge = site.forge
    if not forge.exists():
        return [Step(Action.CREATE, Kind.REPOSITORY, site.repository, "it is not on the server yet")]
    said = forge.described()
    rights = said.get("permissions") or {}
    if not rights.get("admin") or not forge.may_write():
        lacks = "the scope write:repository" if rights.get("admin") else "administrator rights to the repository"
        raise KeyUnusable(
            "server-token-lacks-right",
            f"The token is not allowed to set up {site.repository}: it lacks {lacks}.",
            looked_at=[forge.web],
            next_command=forge.client.new_token(),
        )
    # An interrupted `ci.setup` can have left Actions off.
    return (
        [] if said.get("has_actions", True) else [Step(Action.SET, Kind.ACTIONS, "of the repository", "they are off")]
    )


def make_repository(site: SetupSite) -> None:
    """Make the repository, private and empty, with Actions on."""
    forge = site.forge
    try:
        if not forge.exists():
            forge.create()
        _wait_for_protected(site, forge)
        forge.switch_actions(on=True)
    except NotFound as error:
        owner = site.repository.partition("/")[0]
        raise KeyUnusable(
            "server-token-lacks-right",
            f"The token belongs to {forge.user()}, who cannot create repositories in {owner}.",
            looked_at=error.looked_at,
            next_command="set ci.repository (OWNER/NAME) in stack.yaml\n" + forge.client.new_token(),
        ) from error


def _wait_for_protected(site: SetupSite, forge: Forge) -> None:
    """Wait until the server has handled a push of the protected branch that an interrupted command may just have made.

    The server's feed no longer shows an old push.
    """
    checkout, (_, protected) = site.checkout, site.branches
    there = checkout.remote_heads(checkout.remote()) if checkout.remote() else {}
    if protected in there:
        probe.push_handled(forge, protected, there[protected])


def remote(site: SetupSite) -> list[Step]:
    """Plan a remote for the repository, and git's credentials for it."""
    checkout, steps = site.checkout, []
    checkout.head()
    if not checkout.remote():
        steps.append(Step(Action.ADD, Kind.REMOTE, checkout.new_remote(), f"no remote points to {site.address}"))
    if kept(site.call.root, site.address) is None or not checkout.knows_password():
        steps.append(
            Step(Action.SET, Kind.GIT_CREDENTIALS, f"for {site.address}", f"git push needs the token in {FILE}")
        )
    return steps


def make_remote(site: SetupSite) -> None:
    """Set the credentials, then add the remote, so that the remote is usable as soon as it exists."""
    checkout = site.checkout
    checkout.tell_password()
    if not checkout.remote():
        checkout.add_remote()


def branch(site: SetupSite) -> list[Step]:
    """Plan the branch that is deployed, starting at what is checked out."""
    checkout, (first, _) = site.checkout, site.branches
    if not first:
        return []
    if first not in checkout.branches():
        return [Step(Action.CREATE, Kind.BRANCH, first, "deployments come from it; it starts at this commit")]
    if checkout.current() != first:
        raise Refused(
            "branch-not-checked-out",
            f"{first} is deployed but not checked out, so it would miss the commits made here.",
            next_command=f"git switch {first}\ninvoke ci.setup",
        )
    return [] if checkout.upstream(first) else [Step(Action.SET, Kind.BRANCH, first, "it has no upstream yet")]


def make_branch(site: SetupSite) -> None:
    """Create the branch, switch to it, and set its remote for `git push`."""
    checkout, (first, _) = site.checkout, site.branches
    if first not in checkout.branches():
        checkout.said("switch", "--quiet", "--create", first, "--no-track")
    if not checkout.upstream(first):
        checkout.follow(first, checkout.remote())


def key(site: SetupSite) -> list[Step]:
    """Plan CI's own key, which can be revoked without touching a person's."""
    return of_actions.key_steps(site.call) if credentials.AGE_KEY in site.call.stack.ci.secrets else []


def make_key(site: SetupSite) -> None:
    """Make CI's own key, and let it read the encrypted file."""
    _say(site, of_actions.make_key(site.call))


def runners(site: SetupSite) -> list[Step]:
    """Plan registering and starting the runners in the Compose files."""
    if not described(site.call.root, site.call.stack):
        return []
    if site.token is None or not site.checkout.remote():
        return [Step(Action.REGISTER, Kind.RUNNERS, "", "they are not on the server yet")]
    try:
        outcome = bring_up(replace(site.call, dry_run=True), timeout=None)
    except (KeyUnusable, Unreachable):
        if site.call.dry_run:
            return [Step(Action.REGISTER, Kind.RUNNERS, "", "they may not be on the server yet")]
        raise
    steps = list(outcome.plan or ())
    return steps or ([Step(Action.START, Kind.RUNNERS, "", "their secrets have changed")] if site.renewed else [])


def make_runners(site: SetupSite) -> None:
    """Bring the runners up as `ci.runner.up` does."""
    site.warnings += bring_up(site.call, timeout=None).warnings


def commit(site: SetupSite) -> list[Step]:
    """Plan committing the encrypted file and its recipients, which the push has to include."""
    return [
        Step(Action.COMMIT, Kind.FILE, file, "the pipeline reads it from the repository") for file in _uncommitted(site)
    ]


def _uncommitted(site: SetupSite) -> list[str]:
    _, store = opened(site.call.stack, site.call.root)
    if site.call.dry_run and any(one.kind in CHANGE_SECRETS for one in site.planned):
        return [str(store.file.relative_to(site.call.root)), ".sops.yaml"]
    files = (str(store.file.relative_to(site.call.root)), ".sops.yaml", *([".gitignore"] if site.renewed else []))
    return site.checkout.changed(files)


def make_commit(site: SetupSite) -> None:
    """Commit these files, and nothing else."""
    site.checkout.commit(_uncommitted(site), "Give the pipeline a key and the runners their tokens")


def actions_secrets(site: SetupSite) -> list[Step]:
    """Plan putting the workflows' secrets; the server does not tell their values, so they are put each time."""
    names = site.call.stack.ci.secrets
    return [Step(Action.PUT, Kind.SECRET, name, "the server does not show its value") for name in names]


def put_secrets(site: SetupSite) -> None:
    """Put the secrets as `ci.secrets` does."""
    site.warnings += of_actions.secrets(site.call, check=False, new_key=False).warnings


def protected_branch(site: SetupSite) -> list[Step]:
    """Plan the protected branch: it starts at the same commit, without a run, since nothing was released yet.

    Raises:
        Refused: the repository on the server has commits that are not part of what is checked out.
    """
    first, protected = site.branches
    push = Step(Action.PUSH, Kind.BRANCH, protected, "it starts at the same commit, without triggering a run")
    protect = Step(Action.PROTECT, Kind.BRANCH, protected, "releases go through a pull request")
    if site.token is None or not site.checkout.remote() or not site.forge.exists():
        return [push, protect] if protected else []
    heads = site.checkout.remote_heads(site.checkout.remote())
    _require_ours(site, heads, [one for one in (first, protected) if one in heads])
    if not protected:
        return []
    return [push] * (protected not in heads) + [protect] * (protected not in site.forge.protected())


def _require_ours(site: SetupSite, heads: dict[str, str], branches: list[str]) -> None:
    checkout = site.checkout
    others = [one for one in branches if not checkout.contains(checkout.remote(), heads[one])]
    if others:
        raise Refused(
            "repository-has-other-content",
            f"{site.repository} has commits on {', '.join(others)} that are not in this checkout.",
            looked_at=[f"{one}: {heads[one][:10]}" for one in others],
            next_command=f"git pull {checkout.remote()} {others[0]}    # or another ci.repository in stack.yaml",
        )


def make_protected_branch(site: SetupSite) -> None:
    """Push the protected branch with Actions off: else the push would at once release what nobody has tried."""
    forge, checkout, (_, protected) = site.forge, site.checkout, site.branches
    if protected and protected not in checkout.remote_heads(checkout.remote()):
        forge.switch_actions(on=False)
        checkout.push(checkout.remote(), f"HEAD:refs/heads/{protected}")
        if not probe.push_handled(forge, protected, checkout.head()):
            raise CheckFailed(
                "push-not-handled",
                f"{protected} was pushed, but the server has not processed it yet; Actions stay off until it has.",
                looked_at=[f"the feed of {forge.web}"],
                next_command="invoke ci.setup",
            )
        forge.switch_actions(on=True)
    if protected and protected not in forge.protected():
        forge.protect(protected)


def labels(site: SetupSite) -> list[Step]:
    """Plan a trial that shows whether runners really take jobs."""
    return [probe.step(asked(site))] if asked(site) else []


def asked(site: SetupSite) -> list[str]:
    """Return the labels that the workflows ask for.

    Raises:
        Refused: there is no workflow, or one that cannot be read.
    """
    read = workflows(site.call.root, site.call.stack)
    return sorted({label for one in read for job in one.jobs.values() for label in job.runs_on})


def try_labels(site: SetupSite) -> None:
    """Run two jobs for each label, with a pause between."""
    folder, remote = PurePosixPath(site.call.stack.ci.workflows), site.checkout.remote()
    probe.labels_taken(site.checkout, site.forge, remote, folder, asked(site))
