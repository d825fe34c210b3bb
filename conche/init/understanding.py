"""Look at a repository: everything that stack.yaml can say about it, and what cannot be decided by looking."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from conche.errors import ConcheError
from conche.init import facts, files, pipeline
from conche.init.compose import Rendered, accepts, render
from conche.init.env_files import example_of
from conche.init.environments import ProposedEnvironment, candidates, named_projects, slug
from conche.init.facts import Health
from conche.init.running import left_behind, projects
from conche.init.sealed import Chosen, SopsFile, choose, sops_files, spellings
from conche.init.secrets import Declared, declared, in_dotenv
from conche.init.variables import required, variables
from conche.init.volumes import Data, proposals
from conche.vault import keys
from conche.vault.dotenv import parse

__all__ = ["Understanding", "understand"]


@dataclass(frozen=True)
class Understanding:
    """What was learnt about a repository.

    Attributes:
        name: of the stack.
        rendered: environment -> its files as Compose renders them.
        data: environment and data; what several share only for the environment that counts most.
        sops: the SOPS files, and which of them secrets.* can work on.
        secrets: how their values are used.
        secrets_folder: where Compose looks for their files; empty if it looks for none.
        keyed: whether an age key was found that may open it.
        dotenv: variables of .env that are named like secrets.
        mentioned: variables that the Compose files mention.
        dockerfiles: those that no Compose file builds.
        registries: hosts of private registries in the names of images.
        warnings: what may not be intended, and files that were left out.
    """

    root: Path
    name: str
    environments: Sequence[ProposedEnvironment]
    rendered: Mapping[str, Rendered]
    health: Mapping[str, Health]
    data: Sequence[tuple[str, Data]]
    sops: Chosen
    secrets: Sequence[Declared]
    secrets_folder: str
    keyed: bool
    dotenv: Sequence[str]
    mentioned: frozenset[str]
    pipeline: pipeline.WorkflowFacts
    dockerfiles: Sequence[Path]
    registries: Sequence[str]
    pulled_from: str
    warnings: Sequence[str] = field(default=())


def understand(root: Path) -> Understanding:
    """Look at the whole repository once.

    Raises:
        NotFound: there is no Compose file.
        Refused: Compose does not accept the files, .env is not UTF-8, or no engine could bring the services up.
    """
    dotenv = files.read(root, ".env") if (root / ".env").is_file() else ""
    found = files.find(root, parse(dotenv).get("COMPOSE_FILE", ""))
    every = (*found.default, *([found.base] if found.base else ()), *found.variants)
    named = {file: files.keys_of(root / file, "services") for file in every}
    mentioned = variables(root, named)
    sealed = sops_files(root, mentioned)
    written = {name for name, value in parse(dotenv).items() if value}
    given = _sealed_values(sealed, required(root, named) - written)
    tried = candidates(found, named, lambda file: accepts(root, (file,), given))
    rendered, left_out = _rendered(root, tried, given)
    kept = [one for one in tried if one.name in rendered]
    name = slug(_named(root, kept[0], rendered[kept[0].name].project))
    there = projects(root, kept, rendered)
    environments = named_projects(kept, name, there.called, there.runs)
    before, rendered = rendered, {one.name: _in_its_project(root, name, one, rendered, given) for one in environments}
    chosen = choose(sealed, [one.name for one in environments])
    known = {*parse(dotenv), *(_every_name(sealed) if files.decrypts_into_dotenv(root) else ())}
    secrets = _declared(chosen, mentioned, rendered, known)
    registries, pulled_from = _registries(rendered)
    return Understanding(
        root=root,
        name=name,
        environments=environments,
        rendered=rendered,
        health={one: url for one, said in rendered.items() if (url := facts.health(said))},
        data=list(_data(root, environments, rendered)),
        sops=chosen,
        secrets=secrets,
        secrets_folder=_folder(root, {one.name for one in secrets if one.file}, rendered),
        keyed=_keyed(root),
        dotenv=in_dotenv(dotenv),
        mentioned=mentioned,
        pipeline=pipeline.look(root, rendered),
        dockerfiles=list(_unbuilt(root, rendered)),
        registries=registries,
        pulled_from=pulled_from,
        warnings=[
            *(f"{file} is left out: by its name it is an example, or from before" for file in found.examples),
            *left_out,
            *left_behind(environments, before, rendered),
            *_warnings(root, rendered, {one.variable or one.name.upper() for one in secrets}),
            *_unwritten(rendered, bool(secrets)),
        ],
    )


def _named(root: Path, first: ProposedEnvironment, project: str) -> str:
    """Return what a stack is called after: its Compose project, unless that only has the name of a usual folder.

    Two repositories with their Compose files in `docker` would be one stack, with one state on this machine.
    """
    folder = first.files[0].parent.name
    return root.name if folder in files.FOLDERS and project == folder else project


def _warnings(root: Path, rendered: Mapping[str, Rendered], given: Collection[str]) -> list[str]:
    """Return each warning once, without Compose's about variables that the secrets will set."""
    said = [one for name, document in rendered.items() for one in facts.troubles(root, name, document)]
    unset = [f'The "{name}" variable is not set' for name in given]
    kept = [one for one in dict.fromkeys(said) if not any(words in one for words in unset)]
    example = "" if (root / ".env").exists() else example_of(root, ".env")
    if example and any("variable is not set" in one for one in kept):
        kept.append(f"there is no .env: cp {example} .env, and fill in what it leaves open, then: conche init")
    return kept


