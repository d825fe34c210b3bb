"""Looks up what a release is made of: files, secrets and images, before any lock is taken or anything is changed."""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from conche.command import Invocation
from conche.engine import host, images
from conche.engine.bombs import refuse_bombs
from conche.engine.compose import Compose, Configuration
from conche.engine.connection import Engine
from conche.engine.images import LocalImage
from conche.engine.written import named_in
from conche.env.contents import ungiven
from conche.env.preflight import never_pulled
from conche.env.rollout import lint
from conche.env.rollout.edge import read_template
from conche.env.rollout.fingerprints import fingerprinted, marks, unsealed
from conche.env.rollout.read_contents import read_contents, with_configs
from conche.errors import NotFound, Refused, Unreachable
from conche.release.document import Document, Template, definition, make, shape
from conche.release.records import Placed, Record, who
from conche.secret import SECRET_NAME, Secret
from conche.session import open_compose
from conche.stack import Deploy
from conche.supply.fetch import fetch
from conche.supply.inventory import REVISION
from conche.supply.login import open_registry
from conche.supply.own import in_registry, own_images
from conche.supply.reference import Reference, parse
from conche.supply.revision import Revision, revision
from conche.units import size
from conche.vault.values import require_with
from conche.vault.vault import fingerprint

__all__ = ["Prepared", "Wanted", "kept_images", "prepare", "pulled", "require_pullable", "see_disk"]


@dataclass(frozen=True)
class Wanted:
    """Which image is asked for.

    Attributes:
        reference: one image, by tag or digest.
        tag: the tag of all own images; default: the environment's.
        local: take what the engine has under that name, without asking a registry.
    """

    reference: str | None = None
    tag: str | None = None
    local: bool = False


@dataclass(frozen=True)
class Prepared:
    """Everything a release is made of, except its number.

    Attributes:
        configuration: what the checkout's files say.
        pins: image reference in the files -> the same by digest.
        found: pinned reference -> the image on the engine; missing where it is still to be pulled.
        secrets: by name.
        contents: config or secret, as `config rules` -> its content.
        named: what the Compose files interpolate, by variable.
        own: image references in the files, of this stack's own images.
        template: the edge's; None without an edge.
        fingerprints: variable or secret -> fingerprint; empty until `fingerprinted`.
        prints: config or secret -> fingerprint of its content; likewise.
        kept: service -> pinned reference it had before, if what is asked for has the same content.
        unsealed: secret of the files -> its name in stack.yaml, if no release keeps its value.
    """

    name: str
    deploy: Deploy
    compose: Compose
    configuration: Configuration
    pins: Mapping[str, str]
    found: Mapping[str, LocalImage]
    secrets: Mapping[str, Secret]
    contents: Mapping[str, bytes] = field(repr=False)
    asked: str
    revision: Revision
    root: str
    named: Mapping[str, Secret]
    own: Collection[str]
    template: Template | None
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    prints: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    swarm: bool = False
    unsealed: Mapping[str, str] = field(default_factory=dict)

    @property
    def _kept_secrets(self) -> Mapping[str, Secret]:
        """The secrets whose values belong to the release."""
        return {name: value for name, value in self.secrets.items() if name not in self.unsealed.values()}

    @property
    def engine(self) -> Engine:
        return self.compose.engine

    @property
    def ungiven(self) -> list[str]:
        """Warnings about owners and modes that its containers do not have; a swarm has them all."""
        return [] if self.swarm else ungiven(self.configuration)

    def fingerprinted(self, salt: bytes) -> Prepared:
        """Return a copy with the fingerprints of its secrets under the environment's salt."""
        values = {**self._kept_secrets, **self.named}
        own = {
            key: content for key, content in self.contents.items() if key.removeprefix("secret ") not in self.unsealed
        }
        return replace(
            self,
            fingerprints={key: fingerprint(salt, value) for key, value in values.items()},
            prints=fingerprinted(salt, own),
        )

    def keeping(self, before: Record | None) -> Prepared:
        """Return a copy that keeps images of the release before if those that are asked for have the same content.

        A build of the same content has another id as soon as a label names another revision.
        """
        asked = {name: self.pins[service.image] for name, service in self.configuration.services.items()}
        kept = kept_images(self.engine, before, asked)
        found = {pin: there for pin in kept.values() if (there := images.find(self.engine, pin))}
        return replace(self, kept=kept, found={**self.found, **found})

    def owned(self, document: Document) -> list[str]:
        """Return the pinned references of this stack's own images in a document of this release."""
        services = document.body["services"]
        return [services[name]["image"] for name, one in self.configuration.services.items() if one.image in self.own]

    def document(
        self, release: str, replicas: Mapping[str, int], before: Document | None, *, forced: bool = False
    ) -> Document:
        """Make the Compose document of the release with this id, building on that of the current one."""
        shown = self.compose.variables
        hidden = [value for variable, value in shown.items() if value and SECRET_NAME.search(variable)]
        hidden += [value.reveal() for value in self._kept_secrets.values()]
        document = make(
            self.configuration.rendered,
            release=release,
            pins=self.pins,
            contents=self.contents,
            marks=marks(self.configuration, self.prints),
            serves=self.deploy.serves,
            replicas=replicas,
            told=[
                name
                for name, one in self.configuration.services.items()
                if one.image in self.own and one.tries and not (one.ends or one.completes)
            ],
            swarm=self.swarm,
            unsealed=self.unsealed,
        )
        document = document.with_images(self.kept)
        # Without an edge --force makes every service anew, so each is told the new release.
        if before is not None and not (forced and self.deploy.serves is None):
            document = document.after(before, self.deploy.serves)
        return replace(document, hidden=tuple(dict.fromkeys(hidden)), template=self.template)

    def record(self, number: int, document: Document, configuration: Configuration) -> Record:
        """Make the record of the release.

        Args:
            configuration: of the document, with Compose's hashes.
        """
        return Record(
            number=number,
            environment=self.name,
            kind="deploy",
            started=datetime.now(UTC).isoformat(timespec="milliseconds"),
            who=who(),
            where=socket.gethostname(),
            asked=self.asked,
            revision=self.revision.name,
            dirty=self.revision.dirty,
            services={
                name: Placed(
                    service.image,
                    self.found[service.image].id if service.image in self.found else "",
                    self.found[service.image].labels.get(REVISION, "") if service.image in self.found else "",
                    definition(document.body, name),
                    tuple(sorted(service.hashes)) if service.replicas != 0 else (),
                    service.ends or service.completes,
                    service.follows,
                )
                for name, service in configuration.services.items()
            },
            files={name: shape(self.configuration.rendered, name, self.root) for name in self.configuration.services},
            fingerprints=self.fingerprints,
            contents=self.prints,
        )


