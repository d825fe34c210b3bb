"""Backups: create, verify, restore, prove it, keep it running."""
