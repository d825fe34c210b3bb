"""ci.setup: everything between a running forge and the first push, in an order in which nothing runs too early.

Each part first plans what is missing, so whatever was interrupted is finished by the next `ci.setup`.
"""

from __future__ import annotations

from collections.abc import Callable

from conche.ci.forge.own import PASSWORD
from conche.ci.forge.where import origin, without_password
from conche.ci.provision import parts
from conche.ci.provision.site import SetupSite
from conche.command import Invocation
from conche.outcome import Outcome, Plan, Step

__all__ = ["setup"]

PARTS: tuple[tuple[Callable[[SetupSite], list[Step]], Callable[[SetupSite], None]], ...] = (
    (parts.secrets, parts.make_secrets),
    (parts.token, parts.make_token),
    (parts.repository, parts.make_repository),
    (parts.remote, parts.make_remote),
    (parts.branch, parts.make_branch),
    (parts.key, parts.make_key),
    (parts.runners, parts.make_runners),
    (parts.commit, parts.make_commit),
    (parts.actions_secrets, parts.put_secrets),
    (parts.protected_branch, parts.make_protected_branch),
    (parts.labels, parts.try_labels),
)
"""For each part the function that plans what is missing and the one that makes it; later parts need earlier ones."""


def setup(call: Invocation) -> Outcome:
    """Set the pipeline up, or with `--dry-run` say what there is to do.

    Raises:
        Refused: the repository has other content, or no server is known.
        KeyUnusable: no token can be had, or it may not do this.
        CheckFailed: a runner took no job.
    """
    site = SetupSite.look(call)
    # Refuse unreadable workflows before anything is done.
    parts.asked(site)
    for look, make in PARTS:
        steps = look(site)
        site.planned += steps
        if steps and not call.dry_run:
            for step in steps:
                call.output.say(f"{step.action} {step.subject}: {step.cause}")
            make(site)
    return _told(site, Plan(tuple(site.planned)))


def _told(site: SetupSite, plan: Plan) -> Outcome:
    """Report what was done, and what is left for a person: the push, and signing in."""
    if site.call.dry_run:
        return Outcome(plan=plan)
    checkout, (first, _) = site.checkout, site.branches
    remote = checkout.remote()
    lines = [f"The repository: {site.forge.web}"]
    password = site.call.root / PASSWORD
    if password.exists():
        name = password.read_text(encoding="utf-8").partition("\n")[0]
        lines.append(f"Sign in as {name}; the password is in {PASSWORD}: change it there, then delete the file.")
    if first:
        plain = checkout.current() == first and checkout.upstream(first) == remote
        lines.append(f"Next: {'git push' if plain else f'git push {remote} {first}'} && invoke ci.watch")
    passwords = [name for name, to in checkout.remotes().items() if without_password(to) != to and origin(to)]
    warnings = [
        f"the remote {name} has a password in its address: git remote set-url {name} ADDRESS" for name in passwords
    ]
    return Outcome(
        value={"server": site.address, "repository": site.repository, "remote": remote, "branch": first},
        changed=len(plan) > 0,
        plan=plan,
        lines=lines,
        warnings=[*site.warnings, *warnings],
    )
