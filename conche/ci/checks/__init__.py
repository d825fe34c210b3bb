"""What ci.validate checks: our own rules and those of the tools."""
