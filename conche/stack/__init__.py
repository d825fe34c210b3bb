"""Reads stack.yaml into `Stack`: one typed, frozen model.

A bad file is refused with all its problems at once, each with its line, its path in the file, the value found there,
what was expected and, if a known word is close, the one that was probably meant. Sections of other namespaces are
further fields of `Stack`.
"""

from conche.stack.backup import KINDS, Backup, BackupKind, Component, Minimum, Notifications, Offsite, Retention
from conche.stack.deploy import Deploy, Hook, Probe
from conche.stack.model import (
    TRIAL,
    Base,
    Environment,
    Htpasswd,
    Image,
    Login,
    Pipeline,
    SecretDeclaration,
    Secrets,
    Stack,
    is_here,
    schema,
    write_schema,
)
from conche.stack.reading import FILE, StackInvalid, StackProblem, load, parse

__all__ = [
    "FILE",
    "KINDS",
    "TRIAL",
    "Backup",
    "BackupKind",
    "Base",
    "Component",
    "Deploy",
    "Environment",
    "Hook",
    "Htpasswd",
    "Image",
    "Login",
    "Minimum",
    "Notifications",
    "Offsite",
    "Pipeline",
    "Probe",
    "Retention",
    "SecretDeclaration",
    "Secrets",
    "Stack",
    "StackInvalid",
    "StackProblem",
    "is_here",
    "load",
    "parse",
    "schema",
    "write_schema",
]
