"""A release on Docker Swarm: the same files, by `docker stack deploy`; the whole stack goes on, or back.

Swarm starts a new task before it stops the old one, and rolls a service back that fails. What it leaves open is done
here: convergence is waited for, what runs is compared with what was sent, and if one service fails all go back.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from conche.command import Invocation
from conche.engine import networks, swarm
from conche.engine.compose import Compose
from conche.engine.connection import Engine, translated
from conche.engine.transfer import Credentials
from conche.env.deploy import edge as edges
from conche.env.deploy.document import Document
from conche.env.deploy.look import Look
from conche.env.deploy.plan import Change
from conche.env.deploy.records import Ending, Record, Records, Result
from conche.env.deploy.view import open_records, opened_if_possible
from conche.errors import Interrupted, NotRestored, Refused, Restored, Told
from conche.files import private_folder, write_atomic
from conche.images.login import credentials
from conche.outcome import Plan, Step
from conche.output import Progress
from conche.process import signals_deferred
from conche.stack import Deploy

__all__ = ["SwarmPipeline", "open_swarm", "plan_swarm", "settle_swarm", "swarm_changes", "to_stack"]

PASSED = (
    "cap_add", "cap_drop", "command", "dns", "entrypoint", "environment", "extra_hosts", "healthcheck", "hostname",
    "image", "init", "labels", "logging", "read_only", "stop_grace_period", "stop_signal", "sysctls", "tmpfs",
    "ulimits", "user", "working_dir",
)  # fmt: skip
"""What Swarm takes of a service as Compose renders it. The rest it refuses, or would silently not do."""

SETTLING = 180.0
"""Seconds to converge, where the healthchecks do not say more."""

PAUSE = 0.5


class Ready(Protocol):
    """A release that is ready to be carried out, as release.py has it."""

    @property
    def record(self) -> Record: ...
    @property
    def document(self) -> Document: ...
    @property
    def compose(self) -> Compose: ...


@dataclass(frozen=True)
class Sent:
    """What is handed to Swarm.

    Attributes:
        secrets: key -> content, of Swarm secrets that the document names by content.
        configs: the same for configurations.
    """

    body: Mapping[str, Any]
    secrets: Mapping[str, bytes] = field(repr=False)
    configs: Mapping[str, bytes] = field(default_factory=dict)

    def content(self, names: Mapping[str, str]) -> bytes:
        """The document, with the names under which Swarm has its secrets and configurations."""
        body = json.loads(json.dumps(self.body))
        for kind, given in (("secrets", self.secrets), ("configs", self.configs)):
            if given:
                body[kind] = {key: {"external": True, "name": names[key]} for key in given}
        return json.dumps(body).encode()


def to_stack(
    document: Document, deploy: Deploy, edge: edges.Configuration | None, overlays: Collection[str] = ()
) -> Sent:
    """A release's document as Swarm takes it.

    Args:
        overlays: networks of the swarm that are there already.
        edge: the edge's configuration, which on Swarm is a configuration of its own and not in a volume.

    Raises:
        Refused: something of it cannot be done by Swarm.
    """
    rendered = document.body
    outside = {key: said for key, said in (rendered.get("networks") or {}).items() if said.get("external")}
    for key, network in outside.items():
        if network["name"] not in overlays:
            raise Refused(
                "network-not-swarm",
                f"The network {key} is external; Swarm needs networks of its own (overlay).",
                next_command=f"docker network create --driver overlay --attachable {network.get('name', key)}",
            )
    services = {name: _service(name, body, deploy) for name, body in rendered["services"].items()}
    configs = {}
    if edge is not None and deploy.edge is not None:
        configs = {path.partition("/")[2].replace(".", "-"): content for path, content in edge.files.items()}
        services[deploy.edge]["configs"] = [
            {
                "source": path.partition("/")[2].replace(".", "-"),
                "target": f"{edges.FOLDER}/current/{path.partition('/')[2]}",
            }
            for path in edge.files
        ]
        services[deploy.edge]["volumes"] = [
            one for one in services[deploy.edge].get("volumes", []) if one.get("target") != edges.FOLDER
        ]
    used = {one["source"] for body in services.values() for one in body.get("volumes", []) if one["type"] == "volume"}
    body = {
        "version": "3.8",
        "services": services,
        "networks": {
            key: {"external": True, "name": outside[key]["name"]}
            if key in outside
            else {"driver": "overlay", "attachable": True}
            for key in rendered.get("networks") or {}
        },
        "volumes": {
            key: {"name": said["name"]} for key, said in (rendered.get("volumes") or {}).items() if key in used
        },
    }
    secrets = {
        key: document.variables[said["environment"]].encode()
        for key, said in (rendered.get("secrets") or {}).items()
        if said.get("environment") in document.variables
    }
    return Sent(body, secrets, configs)


def _service(name: str, body: Mapping[str, Any], deploy: Deploy) -> dict[str, Any]:
    taken = {key: body[key] for key in PASSED if body.get(key) is not None}
    if body.get("networks"):
        taken["networks"] = {key: {"aliases": [name]} for key in body["networks"]}
    if body.get("volumes"):
        taken["volumes"] = [
            {key: mount[key] for key in ("type", "source", "target", "read_only") if mount.get(key)}
            for mount in body["volumes"]
        ]
    if body.get("ports"):
        taken["ports"] = [
            {
                "target": port["target"],
                "published": int(port["published"]),
                "protocol": port.get("protocol", "tcp"),
                "mode": "host",
            }
            for port in body["ports"]
        ]
    if body.get("secrets"):
        taken["secrets"] = [
            {**one, "target": one.get("target") or one["source"], "mode": int(str(one.get("mode", "0444")), 8)}
            for one in body["secrets"]
        ]
    return {**taken, "deploy": _placement(body, beside=_beside(name, body, deploy), deploy=deploy)}


def _beside(name: str, body: Mapping[str, Any], deploy: Deploy) -> bool:
    """Whether a new task may stand beside the old one: not on one port of a host, and not on one database's volume."""
    return name == deploy.serves or not (body.get("ports") or body.get("volumes"))


