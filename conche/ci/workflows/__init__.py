"""Workflow files: read, as values, and what they refer to."""
