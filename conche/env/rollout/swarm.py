"""Carries out a release on Docker Swarm: the same files, by `docker stack deploy`; the whole stack goes on, or back.

Swarm starts a new task before it stops the old one, and rolls back a service that fails. This module does what Swarm
leaves open: it waits for convergence, compares what runs with what was sent, and takes all services back if one fails.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from conche.command import Invocation
from conche.engine import networks, oneoff, stacks, swarm
from conche.engine.connection import Engine, translated
from conche.engine.stacks import Standing
from conche.engine.transfer import Credentials
from conche.env.rollout import edge as edges
from conche.env.rollout.look import Look
from conche.env.rollout.probing import Probing
from conche.env.rollout.swarm_stack import Sent, to_stack
from conche.env.rollout.swarm_way_back import SETTLING, WayBack
from conche.errors import ConcheError, Interrupted, NotRestored, Refused, Restored, Told
from conche.files import private_folder, write_atomic
from conche.outcome import Action, Plan
from conche.output import Progress
from conche.process import signals_deferred
from conche.release.document import Document
from conche.stack import Deploy

__all__ = ["SwarmPipeline", "docker_config", "probing", "sent_of"]


PAUSE = 0.5

ASKING = 60
"""Seconds after which a container that asks the edge ends by itself."""


@dataclass
class SwarmPipeline:
    """One release on its way to a swarm; the counterpart of Pipeline, with the same outcome.

    Args:
        sent: what this release hands to Swarm.
        credentials: for the nodes that have to pull from `registry`, and for no other registry.
        probing: how the release is asked.
        begin: writes the record, with the stack that is there before.
    """

    release: str
    engine: Engine
    stack: str
    sent: Sent
    deploy: Deploy
    begin: Callable[[bytes], None]
    commit: Callable[[], None]
    probing: Probing
    listen: int
    progress: Progress
    credentials: Credentials | None = None
    registry: str = ""
    timeout: float | None = None
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    recorded: bool = False
    committed: bool = False
    switched_after: float = 0.0
    warnings: list[str] = field(default_factory=list)
    _before: Standing | None = None

    def carry_out(self, plan: Plan) -> None:
        """Take every step.

        Raises:
            Restored: it failed; the stack is as it was before, and has converged.
            NotRestored: it failed, and the stack did not come back.
            Interrupted: after going back.
        """
        begun = self.clock()
        take: Mapping[Action, Callable[[], object]] = {
            Action.RECORD: self._record,
            Action.PROVIDE: lambda: self._names(self.sent),
            Action.UPDATE: lambda: self.hand_over(self.sent),
            Action.AWAIT: lambda: self.wait(self.sent),
            Action.PROBE: self.probe,
            Action.COMMIT: self._commit,
            Action.SWEEP: lambda: swarm.sweep(self.engine, self.stack, frozenset(self._names(self.sent).values())),
        }
        try:
            for step in plan:
                self.progress.step(f"{step} ({step.cause})")
                take[step.action]()
                if step.action == Action.AWAIT:
                    self.switched_after = self.clock() - begun
        except BaseException as error:
            if self.committed:
                raise
            with signals_deferred():
                problem = self._go_back()
            raise self._told(error, problem) from error

    def _record(self) -> None:
        with signals_deferred():
            # Observed under the lock, and before anything of this release is there; kept with its record, so that a
            # release that is killed can be taken back.
            self._before = stacks.standing(self.engine, self.stack)
            self.begin(self._before.packed())
            self.recorded = True

    def _commit(self) -> None:
        with signals_deferred():
            self.commit()
            self.committed = True

    def _names(self, sent: Sent) -> dict[str, str]:
        given = [("secret", sent.secrets), ("config", sent.configs)]
        return {
            key: swarm.provide(self.engine, self.stack, kind, key, content)
            for kind, several in given
            for key, content in several.items()
        }

    def hand_over(self, sent: Sent) -> None:
        """Hand this to Swarm, which goes on by itself from there."""
        content = sent.content(self._names(sent))
        with private_folder() as folder:
            extra = {}
            if self.credentials is not None:
                write_atomic(folder / "config.json", docker_config(self.credentials, self.registry), mode=0o600)
                extra = {"DOCKER_CONFIG": str(folder), "DOCKER_HOST": self.engine.address}
            done = swarm.deploy(self.engine, self.stack, content, extra, self.progress.detail)
        if not done.ok:
            raise Restored("stack-refused", "Swarm rejects the stack.", evidence=done.last_lines(8))

    def wait(self, sent: Sent) -> None:
        """Wait until what runs is what was sent."""
        wanted = {name: body["image"] for name, body in sent.body["services"].items()}
        deadline = self.clock() + (self.timeout or SETTLING)
        while True:
            seen = {one.name: one for one in swarm.services(self.engine, self.stack)}
            reverted = [one for one in seen.values() if one.reverted and sent is self.sent]
            if reverted:
                raise self._failure(reverted, "Swarm has rolled the update back")
            broken = [one for one in seen.values() if one.broken and one.image == wanted.get(one.name)]
            if broken:
                raise self._failure(broken, "failed, and its restart policy does not restart it")
            # Images have to be compared: an update that was rolled back counts as settled, too.
            if seen.keys() >= wanted.keys() and all(
                one.settled and one.image == wanted[one.name] for one in seen.values() if one.name in wanted
            ):
                return
            if self.clock() > deadline:
                slow = [one for one in seen.values() if not one.settled or one.image != wanted.get(one.name)]
                raise self._failure(slow, "did not converge")
            self.pause(PAUSE)

    def _failure(self, services: Sequence[swarm.Replicated], said: str) -> Restored:
        return Restored(
            "release-failed",
            f"{', '.join(one.name for one in services)}: {said}.",
            evidence=[
                f"{one.name}: {one.running} of {one.wanted} run; {one.message} {' '.join(one.errors)}".strip()
                for one in services
            ],
            next_command=f"docker service ps --no-trunc {self.stack}_{services[0].name}" if services else "",
        )

    def probe(self) -> None:
        """Probe through the edge: from its own container or, if that is on another node, from one in its network."""
        container = self._edge_container()
        if container is not None:
            self._ask(edges.Edge(self.engine, container, self.listen))
            return
        self.progress.step("the edge runs on another node: probing it over its network")
        body = self.sent.body["services"][self.deploy.edge]
        key = next(iter(body["networks"]))
        network = str(self.sent.body["networks"][key].get("name") or f"{self.stack}_{key}")
        # curl asks as it does inside the edge, but connects to the edge's task.
        files = {".curlrc": f'connect-to = "::tasks.{self.stack}_{self.deploy.edge}:"\n'.encode()}
        try:
            with oneoff.within(self.engine, str(body["image"]), network, files, ASKING) as there:
                self._ask(edges.Edge(self.engine, there, self.listen))
        except Restored:
            raise
        except ConcheError as error:
            raise Restored(
                "probe-failed",
                "The edge runs on another node, so the new release cannot be probed from here.",
                evidence=[error.message, *error.evidence],
                next_command=f"docker network inspect {network}    # is it attachable, and does it reach every node?",
            ) from error

    def _ask(self, edge: edges.Edge) -> None:
        said = "The new release does not answer its users correctly."
        self.probing.require(edge, said, 15.0, times=self.probing.probe.times)

    def _edge_container(self) -> str | None:
        label = f"com.docker.swarm.service.name={self.stack}_{self.deploy.edge}"
        with translated(self.engine.address):
            found = self.engine.client.api.containers(filters={"label": label, "status": "running"})
        return str(found[0]["Id"]) if found else None

    def _go_back(self) -> str:
        """Bring every service back as it was, remove what has come since, and return what went wrong, if anything."""
        if self._before is None:
            return ""
        way = WayBack(self.engine, self.stack, self.progress.step, self.timeout, self.clock, self.pause)
        return way.go(self._before)

    def _told(self, error: BaseException, problem: str) -> BaseException:
        if not isinstance(error, Told):
            return error
        if problem:
            return NotRestored(
                "previous-state-lost",
                f"{error.message} What ran before could not be restored.",
                evidence=[problem, *error.evidence],
                next_command=f"docker stack services {self.stack}\ndocker service ps --no-trunc {self.stack}_SERVICE",
            )
        if isinstance(error, Restored | Refused | Interrupted):
            return error
        return Restored(error.code, f"{error.message} What served before still serves.", evidence=error.evidence)


def docker_config(credentials: Credentials, registry: str) -> bytes:
    """Return Docker's settings with one login, for the nodes that pull; they live as long as the command using them.

    Args:
        registry: the one registry that the credentials are for; no other is told them.
    """
    import base64

    pair = base64.b64encode(f"{credentials.user}:{credentials.password.reveal()}".encode()).decode()
    return json.dumps({"auths": {registry: {"auth": pair}}}).encode()


def sent_of(call: Invocation, look: Look, document: Document, replicas: Mapping[str, int]) -> Sent:
    """Return what a release hands to Swarm; there the edge finds the service by its own name, in every release.

    Args:
        replicas: service -> tasks that env.scale wants; an earlier release may not know of it.
    """
    edge = None
    if look.deploy.edge is not None:
        edge = edges.configure(
            document.template or edges.read_template(call.root, look.deploy),
            # The same for every release: another configuration would make Swarm replace the edge.
            release="swarm",
            upstream=f"{look.deploy.serves}:{look.deploy.port}",
            listen=look.listening(),
            maintenance=False,
        )
    return to_stack(document.scaled(replicas), look.deploy, edge, networks.overlays(look.compose.engine))


def probing(look: Look, release: str) -> Probing:
    return Probing(look.probe_of(release), release, look.right, look.compose.redact, look.name)