def _placement(body: Mapping[str, Any], *, beside: bool, deploy: Deploy) -> dict[str, Any]:
    said = body.get("deploy") or {}
    order = {
        "order": "start-first" if beside else "stop-first",
        "monitor": f"{max(1, round(deploy.observe))}s",
        "parallelism": 1,
    }
    placement = {
        "mode": "replicated",
        "replicas": int(said.get("replicas") or 1),
        # Names lead to the tasks themselves: that needs no routing mesh, which a kernel may lack.
        "endpoint_mode": "dnsrr",
        "update_config": {**order, "failure_action": "rollback"},
        "rollback_config": order,
        "restart_policy": {"condition": "any", "delay": "1s"},
    }
    limits = (said.get("resources") or {}).get("limits") or {}
    memory = limits.get("memory") or body.get("mem_limit")
    if memory:
        placement["resources"] = {"limits": {"memory": str(memory)}}
    return placement


def swarm_changes(
    found: Sequence[swarm.Replicated], record: Record, current: Record | None, *, forced: bool
) -> tuple[Change, ...]:
    """What becomes of each service: Swarm itself decides by the definition, which is compared here."""
    running = {one.name: one for one in found}
    changes = []
    for name, placed in record.services.items():
        before = current.services.get(name) if current else None
        if name not in running:
            change = Change(name, "create", "has no service", "none: it does not run yet")
        elif before is None or before.definition != placed.definition or before.image != placed.image:
            change = Change(name, "update", "its definition or image changed", "by its update order")
        elif not running[name].settled or forced:
            change = Change(name, "update", "asked for" if forced else "is not settled", "by its update order")
        else:
            change = Change(name, "keep", "", "none")
        changes.append(change)
    return tuple(changes)


def plan_swarm(release: str, found: Sequence[Change], deploy: Deploy, current: Record | None) -> Plan:
    """The steps of a release on Swarm; none where nothing changes."""
    if all(change.strategy == "keep" for change in found):
        return Plan()
    before = current.id if current else "nothing"
    steps = [
        Step("record", f"release {release}", "before anything is changed"),
        Step("provide", f"secrets of {release}", "named by their content"),
        Step("update", f"stack to {release}", f"from {before}", undo=f"update stack to {before}"),
        Step("await", f"release {release}", "every service has to converge to what was sent"),
    ]
    if deploy.edge is not None:
        steps.append(Step("probe", f"release {release}", "through the edge"))
    return Plan(
        (*steps, Step("commit", f"release {release}", "it serves"), Step("sweep", "secrets", "nothing uses them"))
    )


