"""invoke ci.*: check workflows before the push, run them here, and watch them on the server."""
