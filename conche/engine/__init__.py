"""The Docker engine: connection, compose argv, health, images. Only this package imports docker."""
