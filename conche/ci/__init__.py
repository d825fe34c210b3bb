"""invoke ci.*: workflows that are checked before the push, run here, and watched on the server."""