def _unwritten(rendered: Mapping[str, Rendered], sealed: bool) -> list[str]:
    """Say how a missing .env that services read as it is can be written from the secrets."""
    lacking = any(".env" in files for said in rendered.values() for files in said.lacking.values())
    return ["there is no .env: invoke secrets.render writes it from the secrets"] if sealed and lacking else []


def _sealed_values(sealed: Sequence[SopsFile], wanted: Collection[str]) -> dict[str, str]:
    """Return something for the variables that Compose insists on and that a SOPS file has."""
    there = {one for file in sealed for name, path in file.paths.items() for one in spellings(name, path)}
    return dict.fromkeys(sorted(there & {*wanted}), "encrypted by sops")


def _rendered(
    root: Path, tried: Sequence[ProposedEnvironment], given: Mapping[str, str]
) -> tuple[dict[str, Rendered], list[str]]:
    """Render each environment; variants that Compose does not accept are left out, and returned in words."""
    rendered: dict[str, Rendered] = {}
    left_out: list[str] = []
    refused: ConcheError | None = None
    for one in tried:
        try:
            said = render(root, one.files, given)
        except ConcheError as error:
            if one is tried[0]:
                raise
            refused = error
            words = "; ".join(error.evidence) or error.message
            left_out.append(f"{', '.join(map(str, one.files))} is left out: Compose rejects it: {words}")
            continue
        facts.refuse_impossible(one.name, said, one.files)
        rendered[one.name] = said
    if not rendered and refused is not None:
        raise refused
    return rendered, left_out


def _in_its_project(
    root: Path, stack: str, one: ProposedEnvironment, rendered: Mapping[str, Rendered], given: Mapping[str, str]
) -> Rendered:
    """Return the files as Compose renders them for the project that the environment will have."""
    project = one.project or f"{stack}-{one.name}"
    found = rendered[one.name]
    return found if found.project == project else render(root, one.files, given, project)


def _data(
    root: Path, environments: Sequence[ProposedEnvironment], rendered: Mapping[str, Rendered]
) -> Iterator[tuple[str, Data]]:
    """Yield data by environment, beginning with one that keeps existing volumes; shared data only once.

    Of services that several environments have, each protected environment's data are proposed; others are offered.
    """
    sources: set[str] = set()
    names: set[str] = set()
    for one in sorted(environments, key=lambda one: (bool(one.rival), not one.protected)):
        said = rendered[one.name]
        for data in proposals(root, said.services, said.document.get("volumes") or {}):
            if data.source not in sources:
                named = _again(one, data) if data.name in names else data
                sources.add(named.source)
                names.add(named.name)
                yield one.name, named


def _again(one: ProposedEnvironment, data: Data) -> Data:
    """Return data under the environment's name, since another environment has such data too."""
    name = slug(f"{one.name}-{data.name}")
    if one.protected or not data.driver:
        return replace(data, name=name)
    return replace(data, name=name, driver="", choice=data.driver, why=f"{data.why}, of another environment")


def _folder(root: Path, names: Collection[str], rendered: Mapping[str, Rendered]) -> str:
    """Return the folder in which Compose looks for the first of these secrets."""
    for one in rendered.values():
        for said in (one.document.get("secrets") or {}).values():
            file = Path(str((said or {}).get("file") or ""))
            if file.stem in names and file.is_relative_to(root):
                return str(file.parent.relative_to(root))
    return ""


def _keyed(root: Path) -> bool:
    try:
        return keys.find(root) is not None
    except ConcheError:
        return False


def _every_name(sealed: Sequence[SopsFile]) -> Iterator[str]:
    """Yield the names of the values as they stand in the files, at whatever depth."""
    return (path[-1] for file in sealed for path in file.paths.values())


def _declared(
    chosen: Chosen, mentioned: Collection[str], rendered: Mapping[str, Rendered], dotenv: Collection[str]
) -> list[Declared]:
    secrets = {key: said for one in rendered.values() for key, said in (one.document.get("secrets") or {}).items()}
    services = {key: body for one in rendered.values() for key, body in one.services.items()}
    return declared(chosen, tuple(rendered), mentioned, secrets, services, dotenv)


def _unbuilt(root: Path, rendered: Mapping[str, Rendered]) -> Iterator[Path]:
    """Yield Dockerfiles at the top and one folder below that no service is built from."""
    built = set()
    for one in rendered.values():
        for body in one.services.values():
            said = body.get("build") or {}
            built.add((Path(str(said.get("context") or root)) / (said.get("dockerfile") or "Dockerfile")).resolve())
    patterns = ("Dockerfile", "*.Dockerfile", "Dockerfile.*", "*/Dockerfile", "*/*.Dockerfile", "*/Dockerfile.*")
    paths = sorted({path for pattern in patterns for path in root.glob(pattern) if path.is_file()})
    for path in paths[: files.MOST_FILES]:
        if path.resolve() not in built and not path.name.endswith(".dockerignore"):
            yield path.relative_to(root)


def _registries(rendered: Mapping[str, Rendered]) -> tuple[list[str], str]:
    """Return the hosts of private registries in images' names, and the first that an image is only pulled from."""
    hosts: dict[str, None] = {}
    pulled = ""
    for said in rendered.values():
        for body in said.services.values():
            host, slash, _ = str(body["image"]).partition("/")
            if slash and re.fullmatch(r"localhost(:\d+)?|[A-Za-z0-9.-]+:\d+", host):
                hosts[host] = None
                pulled = pulled or ("" if body.get("build") else host)
    return list(hosts), pulled
