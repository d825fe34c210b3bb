"""Gets images onto an engine: their references, registry, builds and bases."""
