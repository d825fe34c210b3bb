"""invoke ci.runner.*: the runners that the Compose files describe."""
