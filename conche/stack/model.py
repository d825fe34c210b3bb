"""What stack.yaml may say: one typed, frozen model. A namespace's section slots in as a further field of `Stack`."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, field_validator, model_validator
from pydantic_core import PydanticCustomError

from conche.addresses import address_of, meet
from conche.errors import did_you_mean
from conche.files import write_atomic
from conche.stack.backup import Backup, Notifications
from conche.stack.deploy import Deploy, FilePath, FolderPath, Port
from conche.stack.section import Name, SecretName, Section, VariableName

__all__ = [
    "FORMAT",
    "TRIAL",
    "Base",
    "Environment",
    "Htpasswd",
    "Image",
    "Login",
    "Pipeline",
    "SecretDeclaration",
    "Secrets",
    "Stack",
    "is_here",
    "schema",
    "write_schema",
]

FORMAT = 1
"""The format of stack.yaml that this version reads, and writes in new ones."""

TRIAL = "-trial"
"""Suffix of the Compose project in which a new container is tried; no environment's project ends with it."""

Repository = Annotated[str, Field(pattern=r"^[a-z0-9]+([._/-][a-z0-9]+)*$")]
RegistryHost = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+(:[0-9]{1,5})?$")]
Project = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=63)]
Profile = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=63)]
Tag = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
HttpUrl = Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
HealthUrl = Annotated[
    str,
    Field(pattern=r"^https?://[^\s]+$"),
    WithJsonSchema({"type": "string", "pattern": r"^(https?://|/)[^\s]*$"}),
]
OwnerAndName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$")]
ActionsSecret = Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")]
EngineAddress = Annotated[str, Field(pattern=r"^(swarm|(swarm\+)?(ssh|tcp|unix|npipe)://[^\s]+)$")]


def is_here(host: str) -> bool:
    """Whether a registry's host means the machine of whoever asks: this one for us, its own for an engine."""
    name = host.rsplit(":", 1)[0]
    return name == "localhost" or re.fullmatch(r"127(\.\d{1,3}){3}", name) is not None


class Image(Section):
    """An image this repository builds."""

    dockerfile: FilePath = Field(description="Dockerfile, relative to stack.yaml")
    context: FolderPath = Field(default=Path(), description="build context, relative to stack.yaml")
    repository: Repository = Field(description="name in the registry, without host and tag")


class Base(Section):
    """How a base image is made from Debian's packages on a host that can pull it from nowhere."""

    suite: Name = Field(description="Debian release, for example bookworm")
    packages: tuple[str, ...] = Field(description="packages it contains besides Debian's essential ones")
    command: tuple[str, ...] = Field(
        default=("/bin/sh",), min_length=1, description="default command of its containers"
    )


class Login(Section):
    """Which secrets open the private registry."""

    user: SecretName = Field(description="secret with the user's name")
    password: SecretName = Field(description="secret with the password")


class Environment(Section):
    """A set of services that run together: dev, prod, git."""

    compose: tuple[FilePath, ...] = Field(min_length=1, description="Compose files, in the order Compose merges them")
    project: Project | None = Field(default=None, description="Compose project; default: <stack name>-<environment>")
    tag: Tag = Field(default="latest", description="tag of this stack's images in this environment")
    branch: str | None = Field(default=None, description="git branch that is deployed here")
    port: Port | None = Field(default=None, description="published port of the application")
    publish: str = Field(default="127.0.0.1", description="address on which ports are published")
    health: HealthUrl | None = Field(
        default=None,
        description="URL that answers 2xx when the application works; a path means one at `port` of this machine",
    )
    protected: bool = Field(default=False, description="destructive tasks ask for the environment's name")
    engine: EngineAddress | None = Field(
        default=None,
        description="address of the Docker engine, for example ssh://deploy@host; default: the current one."
        " `swarm`, or swarm+ssh://…: its swarm",
    )
    profiles: tuple[Profile, ...] = Field(default=(), description="Compose profiles that belong to it")
    deploy: Deploy = Field(default_factory=Deploy, description="how releases reach this environment")

    @field_validator("health", mode="before")
    @classmethod
    def _health_with_a_port(cls, value: object) -> object:
        if isinstance(value, str) and value.startswith("/"):
            raise PydanticCustomError("path_without_port", "a URL; a path needs `port`, and an engine on this machine")
        return value

    @property
    def swarm(self) -> bool:
        """Whether its services run on Docker Swarm."""
        return (self.engine or "").startswith("swarm")

    @property
    def managed_by_releases(self) -> bool:
        """Whether only releases change what runs: there an edge decides what serves, or a swarm runs it."""
        return self.deploy.edge is not None or self.swarm

    @property
    def address(self) -> str:
        """Where its ports are published; a swarm publishes on every address."""
        return "" if self.swarm else self.publish


