"""Checks what a Compose file must and must not say for two of its releases to run side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from conche.engine.compose import Configuration
from conche.engine.hashes import joins
from conche.engine.rendered import plain
from conche.env.rollout.swarm_keys import uncarried
from conche.errors import Refused
from conche.stack import Deploy, Environment

__all__ = ["begins_empty", "check", "stays_down"]


def check(configuration: Configuration, environment: Environment, root: Path, own: Mapping[str, str]) -> None:
    """Refuse files that cannot be deployed without losing requests, listing every reason.

    Args:
        environment: its section of stack.yaml. In a protected one bind mounts of the checkout are refused, too; a swarm
            brings secrets and configs into containers by itself.
        own: image references of this stack's own images.
    """
    deploy = environment.deploy
    problems = list(_problems(configuration, deploy, root, own, protected=environment.protected))
    problems += _on_swarm(configuration, deploy) if environment.swarm else _closed(configuration.rendered["services"])
    if problems:
        raise Refused(
            "not-deployable",
            f"The Compose files of {configuration.project} cannot be deployed as they are.",
            evidence=problems,
            next_command="correct them, then: invoke env.deploy --dry-run",
        )


def stays_down(bodies: Mapping[str, Any], deploy: Deploy) -> list[str]:
    """Return warnings if the engine would not start the edge, or what it serves, again after a reboot.

    Args:
        bodies: services of the rendered Compose document.
    """
    return [
        f"{name} has no restart policy: after a reboot of its host it stays down; add restart: unless-stopped"
        for name in (deploy.edge, deploy.serves)
        if name is not None
        and bodies[name].get("restart", "no") == "no"
        and not (bodies[name].get("deploy") or {}).get("restart_policy")
    ]


def begins_empty(bodies: Mapping[str, Any], deploy: Deploy) -> list[str]:
    """Return warnings if what serves keeps files in a volume without a name, which ends with its container.

    Args:
        bodies: services of the rendered Compose document.
    """
    if deploy.edge is None or deploy.serves is None:
        return []
    return [
        f"{deploy.serves} has a volume without a name at {mount['target']}: it begins empty with each release, and is"
        " deleted with the old one; to keep what is written there, name it under `volumes`"
        for mount in bodies[deploy.serves].get("volumes") or []
        if mount["type"] == "volume" and not mount.get("source")
    ]


def _problems(
    configuration: Configuration, deploy: Deploy, root: Path, own: Mapping[str, str], *, protected: bool
) -> Iterator[str]:
    bodies: Mapping[str, Any] = configuration.rendered["services"]
    for name in (deploy.edge, deploy.serves):
        if name is not None and name not in bodies:
            yield f"deploy in stack.yaml names the service {name}, which no Compose file has"
            return
    if deploy.edge is not None and deploy.serves is not None:
        yield from _beside(bodies[deploy.serves], deploy.serves, configuration)
        yield from _reaches(bodies[deploy.edge], bodies[deploy.serves], deploy)
    if protected:
        for name, body in bodies.items():
            for mount in body.get("volumes") or []:
                source = plain(mount.get("source") or "")
                if mount["type"] == "bind" and body["image"] in own and Path(source).is_relative_to(root):
                    yield f"{name} mounts {source} of this checkout: a release is only what its image has"


def _on_swarm(configuration: Configuration, deploy: Deploy) -> Iterator[str]:
    yield from uncarried(configuration.rendered)
    if deploy.release_command:
        yield "deploy.release_command in stack.yaml: release commands are not supported on a swarm"


def _closed(bodies: Mapping[str, Any]) -> Iterator[str]:
    for name, body in bodies.items():
        taken = [kind for kind in ("secrets", "configs") if body.get(kind)]
        if body.get("read_only") and taken:
            yield (
                f"{name} is read_only and uses {' and '.join(taken)}: a release copies them into its containers, and"
                " the engine cannot copy files into a read_only one"
            )


def _beside(body: Mapping[str, Any], name: str, configuration: Configuration) -> Iterator[str]:
    if body.get("container_name"):
        yield f"{name} has a container_name: two releases could not run side by side"
    if body.get("ports"):
        yield f"{name} publishes a port: only the edge may"
    if body.get("network_mode"):
        yield f"{name} has a network_mode: the edge could not reach it by name"
    service = configuration.services[name]
    for other, said in configuration.rendered["services"].items():
        if name in joins(said):
            yield f"{other} is in the network, processes or memory of {name}: it would stay in that of the old release"
    if service.healthcheck is None:
        yield f"{name} has no healthcheck: whether a new release works could not be known"
    if service.replicas == 0:
        yield f"{name} has 0 replicas: the edge would have nothing to send requests to"
    if service.ends or service.completes:
        yield f"{name} is a one-shot: an edge can only serve what keeps running"


def _reaches(edge: Mapping[str, Any], served: Mapping[str, Any], deploy: Deploy) -> Iterator[str]:
    shared = set(edge.get("networks") or {}) & set(served.get("networks") or {})
    if not shared:
        yield f"{deploy.edge} and {deploy.serves} share no network"
    if not edge.get("ports"):
        yield f"{deploy.edge} publishes no port: it would be unreachable"
    port = deploy.trusted_port
    if port is not None and any(one.get("target") == port for one in edge.get("ports") or []):
        yield f"{deploy.edge} publishes port {port}, which is `deploy.trusted_port`: anybody would be believed"
    if not any(mount.get("target") == "/etc/conche/edge" for mount in edge.get("volumes") or []):
        yield f"{deploy.edge} has no volume at /etc/conche/edge, where its configuration is kept"
