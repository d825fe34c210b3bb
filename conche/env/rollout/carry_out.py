"""Carries out a release that is ready, records how it ends, and tells people."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial

from conche.command import Invocation
from conche.engine.compose import Compose
from conche.engine.lock import Held
from conche.env.rollout import hooks, lint
from conche.env.rollout.edge import EdgeConfiguration
from conche.env.rollout.look import NOTHING, Look
from conche.env.rollout.pipeline import ComposePipeline
from conche.env.rollout.plan import table
from conche.env.rollout.release import Release
from conche.env.rollout.swarm import SwarmPipeline, probing, sent_of
from conche.env.rollout.swarm_keys import unordered
from conche.env.rollout.takeover import Takeover
from conche.env.rollout.telling import tell
from conche.env.rollout.view import compose_of, opened_if_possible
from conche.errors import ConcheError, Interrupted, NotRestored, Told
from conche.outcome import Outcome
from conche.output import Progress
from conche.release.document import Document
from conche.release.records import Ending, Records, Result
from conche.supply.login import credentials

__all__ = ["Rollout"]


@dataclass(frozen=True)
class Rollout:
    """One release on its way, from its record to its ending.

    Attributes:
        records: the releases before it.
        held: the environment's lock on its engine; None in a dry run.
        begun: when the command began, by the monotonic clock.
        timeout: seconds to wait for health; None for what the healthchecks allow.
    """

    call: Invocation
    records: Records
    ready: Release
    held: Held | None
    begun: float
    timeout: float | None

    def carry_out(self) -> Outcome:
        """Carry the release out and report it; in a dry run, or where nothing changes, only report it."""
        call, ready, record, deploy = self.call, self.ready, self.ready.record, self.ready.look.deploy
        name, current = record.environment, self.records.current
        before = current.id if current and current.label == ready.before.release else ready.before.release
        title = f"{name}: {before} to {record.id}"
        shown = table(ready.found, ready.configuration, title)
        variables = record.changed_variables(current)
        value: dict[str, object] = {
            "environment": name,
            "release": record.id,
            "before": None if before == NOTHING else before,
            "images": {service: placed.image for service, placed in record.services.items()},
            "changes": [asdict(change) for change in ready.found],
            "changed_variables": variables,
        }
        lines = [f"Changed variables: {', '.join(variables)}"] if variables and current else []
        if call.dry_run or not len(ready.plan):
            if not len(ready.plan):
                lines.append(f"Nothing to do: {current.id if current else name} is what was asked for.")
            return Outcome(value=value, plan=ready.plan, tables=[shown], lines=lines)
        hooks.run_first(call, deploy, record)
        pipeline = self._pipeline()
        with call.output.progress(title) as progress:
            pipeline.progress = progress
            self._take_steps(pipeline)
        seconds = time.monotonic() - self.begun
        warnings = [*pipeline.warnings, *self._forget_oldest()]
        bodies = ready.document.body["services"]
        warnings += [*lint.stays_down(bodies, deploy), *lint.begins_empty(bodies, deploy)]
        warnings += [*hooks.run_after(call, deploy, record, Result.SUCCEEDED), *tell(call, record, Result.SUCCEEDED)]
        return Outcome(
            value={**value, "seconds": round(seconds, 3), "switched_after": round(pipeline.switched_after, 3)},
            changed=True,
            plan=ready.plan,
            tables=[shown],
            lines=[*lines, f"{record.id} serves, after {seconds:.1f} s."],
            warnings=warnings,
        )

    def _take_steps(self, pipeline: ComposePipeline | SwarmPipeline) -> None:
        call, record = self.call, self.ready.record
        try:
            pipeline.carry_out(self.ready.plan)
        except Told as error:
            result = Result.FAILED if isinstance(error, NotRestored) else Result.RESTORED
            if isinstance(error, Interrupted):
                result = Result.INTERRUPTED
            if pipeline.recorded and not pipeline.committed:
                self._record_failure(result, error)
                problems = hooks.run_after(call, self.ready.look.deploy, record, result)
                for warning in (*problems, *tell(call, record, result, f"{error.code}: {error.message}")):
                    call.output.say(f"warning: {warning}")
            raise

    def _forget_oldest(self) -> list[str]:
        """Forget old releases; return what went wrong, in words: the new one serves all the same."""
        try:
            self.records.forget(self.ready.look.deploy.keep)
        except ConcheError as problem:
            return [f"the oldest releases could not be removed: {problem}"]
        return []

    def _record_failure(self, result: Result, error: Told) -> None:
        """Record how the release ended; if even that fails, the first error is still the one to show."""
        cause, *evidence = map(self.call.output.redact, (f"{error.code}: {error.message}", *error.evidence))
        try:
            self.records.end(self.ready.record, self._ending(result, cause, evidence))
        except ConcheError as problem:
            self.call.output.say(f"warning: the result of {self.ready.record.id} was not recorded: {problem}")

    def _ending(self, result: Result, cause: str = "", evidence: Sequence[str] = ()) -> Ending:
        ended = datetime.now(UTC).isoformat(timespec="milliseconds")
        return Ending(result.value, ended, round(time.monotonic() - self.begun, 3), cause, tuple(evidence))

    def _begin(self, standing: bytes = b"") -> None:
        """Write the release's record, before anything is changed.

        Args:
            standing: what there was before, where the release cannot be taken back without it.
        """
        ready, record = self.ready, self.ready.record
        every = (ready.document.packed(), ready.salt, *([standing] if standing else []))
        self.records.begin(record, *(self.call.vault.seal(record.environment, one) for one in every))

    def _commit(self, look: Look | None) -> None:
        """Record the release as good.

        Args:
            look: what tells the hashes of the containers that were made; None on a swarm.
        """
        made = look.made(self.ready.record) if look is not None else {}
        self.records.end(self.ready.record, replace(self._ending(Result.SUCCEEDED), made=made))

    def _pipeline(self) -> ComposePipeline | SwarmPipeline:
        return self._on_swarm() if self.ready.on_swarm else self._on_compose()

    def _on_swarm(self) -> SwarmPipeline:
        call, document, record = self.call, self.ready.document, self.ready.record
        engine, stack, deploy = self.ready.compose.engine, self.ready.compose.project, self.ready.look.deploy
        look = Look(record.environment, self.ready.compose, deploy, document.body)
        return SwarmPipeline(
            release=record.id,
            engine=engine,
            stack=stack,
            sent=sent_of(call, look, document, self.records.replicas()),
            deploy=deploy,
            begin=self._begin,
            commit=partial(self._commit, None),
            probing=probing(look, record.id),
            listen=look.listening() if deploy.edge else 0,
            progress=Progress(call.output),
            credentials=credentials(call.vault),
            registry=call.stack.registry or "",
            timeout=self.timeout,
            warnings=unordered(document.body),
        )

    def _on_compose(self) -> ComposePipeline:
        records, ready, record, look = self.records, self.ready, self.ready.record, self.ready.look
        maintained = records.maintained

        def configure(release: str) -> EdgeConfiguration:
            assert ready.document.template is not None  # a release with an edge has one
            return look.edge_configuration(ready.document.template, release, maintenance=maintained)

        earlier = opened_if_possible(self.call, records, records.current)
        previous_port = earlier.template.port if earlier and earlier.template else look.deploy.port
        taking = partial(Takeover, handover=ready.handover, note=partial(records.note_handover, record.id))
        return (taking if ready.handover.holders else ComposePipeline)(
            release=record.label,
            before=ready.before,
            compose=ready.compose,
            configuration=ready.configuration,
            previous=self._previous(earlier),
            previous_port=previous_port,
            deploy=look.deploy,
            look=look,
            configure=configure,
            begin=self._begin,
            commit=partial(self._commit, look),
            counts=ready.counts,
            commanding=ready.commanding,
            progress=Progress(self.call.output),
            lock=self.held,
            begun=self.begun,
            maintained=maintained,
            timeout=self.timeout,
        )

    def _previous(self, document: Document | None) -> Compose | None:
        """Return the Compose of the release that serves, with which its services can be brought back."""
        if document is not None:
            return compose_of(self.ready.compose, document)
        risky = [one.service for one in self.ready.found if one.strategy in ("recreate", "replace")]
        current = self.records.current
        if current is not None and risky:
            said = f"warning: {current.id} cannot be decrypted with the keys here"
            self.call.output.say(f"{said}: if this fails, {', '.join(risky)} could not be restored")
        return None
