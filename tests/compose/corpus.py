"""The corpus: small Compose files as data, alone and laid together into larger ones."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = [
    "CASES",
    "FILES",
    "KEYS",
    "REFUSED",
    "VARIANTS",
    "Case",
    "choice",
    "filled",
    "laid_together",
    "released",
    "table",
    "variants",
]

REFUSED = "refused"
"""The group of what Compose or some engines and kernels refuse; both must refuse alike."""

VARIANTS = "variants"
"""The group of further uses of keys, each with a service of its own."""

KEYS = frozenset(
    re.findall(
        r"\w+",
        """
    annotations attach blkio_config build cap_add cap_drop cgroup cgroup_parent command configs container_name
    cpu_count cpu_percent cpu_period cpu_quota cpu_rt_period cpu_rt_runtime cpu_shares cpus cpuset credential_spec
    depends_on deploy develop device_cgroup_rules devices dns dns_opt dns_search domainname entrypoint env_file
    environment expose extends external_links extra_hosts group_add healthcheck hostname image init ipc isolation
    labels links logging mac_address mem_limit mem_reservation mem_swappiness memswap_limit network_mode networks
    oom_kill_disable oom_score_adj pid pids_limit platform ports privileged profiles pull_policy read_only restart
    runtime scale secrets security_opt shm_size stdin_open stop_grace_period stop_signal storage_opt sysctls tmpfs
    tty ulimits user userns_mode uts volumes volumes_from working_dir
        """,
    )
)
"""Those of a service: https://github.com/compose-spec/compose-spec/blob/main/schema/compose-spec.json"""

SLEEPS: Mapping[str, Any] = {
    "image": "python:3.11-slim-bookworm",
    "command": ["sleep", "infinity"],
    "init": True,
    "stop_grace_period": "0s",
}
"""What a service has that a file says nothing of."""


@dataclass(frozen=True)
class Case:
    """One file of the corpus.

    Attributes:
        group: what stands in one may be said of one service.
        name: the key that it is for, perhaps with what is said of it after a dash.
    """

    group: str
    name: str
    document: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.group}.{self.name}"

    __repr__ = __str__


def _read() -> tuple[Mapping[str, str], tuple[Case, ...]]:
    # Every worker reads it to collect the tests, and the loader in C does so in a tenth of the time.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    said = yaml.load(Path(__file__).with_name("corpus.yaml").read_text(encoding="utf-8"), Loader=loader)
    files = said.pop("files")
    return files, tuple(Case(group, name, one) for group, cases in said.items() for name, one in cases.items())


FILES, CASES = _read()


def filled(document: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with what its services do where it does not say it."""
    services = {name: _filled(body) for name, body in document["services"].items()}
    return {**document, "services": services}


def _filled(body: Mapping[str, Any]) -> dict[str, Any]:
    left_out: Collection[str] = ("image",) if "build" in body else ()
    return {**{key: value for key, value in SLEEPS.items() if key not in left_out}, **body}


def laid_together(cases: Iterable[tuple[Case, str]]) -> dict[str, Any]:
    """One file of several: what each says of `it` is said of the service of that name."""
    whole: dict[str, Any] = {}
    for case, name in cases:
        services = {name if one == "it" else one: body for one, body in case.document["services"].items()}
        whole = _merged(whole, {**case.document, "services": services})
    return whole


def choice() -> dict[str, Any]:
    """One file in which every group is one service: each key once, but for those that may be refused."""
    return laid_together((case, f"it-{case.group}") for case in CASES if case.group not in (REFUSED, VARIANTS))


def variants() -> dict[str, Any]:
    """One file of all further uses, each of which is a service."""
    return laid_together((case, f"it-{case.name}") for case in CASES if case.group == VARIANTS)


def released() -> dict[str, Any]:
    """The same without what is built, which a release wants to find."""
    left_out = (REFUSED, VARIANTS, "built")
    return laid_together((case, f"it-{case.group}") for case in CASES if case.group not in left_out)


def _merged(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, Mapping):
        return {**one, **{key: _merged(one[key], value) if key in one else value for key, value in other.items()}}
    if isinstance(one, list) and isinstance(other, list):
        return [*one, *(value for value in other if value not in one)]
    return other


def table() -> str:
    """The corpus as a table for people: each key, and as what it is tried."""
    rows = sorted((one.name, _written(one)) for one in CASES if one.name in KEYS)
    return "| key | tried as |\n|---|---|\n" + "".join(f"| `{key}` | `{said}` |\n" for key, said in rows)


def _written(case: Case) -> str:
    """What a case says of the service that has its key, on one line."""
    body = next(one for one in case.document["services"].values() if case.name in one)
    text = yaml.safe_dump(body, default_flow_style=True, width=10_000, sort_keys=False).strip()
    return text.removeprefix("{").removesuffix("}").replace("|", "\\|")
