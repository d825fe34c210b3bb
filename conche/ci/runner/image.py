"""The runners' images: whether they are what their sources are now, and what they are built from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conche.ci.workflows.runners import Runner
from conche.command import Invocation
from conche.engine import images
from conche.engine.builds import ServiceBuild, base_images, build
from conche.engine.compose import Compose
from conche.outcome import Action, Kind, Step
from conche.output import Progress
from conche.supply.build import sources_of
from conche.supply.fetch import fetch

__all__ = ["Images"]

MISSING = "no such image on the engine"

OUTDATED = "it was built from other sources"


@dataclass(frozen=True)
class Images:
    """The images of an environment's runners that its Compose files build.

    Nothing else ever builds them anew: they are in no registry, and in no release.

    Attributes:
        rendered: Compose's rendering of the files; nothing if no image is built.
        building: image -> a service that builds it, with its label, and why it has to be built.
    """

    call: Invocation
    compose: Compose
    rendered: Mapping[str, Any]
    building: Mapping[str, tuple[ServiceBuild, str]]

    @classmethod
    def look(cls, call: Invocation, compose: Compose, found: Sequence[Runner]) -> Images:
        """Look which images have to be built."""
        built = [runner.service for runner in found if runner.built]
        compose = compose.with_every_profile()
        rendered = compose.configuration(hashed=False).rendered if built else {}
        services = {rendered["services"][name]["image"]: name for name in reversed(built)}
        building = {}
        for image, name in sorted(services.items()):
            labels = sources_of(call.stack, call.root, rendered["services"][name]["build"])
            there = images.find(compose.engine, image)
            if there is None or not labels.items() <= there.labels.items():
                cause = MISSING if there is None else OUTDATED
                building[image] = ServiceBuild(name, image, labels=labels), cause
        return cls(call, compose, rendered, building)

    @property
    def outdated(self) -> list[str]:
        """The images that the engine has, built from other sources than there are now."""
        return [image for image, (_, cause) in self.building.items() if cause == OUTDATED]

    def absent_bases(self) -> list[str]:
        """Return the base images that the builds need and the engine does not have."""
        wanted = [base_images(self.rendered, one.service) for one, _ in self.building.values()]
        named = dict.fromkeys(base for bases in wanted for base in bases)
        return [base for base in named if images.find(self.compose.engine, base) is None]

    def plan(self) -> list[Step]:
        """Plan what has to be pulled and built."""
        pulls = [
            Step(Action.PULL, Kind.IMAGE, base, "the runners' image is built from it") for base in self.absent_bases()
        ]
        return [*pulls, *(Step(Action.BUILD, Kind.IMAGE, image, cause) for image, (_, cause) in self.building.items())]

    def make(self, progress: Progress) -> None:
        """Pull and build.

        Raises:
            Unreachable: a base image cannot be had.
            BuildFailed: with the step that failed.
        """
        for base in self.absent_bases():
            fetch(self.call.vault, self.compose.engine, base, progress, anew=False)
        for image, (wanted, _) in self.building.items():
            progress.step(f"building {image}")
            build(self.compose, self.rendered, wanted, progress.detail)
