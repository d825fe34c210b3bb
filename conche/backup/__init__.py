"""Backups: create, verify and restore them, prove that they work, and run them on a schedule."""
