"""The chocolate factory's application: energy prices, weather and the models made from them.

Import-light on purpose: `python -m app.healthcheck` passes through here every few seconds.
"""

__version__ = "1.0.0"
