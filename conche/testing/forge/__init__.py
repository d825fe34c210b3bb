"""A stand-in for one version of Gitea or Forgejo, limited to Actions: a real HTTP server with that version's routes."""

from conche.testing.forge.git import go_on
from conche.testing.forge.server import serve
from conche.testing.forge.state import PROFILES, FakeForge, FakeJob, FakeRelease, FakeRun

__all__ = ["PROFILES", "FakeForge", "FakeJob", "FakeRelease", "FakeRun", "go_on", "serve"]