@dataclass
class SwarmPipeline:
    """One release on its way to a swarm; the counterpart of Pipeline, with the same outcome.

    Args:
        sent: what this release hands to Swarm.
        previous: the same of the release that serves; None for the first.
        credentials: for the nodes that have to pull.
        reports: whether an answer comes from a release.
    """

    release: str
    engine: Engine
    stack: str
    sent: Sent
    previous: Sent | None
    deploy: Deploy
    begin: Callable[[], None]
    commit: Callable[[], None]
    reports: Callable[[str, str], bool]
    listen: int
    progress: Progress
    credentials: Credentials | None = None
    timeout: float | None = None
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    recorded: bool = False
    committed: bool = False
    switched_after: float = 0.0
    _sent: bool = False

    def carry_out(self, plan: Plan) -> None:
        """Take every step.

        Raises:
            Restored: it failed; the stack is as it was before, and has converged.
            NotRestored: it failed, and the stack did not come back.
            Interrupted: after going back.
        """
        begun = self.clock()
        take: Mapping[str, Callable[[], None]] = {
            "record": self._record,
            "provide": lambda: None,
            "update": lambda: self.hand_over(self.sent),
            "await": lambda: self.wait(self.sent),
            "probe": self._probe,
            "commit": self._commit,
            "sweep": lambda: swarm.sweep(self.engine, self.stack, frozenset(self._names(self.sent).values())),
        }
        try:
            for step in plan:
                self.progress.step(f"{step} ({step.cause})")
                take[step.action]()
                if step.action == "await":
                    self.switched_after = self.clock() - begun
        except BaseException as error:
            if self.committed:
                raise
            with signals_deferred():
                problem = self._go_back()
            raise self._told(error, problem) from error

    def _record(self) -> None:
        with signals_deferred():
            self.begin()
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
        """Let Swarm have this; it goes on by itself from there."""
        self._sent = True
        content = sent.content(self._names(sent))
        with private_folder() as folder:
            extra = {}
            if self.credentials is not None:
                write_atomic(folder / "config.json", _docker_config(self.credentials, sent), mode=0o600)
                extra = {"DOCKER_CONFIG": str(folder), "DOCKER_HOST": self.engine.address}
            done = swarm.deploy(self.engine, self.stack, content, extra, self.progress.detail)
        if not done.ok:
            raise Restored("stack-refused", "Swarm does not take the stack.", evidence=done.last_lines(8))

    def wait(self, sent: Sent) -> None:
        """Wait until what runs is what was sent."""
        wanted = {name: body["image"] for name, body in sent.body["services"].items()}
        deadline = self.clock() + (self.timeout or SETTLING)
        while True:
            seen = {one.name: one for one in swarm.services(self.engine, self.stack)}
            reverted = [one for one in seen.values() if one.reverted and sent is self.sent]
            if reverted:
                raise self._failure(reverted, "Swarm has rolled the update back")
            # The image that runs is compared: an update that was rolled back counts as settled, too.
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

    def _probe(self) -> None:
        """Through the edge's own container, where it runs on this node."""
        container = self._edge_container()
        if container is None:
            self.progress.step("the edge runs on another node: it is not asked")
            return
        edge = edges.Edge(self.engine, container, self.listen)
        probe, row, answers = self.deploy.probe, 0, list[str]()
        deadline = self.clock() + 15.0
        while row < probe.times:
            status, body = edge.probe(probe.path)
            right = 200 <= status < 300 and self.reports(body, self.release)
            row = row + 1 if right else 0
            answers.append(f"{probe.path}: {status or 'no answer'} {body[:200]}")
            if not right and self.clock() > deadline:
                raise Restored(
                    "probe-failed",
                    "The new release does not answer its users as it should.",
                    evidence=list(dict.fromkeys(answers[-3:])),
                )
            if not right:
                self.pause(PAUSE)

    def _edge_container(self) -> str | None:
        label = f"com.docker.swarm.service.name={self.stack}_{self.deploy.edge}"
        with translated(self.engine.address):
            found = self.engine.client.api.containers(filters={"label": label, "status": "running"})
        return str(found[0]["Id"]) if found else None

    def _go_back(self) -> str:
        """Bring the whole stack back; what went wrong, or an empty string."""
        if not self._sent:
            return ""
        try:
            if self.previous is None:
                self.progress.step("unwinding: remove the stack")
                swarm.remove(self.engine, self.stack)
                return ""
            self.progress.step("unwinding: update the stack to what it was")
            self.hand_over(self.previous)
            self.wait(self.previous)
        except (Exception, Told) as error:  # noqa: BLE001 - whatever it is, the first error is the one to show
            return str(error)
        return ""

    def _told(self, error: BaseException, problem: str) -> BaseException:
        if not isinstance(error, Told):
            return error
        if problem:
            return NotRestored(
                "previous-state-lost",
                f"{error.message} The release before could not be brought back.",
                evidence=[problem, *error.evidence],
                next_command=f"docker stack services {self.stack}\ndocker service ps --no-trunc {self.stack}_SERVICE",
            )
        if isinstance(error, Restored | Refused | Interrupted):
            return error
        return Restored(error.code, f"{error.message} What served before still serves.", evidence=error.evidence)


