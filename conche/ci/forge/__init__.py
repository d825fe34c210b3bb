"""Gitea and Forgejo through their HTTP APIs: what they have in common, and what only some versions can do."""

from conche.ci.forge.forge import Forge
from conche.ci.forge.values import Run, ServerJob, ServerRunner
from conche.ci.forge.where import connect, repository

__all__ = ["Forge", "Run", "ServerJob", "ServerRunner", "connect", "repository"]