class SecretDeclaration(Section):
    """One secret: where its value goes, who uses it, and where it comes from."""

    env: VariableName | None = Field(default=None, description="environment variable; default: the name in upper case")
    path: str | None = Field(default=None, min_length=1, description="its keys in the encrypted file, joined by dots")
    outputs: tuple[Literal["env", "file"], ...] = Field(
        default=("env",), description="env: a line of .env; file: docker/secrets/<name>.txt, mounted at /run/secrets"
    )
    environments: tuple[Name, ...] = Field(default=(), description="environments that use it; default: all")
    services: tuple[str, ...] = Field(default=(), description="services to restart when it changes")
    owner: int | None = Field(default=None, ge=0, description="user id that owns its file; default: whoever renders it")
    required: bool = Field(default=True, description="whether its environments refuse to start without it")
    required_with: tuple[Profile, ...] = Field(
        default=(), description="Compose profiles with which it is required, if not always"
    )
    sealed: bool = Field(
        default=True, description="whether a release keeps its value; false: its containers get the present one"
    )
    generate: Literal["hex16", "hex20", "hex32", "password"] | None = Field(
        default=None, description="how --generate makes a value; none if a person gets it elsewhere"
    )
    source: str = Field(default="", description="where a person gets it")
    renew: str = Field(default="", description="commands by which the server that keeps it makes a new value")
    development: str | None = Field(
        default=None, description="value used without a key, in unprotected environments; never secret"
    )

    @model_validator(mode="after")
    def _unsealed_in_a_file(self) -> SecretDeclaration:
        if not self.sealed and self.outputs != ("file",):
            raise PydanticCustomError(
                "unsealed_variable", "`outputs: [file]` with `sealed: false`: a release keeps every variable"
            )
        return self

    def is_required(self, profiles: Collection[str]) -> bool:
        """Whether an environment with these Compose profiles needs it."""
        return (
            self.required or ("*" in profiles and bool(self.required_with)) or bool({*self.required_with} & {*profiles})
        )

    def variable(self, name: str) -> str:
        """The environment variable of the secret `name`."""
        return self.env or name.upper()


class Htpasswd(Login):
    """A password file for a server, made of two secrets: `<secrets.folder>/<name>.txt`, one line, bcrypt."""

    services: tuple[str, ...] = Field(default=(), description="services to restart when it changes")
    owner: int | None = Field(default=None, ge=0, description="user id that owns the file; default: whoever renders it")


class Secrets(Section):
    """The encrypted file and what is in it."""

    file: Path = Field(default=Path("secrets.enc.yaml"), description="the encrypted file")
    files: Mapping[Name, Path] = Field(
        default_factory=dict, description="encrypted files of single environments, each with its own recipients"
    )
    folder: Path = Field(default=Path("docker/secrets"), description="where secret files are written")
    demonstration: tuple[str, ...] = Field(
        default=(), description="age recipients of a public demonstration key; protected environments refuse them"
    )
    declared: Mapping[SecretName, SecretDeclaration] = Field(default_factory=dict, description="the secrets, by name")
    htpasswd: Mapping[SecretName, Htpasswd] = Field(
        default_factory=dict, description="password files made of declared secrets, by name"
    )

    @property
    def all_files(self) -> tuple[Path, ...]:
        """Every encrypted file, once; `file` only where it is said, or nothing else is."""
        own = (self.file,) if "file" in self.model_fields_set or not self.files else ()
        return tuple(dict.fromkeys((*own, *self.files.values())))


class Pipeline(Section):
    """The workflows, the server that runs them, and what its runners can do."""

    workflows: Path = Field(default=Path(".gitea/workflows"), description="folder of the workflow files")
    server: HttpUrl | None = Field(default=None, description="address of Gitea or Forgejo; default: git's origin")
    repository: OwnerAndName | None = Field(default=None, description="owner/name there; default: git's origin")
    secrets: tuple[ActionsSecret, ...] = Field(
        default=("SOPS_AGE_KEY",),
        description="Actions secrets that workflows may use; ci.secrets stores them on the server",
    )
    labels: tuple[str, ...] = Field(default=(), description="labels of runners that no Compose file here describes")


