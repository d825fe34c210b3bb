"""Environments: bring up, look at, take down."""
