"""Looks after the data in an environment's InfluxDB."""
