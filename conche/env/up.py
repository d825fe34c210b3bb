"""invoke env.up"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from conche.command import Invocation
from conche.engine import state
from conche.engine.compose import Compose
from conche.engine.projects import made_from_others
from conche.env import report
from conche.env.carry_out import carry_out, nothing_to_do
from conche.env.locking import everywhere, here
from conche.env.observe import Observed, glance, observe, service_of
from conche.env.plan import plan_up
from conche.env.recover import settle_killed
from conche.outcome import Outcome, Plan
from conche.secret import Secret
from conche.session import open_compose
from conche.vault.values import require_with, unsealed_files, used_by

__all__ = ["converge", "up"]


def up(call: Invocation, name: str, *, build: bool, timeout: float | None, local: bool = False) -> Outcome:
    """Bring an environment up; a second run finds nothing to do.

    Args:
        local: if this deploys, deploy what the engine has, as `env.deploy --local` does.
    """
    return converge(call, name, build=build, timeout=timeout, only=None, local=local)


def converge(
    call: Invocation, name: str, *, build: bool, timeout: float | None, only: str | None, local: bool = False
) -> Outcome:
    """Make an environment, or only one service of it, what its files or its release say.

    A release that was killed is settled first.
    """
    if call.environment(name).deploy.edge is not None or call.environment(name).swarm:
        from conche.env.released import up_released

        return up_released(call, name, build=build, timeout=timeout, only=only, local=local)
    settled = settle_killed(call, name)
    if settled is None:
        return _brought_up(call, name, build=build, timeout=timeout, only=only)
    if call.dry_run:
        # What is to be done after that is only known then.
        return settled
    done = _brought_up(call, name, build=build, timeout=timeout, only=only)
    plan = Plan((*(settled.plan or ()), *(done.plan or ())))
    return replace(done, changed=True, plan=plan, lines=[*settled.lines, *done.lines])


def _brought_up(call: Invocation, name: str, *, build: bool, timeout: float | None, only: str | None) -> Outcome:
    """Make an environment without an edge, or only one service of it, what its files say."""
    secrets = call.vault.of(name)
    compose = open_compose(call, name, secrets)
    require_with(call.stack, name, compose.variables.get("COMPOSE_PROFILES", ""), secrets)
    with here(call, name) as held:
        changed, coming = _refreshed(call, name, secrets)
        standing = None
        if not (build or only or changed - unsealed_files(call.stack, call.root, name).keys()):
            standing = _standing(call, name, compose, changed)
        if standing and report.is_well(standing) and not _keyed_anew(call, name, compose, standing, changed):
            return nothing_to_do(call, name, standing)
        if standing is not None and standing.containers:
            from conche.env.released import up_as_released

            healed = up_as_released(call, name, compose, timeout=timeout, held=held)
            if healed is not None:
                return healed
        # Imported here because only a change needs it: finding nothing to do is the commonest run.
        from conche.env import preflight

        seen = observe(call.stack, name, compose)
        if only is not None:
            service_of(seen.configuration, only)
        stale = _mounting(seen, changed) | _outdated(call, compose, seen)
        plan = plan_up(seen, build=build, only=only, stale=stale)
        preflight.check(seen, plan, compose, coming)
        for other in made_from_others(seen.containers, compose.files) if compose.engine.is_local and len(plan) else ():
            call.output.say(
                f"warning: {name} was brought up from {other}, and this checkout takes it over. For a second one beside"
                " it, change `name` and the ports in stack.yaml"
            )
        if call.dry_run:
            return Outcome(plan=plan)
        if not len(plan):
            return nothing_to_do(call, name, seen)
        with everywhere(call, compose.engine, name):
            # Somebody else may have been at work until just now.
            seen = observe(call.stack, name, compose)
            stale = _mounting(seen, changed) | _outdated(call, compose, seen)
            plan = plan_up(seen, build=build, only=only, stale=stale)
            return carry_out(call, compose, seen, plan, timeout, held, asked=[only] if only else ())


def _standing(call: Invocation, name: str, compose: Compose, changed: Collection[Path]) -> Observed | None:
    """Return the environment if it is what its files say, or its last release; else None.

    Args:
        changed: secret files that this command has written, or would.
    """
    glimpsed = glance(call.stack, name, compose)
    if (
        glimpsed
        and report.is_well(glimpsed)
        and not _mounting(glimpsed, changed)
        and not _outdated(call, compose, glimpsed)
    ):
        return glimpsed
    return _as_released(call, name, compose)


def _as_released(call: Invocation, name: str, compose: Compose) -> Observed | None:
    """Return the environment, well or not, if it runs its last release and the files still say the same; else None."""
    if not state.kept(compose.engine, compose.project):
        return None
    from conche.env.rollout.view import can_tell, look_at_release, show_records

    records = show_records(call, compose)
    if not can_tell(call, records):
        return None
    found = look_at_release(call, name, compose, records)
    return None if found is None or found.changed or found.leftovers or found.interrupted else found


def _keyed_anew(call: Invocation, name: str, compose: Compose, seen: Observed, changed: Collection[Path]) -> bool:
    """Return whether a secret that no release keeps has another value than a container of one was made with.

    Args:
        changed: files of such secrets that this command has written, or would.
    """
    if not (changed or _older_than_key(call, name, seen)) or not state.kept(compose.engine, compose.project):
        return False
    from conche.env.released import keyed_anew
    from conche.env.rollout.view import compose_of, of_today, opened_if_possible, show_records

    records = show_records(call, compose)
    document = opened_if_possible(call, records, records.current)
    if document is None or document.masked:
        return False
    document = of_today(call, name, document)
    return keyed_anew(compose_of(compose, document), document, seen)


def _older_than_key(call: Invocation, name: str, seen: Observed) -> bool:
    """Return whether a container is older than the file of a secret that no release keeps."""
    written = [file.stat().st_mtime for file in unsealed_files(call.stack, call.root, name) if file.exists()]
    made = [one.created_at.timestamp() for one in seen.containers if one.created_at]
    return bool(written and made) and max(written) > min(made)


def _refreshed(call: Invocation, name: str, secrets: Mapping[str, Secret]) -> tuple[set[Path], frozenset[Path]]:
    """Write the secret files that differ from the secrets, and remove those of secrets that are unset.

    Returns:
        The files that have changed, and those that are there now; in a dry run, what these would be.
    """
    section = call.stack.secrets
    if section is None:
        return set(), frozenset()
    from conche.vault import render

    wanted = used_by(section, name)
    if not secrets and call.vault.key is None:
        return set(), frozenset()  # nobody can tell what they say
    # Compose cannot mount a file that is not there, so an absent optional secret becomes an empty one.
    staged = render.files(call.root, section, {**render.emptied(call.root, section, wanted), **secrets})
    changed = [one for one in staged if one.state != "same"]
    gone = [path for path in render.left_over(call.root, section, staged) if path.stem in wanted]
    if (changed or gone) and not call.dry_run:
        for one in changed:
            call.output.say(f"secret file {one.path.name}: {one.state}")
        for path in gone:
            call.output.say(f"secret file {path.name}: removed")
        render.write(call.root, section, changed, gone)
    return {one.path for one in changed}, frozenset(one.path for one in staged)


def _mounting(seen: Observed, files: Collection[Path]) -> set[str]:
    """Return services with a container that mounts one of these files, or its folder."""
    real = {file.resolve() for file in files}
    real |= {file.parent for file in real}
    return {one.service for one in seen.containers if any(Path(bind).resolve() in real for bind in one.binds)}


def _outdated(call: Invocation, compose: Compose, seen: Observed) -> set[str]:
    """Return services older than a secret file that they mount, written by a killed command or by hand."""
    section = call.stack.secrets
    if section is None or not compose.engine.is_local:
        return set()
    found = set()
    for name in {*section.declared, *section.htpasswd}:
        file = call.root / section.folder / f"{name}.txt"
        if file.exists():
            written = file.stat().st_mtime
            users = _mounting(seen, [file])
            started = [c for c in seen.containers if c.service in users and c.started_at]
            found |= {c.service for c in started if c.started_at and c.started_at.timestamp() < written}
    return found