def kept_images(engine: Engine, before: Record | None, asked: Mapping[str, str]) -> dict[str, str]:
    """Return service -> image of the release before, if another one with the same content is asked for.

    Args:
        asked: service -> image reference, pinned.
    """
    earlier = before.services if before is not None else {}
    had = {name: placed.image for name, placed in earlier.items() if name in asked}
    return {
        name: image
        for name, image in had.items()
        if image != asked[name] and _alike(image, asked[name]) and images.same(engine, image, asked[name])
    }


def _alike(one: str, other: str) -> bool:
    """Return whether two references may name builds of one image: by repository, or by an id that names none."""
    names = {parse(text).name for text in (one, other) if not text.startswith("sha256:")}
    return len(names) < 2


def prepare(call: Invocation, name: str, wanted: Wanted, *, allow_dirty: bool) -> Prepared:
    """Look up everything that a release is made of.

    Raises:
        Refused: it cannot be deployed: the files, the tree, the image.
        KeyUnusable: the secrets cannot be read.
    """
    environment = call.environment(name)
    secrets = call.vault.of(name, create=not call.dry_run)
    at = revision(call.root)
    if environment.protected and at.dirty and not allow_dirty:
        raise Refused(
            "tree-dirty",
            f"{at.uncommitted}, and {name} is protected.",
            next_command="git status\ngit commit    # or, if you accept the risk:\n"
            f"invoke env.deploy --env {name} --allow-dirty",
        )
    deploy = environment.deploy
    compose = open_compose(call, name, secrets)
    require_with(call.stack, name, compose.variables.get("COMPOSE_PROFILES", ""), secrets)
    if deploy.overlay:
        compose = replace(compose, files=(*compose.files, *(call.root / file for file in deploy.overlay)))
        refuse_bombs(call.root, compose.files, {**compose.further, **compose.variables})
    configuration = compose.configuration(hashed=False)
    references = {one.image for one in configuration.services.values()}
    described = own_images(call.stack, name, compose, configuration)
    own = {one: image.name for one, image in described.items() if one in references}
    lint.check(configuration, environment, call.root, own)
    if environment.swarm:
        configuration = with_configs(configuration)
    pins, asked = _pins(call, name, configuration, own, wanted)
    if not environment.swarm:  # nodes of a swarm pull by themselves, and know no such policy
        require_pullable(compose.engine, configuration, pins, own)
    contents = read_contents(call, name, compose, configuration, secrets)
    named = {
        variable: Secret(value)
        for variable, value in named_in(compose.files, compose.variables).items()
        if not variable.startswith("CONCHE_")
    }
    found = {pin: there for pin in pins.values() if (there := images.find(compose.engine, pin))}
    return Prepared(
        name, deploy, compose, configuration, pins, found, secrets, contents, asked, at, str(call.root), named,
        tuple(own), read_template(call.root, deploy) if deploy.edge else None, swarm=environment.swarm,
        unsealed=unsealed(call, name, configuration),
    )  # fmt: skip


