"""Gitea and Forgejo by their HTTP API: what they have in common, and what only some of their versions can do."""

from conche.ci.forge.forge import Forge
from conche.ci.forge.values import Job, Run, Runner
from conche.ci.forge.where import connect, repository

__all__ = ["Forge", "Job", "Run", "Runner", "connect", "repository"]
