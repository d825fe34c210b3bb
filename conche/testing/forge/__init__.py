"""A Gitea or Forgejo of one version, as far as Actions go: a real HTTP server with that version's routes."""

from conche.testing.forge.git import go_on
from conche.testing.forge.server import serve
from conche.testing.forge.state import PROFILES, FakeForge, FakeJob, FakeRun

__all__ = ["PROFILES", "FakeForge", "FakeJob", "FakeRun", "go_on", "serve"]
