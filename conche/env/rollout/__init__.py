"""Releases: deploy, roll back, remember. One rule: whatever happens, the version that worked keeps serving."""
