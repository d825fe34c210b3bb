"""How an image comes onto an engine: its name, its registry, its build, its bases."""
