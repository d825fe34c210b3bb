"""invoke images.tag"""

from __future__ import annotations

from conche.command import Invocation
from conche.images.chosen import chosen
from conche.images.promote import Move, carry_out
from conche.outcome import Outcome
from conche.supply.login import open_registry, registry_of
from conche.supply.reference import Reference, parse

__all__ = ["tag"]


def tag(call: Invocation, source: str, new: str, *, image: str | None) -> Outcome:
    """Give an image in the registry, named by tag or digest, another tag."""
    own = chosen(call, next(iter(call.stack.environments)), image)[0]
    repository = parse(own.reference).repository
    bare = Reference(registry_of(call.stack), repository)
    wanted, target = bare.at(source).wanted, bare.tagged(new)
    registry = open_registry(call.vault)
    move = Move(target, registry.manifest(repository, wanted), registry.digest(repository, new), "asked for")
    return carry_out(call, registry, [move], "")