class Stack(Section):
    """What stack.yaml says."""

    format: int = Field(
        default=FORMAT, ge=1, le=FORMAT, description="format of this file; raised when a key changes its meaning"
    )
    name: Name = Field(description="name of the stack; prefix of its Compose projects")
    registry: RegistryHost | None = Field(
        default=None, description="host[:port] of the private registry; default: none, images stay on their engines"
    )
    login: Login | None = Field(
        default=None, description="secrets that open the registry; default: what `docker login` has stored"
    )
    images: Mapping[Name, Image] = Field(default_factory=dict, description="images built from this repository")
    bases: Mapping[str, Base] = Field(
        default_factory=dict, description="base images that images.base can make, by the name a Dockerfile asks for"
    )
    secrets: Secrets | None = Field(default=None, description="the encrypted file and the secrets in it")
    backup: Backup | None = Field(default=None, description="what is backed up, where to, and how long it is kept")
    notifications: Notifications | None = Field(default=None, description="who is notified when a command ends")
    ci: Pipeline = Field(default_factory=Pipeline, description="workflows, their server and its secrets")
    environments: Mapping[Name, Environment] = Field(min_length=1, description="environments, by name")

    @model_validator(mode="after")
    def _projects_differ(self) -> Stack:
        taken: dict[str, str] = {}
        for name in self.environments:
            project = self.project(name)
            other = taken.setdefault(project, name)
            if other != name or project.endswith(TRIAL):
                reason = (
                    f"environments {other} and {name} share {project}"
                    if other != name
                    else f"{project} is reserved for trials"
                )
                raise PydanticCustomError("project_twice", "another Compose project: {reason}", {"reason": reason})
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Stack:
        published = [(name, one) for name, one in self.environments.items() if one.port is not None]
        for (other, had), (name, one) in combinations(published, 2):
            if (had.engine, had.port) == (one.engine, one.port) and meet(had.address, one.address):
                raise PydanticCustomError(
                    "port_twice",
                    "another port: environments {other} and {name} both publish {port} on one engine",
                    {"other": other, "name": name, "port": one.port},
                )
        return self

    @model_validator(mode="after")
    def _secrets_declared(self) -> Stack:
        declared = self.secrets.declared if self.secrets else {}
        pairs = {"login": self.login} if self.login else {}
        pairs |= {f"secrets.htpasswd.{n}": p for n, p in (self.secrets.htpasswd if self.secrets else {}).items()}
        for path, pair in pairs.items():
            for name in (pair.user, pair.password):
                if name not in declared:
                    raise PydanticCustomError(
                        "secret_undeclared",
                        "declared secrets in {path}: {name} is not declared.{hint}",
                        {"path": path, "name": name, "hint": did_you_mean(name, declared)},
                    )
        return self

    @model_validator(mode="after")
    def _secrets_of_environments(self) -> Stack:
        for name in self.secrets.files if self.secrets else ():
            if name not in self.environments:
                raise PydanticCustomError(
                    "no_such_environment",
                    "an environment of this file in secrets.files.{name}.{hint}",
                    {"name": name, "hint": did_you_mean(name, self.environments)},
                )
        return self

    @model_validator(mode="after")
    def _backup_names_what_there_is(self) -> Stack:
        for name, component in (self.backup.components if self.backup else {}).items():
            if component.environment is not None and component.environment not in self.environments:
                raise PydanticCustomError(
                    "no_such_environment",
                    "an environment of this file in backup.components.{name}.{hint}",
                    {"name": name, "hint": did_you_mean(component.environment, self.environments)},
                )
        return self

    def within(self, environment: str) -> Stack:
        """The same, with the encrypted file of one environment; of one of its own, with what belongs in there."""
        if self.secrets is None:
            return self
        said = self.secrets
        used = {n: d for n, d in said.declared.items() if not d.environments or environment in d.environments}
        own = {"file": said.files[environment], "declared": used} if environment in said.files else {"file": said.file}
        return self.model_copy(update={"secrets": said.model_copy(update={**own, "files": {}})})

    def project(self, environment: str) -> str:
        """The Compose project of an environment."""
        return self.environments[environment].project or f"{self.name}-{environment}"

    def reference(self, image: str, environment: str) -> str:
        """The full reference of an image in an environment: registry/repository:tag, without a registry the rest."""
        named = f"{self.images[image].repository}:{self.environments[environment].tag}"
        return f"{self.registry}/{named}" if self.registry else named

    @property
    def own_registry(self) -> str | None:
        """The environment that is the registry: it publishes the registry's port here. None where no one of them is."""
        host, _, port = (self.registry if self.registry and is_here(self.registry) else "").rpartition(":")
        found = [name for name, one in self.environments.items() if str(one.port) == port]
        return next((one for one in found if meet(self.environments[one].address, address_of(host))), None)


def schema() -> dict[str, Any]:
    """The JSON Schema of a stack file, for editors; checked in as conche/stack.schema.json."""
    model = Stack.model_json_schema()
    for section in model["properties"].values():
        if "patternProperties" in section:
            section["additionalProperties"] = False  # a name that breaks the pattern is no name
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **model}


def write_schema(folder: Path = Path(__file__).parents[1]) -> bool:
    """Write the schema into the package; returns whether it changed."""
    return write_atomic(folder / "stack.schema.json", (json.dumps(schema(), indent=2) + "\n").encode())
