"""Looking after the data of an environment's InfluxDB."""