def _docker_config(credentials: Credentials, sent: Sent) -> bytes:
    """Docker's settings with one login, for the nodes that pull; it lives as long as the command that hands it over."""
    import base64

    pair = base64.b64encode(f"{credentials.user}:{credentials.password.reveal()}".encode()).decode()
    hosts = {body["image"].partition("/")[0] for body in sent.body["services"].values() if "/" in body["image"]}
    return json.dumps({"auths": {host: {"auth": pair} for host in hosts}}).encode()


def open_swarm(
    call: Invocation,
    records: Records,
    ready: Ready,
    deploy: Deploy,
    begin: Callable[[], None],
    commit: Callable[[], None],
) -> SwarmPipeline:
    """The pipeline of a release that is ready, on its swarm."""
    engine, stack = ready.compose.engine, ready.compose.project
    swarm.require(engine)
    current = records.current
    kept = opened_if_possible(call, records, current)
    look = Look(ready.record.environment, ready.compose, deploy, ready.document.body)
    known = credentials(call.stack, call.root)
    return SwarmPipeline(
        release=ready.record.id,
        engine=engine,
        stack=stack,
        sent=_sent(call, look, ready.document),
        previous=_sent(call, replace(look, rendered=kept.body), kept) if kept else None,
        deploy=deploy,
        begin=begin,
        commit=commit,
        reports=look.reports,
        listen=look.listening() if deploy.edge else 0,
        progress=Progress(call.output),
        credentials=known,
    )


def _sent(call: Invocation, look: Look, document: Document) -> Sent:
    """What a release hands to Swarm; there the edge finds the service by its own name, of whatever release."""
    edge = None
    if look.deploy.edge is not None:
        edge = edges.configure(
            call.root / look.deploy.template if look.deploy.template else None,
            # The same for every release: another configuration would stop the edge to start it anew.
            release="swarm",
            upstream=f"{look.deploy.serves}:{look.deploy.port}",
            listen=look.listening(),
            drain=look.deploy.drain,
            maintenance=False,
        )
    return to_stack(document, look.deploy, edge, networks.overlays(look.compose.engine))


def settle_swarm(call: Invocation, records: Records, compose: Compose, deploy: Deploy, name: str) -> Records:
    """Settle a release that was killed: finished where all of it runs, else the stack goes back to the one before."""
    unfinished = records.unfinished
    if unfinished is None:
        return records
    call.output.say(f"{unfinished.id} was interrupted ({unfinished.who} on {unfinished.where}): settling it first")
    seen = {one.name: one for one in swarm.services(compose.engine, compose.project)}
    finished = seen.keys() >= unfinished.services.keys() and all(
        seen[one].settled and seen[one].image == placed.image for one, placed in unfinished.services.items()
    )
    current = records.current
    kept = opened_if_possible(call, records, current)
    if not finished and kept is not None and current is not None:
        look = Look(name, compose, deploy, kept.body)
        sent = _sent(call, look, kept)
        pipeline = SwarmPipeline(
            current.id, compose.engine, compose.project, sent, None, deploy, _nothing, _nothing, look.reports, 0,
            Progress(call.output), credentials(call.stack, call.root),
        )  # fmt: skip
        pipeline.hand_over(sent)
        pipeline.wait(sent)
    ended = datetime.now(UTC).isoformat(timespec="milliseconds")
    result = Result.SUCCEEDED if finished else Result.INTERRUPTED
    records.end(unfinished, Ending(result.value, ended, 0.0, "" if finished else "it was interrupted, and taken back"))
    return open_records(call, compose)


def _nothing() -> None:
    return None
