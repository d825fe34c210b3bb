"""The documented roads on real servers: `nox -s real`, or `python -m tests.real SERVER …`. pytest collects none of it.

A server has a module of its own, whose `ROAD` says which images it needs and walks the documentation as a user would.
"""