def see_disk(engine: Engine, what: str) -> None:
    """Check that the engine's disk has room for what is to be done: start or pull."""
    free, needed = host.free_disk(engine), host.MIN_FREE[what]
    if free is not None and free < needed:
        raise Unreachable(
            "disk-full",
            f"The engine's disk has {size(free)} free; {size(needed)} are needed.",
            next_command="invoke images.prune\ndocker system df",
        )


def pulled(call: Invocation, prepared: Prepared) -> Prepared:
    """Pull what is missing, and return a copy that has every image on the engine."""
    missing = [pin for pin in prepared.pins.values() if pin not in prepared.found]
    see_disk(prepared.engine, "pull" if missing else "start")
    if missing:
        with call.output.progress("fetching the release's images") as progress:
            for pin in missing:
                progress.step(f"pull image {pin}")
                fetch(call.vault, prepared.engine, pin, progress)
    found = {pin: image for pin in prepared.pins.values() if (image := images.find(prepared.engine, pin))}
    return replace(prepared, found=found)


def _pins(
    call: Invocation, name: str, configuration: Configuration, own: Mapping[str, str], wanted: Wanted
) -> tuple[dict[str, str], str]:
    """Return each image by digest, and what was asked for."""
    engine = Engine(call.environment(name).engine)
    explicit = parse(wanted.reference) if wanted.reference else None
    if explicit is not None and explicit.name not in {parse(one).name for one in own}:
        raise NotFound(
            "no-such-image",
            f"No service of {name} runs {explicit.name}.",
            looked_at=sorted(own) or ["none of its services runs an image of this stack"],
        )
    pins: dict[str, str] = {}
    asked: list[str] = []
    for reference in dict.fromkeys(service.image for service in configuration.services.values()):
        if reference not in own:
            pins[reference] = _known(engine, reference)
            continue
        at = parse(reference)
        if explicit is not None and explicit.name == at.name:
            at = explicit
        elif wanted.tag:
            at = at.tagged(wanted.tag)
        asked.append(str(at))
        local = wanted.local or not in_registry(call.stack, str(at))
        pins[reference] = _local(engine, at) if local else _pinned(call, at)
    return pins, ", ".join(asked)


def require_pullable(
    engine: Engine, configuration: Configuration, pins: Mapping[str, str], own: Collection[str]
) -> None:
    """Refuse somebody else's image that the engine lacks, if no service of it lets it be pulled."""
    for reference, pin in pins.items():
        users = [one for one in configuration.services.values() if one.image == reference]
        kept_back = reference not in own and not any(one.pulled for one in users)
        if kept_back and images.find(engine, pin) is None:
            raise never_pulled(reference, users)


def _pinned(call: Invocation, at: Reference) -> str:
    registry = open_registry(call.vault)
    return str(at.pinned(registry.manifest(at.repository, at.wanted).digest))


def _local(engine: Engine, at: Reference) -> str:
    found = images.find(engine, str(at))
    if found is None:
        raise NotFound(
            "no-such-image",
            f"The engine does not have {at}.",
            looked_at=[engine.address],
            next_command="invoke images.build\ninvoke images.load FILE",
        )
    known = [text for text in found.digests if parse(text).name == at.name]
    if at.digest:
        return str(at.pinned(at.digest))
    # Of several digests none is more right than another, and no registry is asked: the engine's own id is exact.
    return known[0] if len(known) == 1 else found.id


def _known(engine: Engine, reference: str) -> str:
    """Return somebody else's image by digest, if the engine knows one: a tag may move."""
    found = images.find(engine, reference)
    if found is None or "@" in reference:
        return reference
    return next((text for text in found.digests if parse(text).name == parse(reference).name), reference)
