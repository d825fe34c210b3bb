"""The programs in a service's container that dump a component, load its dump, and count what is there.

For `command` they are in stack.yaml. For each database there is one shell script beside this module, which is run in
the container as `sh -c SCRIPT DRIVER VERB DATABASE USER`: it knows the variables of the official images, so no password
is in stack.yaml or in an argv. Its verbs are the fields of `Programs`.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path

from conche.stack import Component

__all__ = ["Programs", "has_server", "leaves_scratch", "programs_of", "stopping"]

WITHOUT_SERVER = ("sqlite",)
"""Databases that are files of an application.

Their programs run in a container beside it, of the same image and with the same mounts, so that it can stop while its
database is replaced. A trial loads into a scratch file, not into a copy of the service.
"""


SCRATCHING = ("redis",)
"""Databases whose programs make a folder in the container, /tmp/conche-backup-NUMBER, and remove it."""


@dataclass(frozen=True)
class Programs:
    """The argvs of a component.

    Attributes:
        dump: writes the dump to stdout.
        save: writes what is there now, as the way back of a restore; that there is nothing is no error.
        restore: reads a dump from stdin, and replaces what is there by it.
        check: answers how much is there, so that it can be compared; may be empty.
        version: answers the server's name and version; empty if it is not known.
        ready: exits with 0 once a new server takes data; empty without a server.
        trial: reads a dump from stdin, loads it into a scratch file and answers as `check` does; empty with a server.
    """

    dump: tuple[str, ...]
    save: tuple[str, ...]
    restore: tuple[str, ...]
    check: tuple[str, ...]
    version: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()
    trial: tuple[str, ...] = ()


def programs_of(component: Component) -> Programs:
    """Return the programs of a component whose driver has any; its own `check` goes before the driver's."""
    if component.driver == "command":
        return Programs(component.dump, component.dump, component.restore, component.check)
    script = _script(component.driver)

    def verb(name: str) -> tuple[str, ...]:
        return ("sh", "-c", script, component.driver, name, component.database, component.user)

    check = component.check or verb("check")
    programs = Programs(verb("dump"), verb("save"), verb("restore"), check, verb("version"))
    return replace(programs, ready=verb("ready")) if has_server(component) else replace(programs, trial=verb("trial"))


def has_server(component: Component) -> bool:
    """Return whether the service of a component is what dumps and loads it, and has to run for that."""
    return component.driver not in WITHOUT_SERVER


def leaves_scratch(component: Component) -> bool:
    """Return whether programs of a component leave a folder in its container if they are killed."""
    return component.driver in SCRATCHING


def stopping(component: Component) -> tuple[str, ...]:
    """Return the services that stop while a running program loads the data of a component."""
    return (
        component.services
        if has_server(component) or component.service is None
        else (*component.services, component.service)
    )


@functools.cache
def _script(driver: str) -> str:
    return (Path(__file__).parent / f"{driver}.sh").read_text(encoding="utf-8")
