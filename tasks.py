"""The tasks of this repository: `invoke --list` shows them."""

from conche import namespace

ns = namespace(__file__)
