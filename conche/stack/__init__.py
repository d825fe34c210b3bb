"""stack.yaml -> `Stack`: one typed, frozen model, read in one place.

A bad file is refused with every problem at once, each with its line, its path in the file, the value that stands there,
what was expected and, where one is close, the word that was probably meant. Sections of other namespaces slot in as
further fields of `Stack`.
"""

from conche.stack.backup import KINDS, Backup, Component, Kind, Minimum, Notifications, Offsite, Retention
from conche.stack.model import (
    TRIAL,
    Base,
    Deploy,
    Environment,
    Hook,
    Htpasswd,
    Image,
    Login,
    Pipeline,
    Probe,
    SecretDeclaration,
    Secrets,
    Stack,
    is_here,
    schema,
    write_schema,
)
from conche.stack.reading import FILE, Problem, StackInvalid, load, parse

__all__ = [
    "FILE",
    "KINDS",
    "TRIAL",
    "Backup",
    "Base",
    "Component",
    "Deploy",
    "Environment",
    "Hook",
    "Htpasswd",
    "Image",
    "Kind",
    "Login",
    "Minimum",
    "Notifications",
    "Offsite",
    "Pipeline",
    "Probe",
    "Problem",
    "Retention",
    "SecretDeclaration",
    "Secrets",
    "Stack",
    "StackInvalid",
    "is_here",
    "load",
    "parse",
    "schema",
    "write_schema",
]
