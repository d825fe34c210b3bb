"""invoke doctor --report: what may stand in a file that a stranger reads."""

from __future__ import annotations

import re
import socket
import stat
import tomllib
from pathlib import Path

import pytest

from conche.command import Invocation
from conche.doctor import report, versions
from conche.doctor.finding import Finding
from conche.errors import NotFound, Refused
from conche.output import Output
from tests.canary import Watch
from tests.env.test_secrets import DECLARED
from tests.stacks import ROOT, SmallStack

CANARY = "canary"
STACK = """\
name: {0}-stack
registry: {0}.example:5000
images: {{{0}-image: {{dockerfile: Dockerfile, repository: {0}/web}}}}
secrets: {{declared: {{{0}_token: {{}}}}}}
environments:
  {0}-dev: {{compose: [{0}.yaml], port: 8001, health: "http://{0}.example/"}}
  {0}-prod: {{compose: [{0}.yaml], engine: "ssh://{0}@{0}.example", deploy: {{edge: {0}, serves: {0}}}}}
backup: {{components: {{{0}-code: {{driver: archive, paths: [{0}]}}}}}}
"""


def call(folder: Path) -> Invocation:
    return Invocation(folder, Output("doctor"))


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """A checkout in which everything has a name that nobody shall read."""
    folder = tmp_path / CANARY
    folder.mkdir()
    for name, content in {"Dockerfile": "FROM x\n", f"{CANARY}.yaml": "services: {}\n"}.items():
        (folder / name).write_text(content)
    (folder / "stack.yaml").write_text(STACK.format(CANARY))
    return folder


def test_the_packages_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["ci"]]

    assert list(versions.PACKAGES) == sorted(re.split(r"[\[>]", one)[0] for one in asked)


def test_a_report_has_the_kinds_of_a_stack_and_none_of_its_names(named: Path) -> None:
    file = report.place(str(named / "report.md"))
    found = [
        Finding("engine", "missing", f"no answer from {CANARY}", f"for {CANARY}", f"ask {CANARY}", code="engine-gone"),
        Finding("sops", "ok", f"sops 3.11 of {CANARY}", "3.11", versions={"sops": "3.11"}),
        Finding("disk", "ok", "7.0 GiB free", "2 GiB", plain=True),
    ]

    report.write(call(named), found, file)

    text = file.read_text()
    assert CANARY not in text
    assert "| engine | missing | error engine-gone |\n| sops | ok | sops 3.11 |\n| disk | ok | 7.0 GiB free |" in text
    assert "- environments: 2; engines: 1 local, 1 ssh\n- with an edge: 1; with hooks: 0\n" in text
    assert "- backup: 1 archive; off-site: no" in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", [f"name: [{CANARY}", f"name: {CANARY} {CANARY}\n", None])
def test_of_a_stack_file_with_faults_only_the_code_is_told(named: Path, content: str | None) -> None:
    (named / "stack.yaml").unlink()
    if content is not None:
        (named / "stack.yaml").write_text(content)

    report.write(call(named), [], file := report.place(str(named / "report.md")))

    assert CANARY not in file.read_text()
    assert f"not read: error stack-{'missing' if content is None else 'invalid'}" in file.read_text()


def test_a_file_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")

    for name in ("mine", "link", "."):
        with pytest.raises(Refused, match="already exists"):
            report.place(str(tmp_path / name))

    assert (tmp_path / "mine").read_text() == "mine"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no folder"):
        report.place(str(tmp_path / "nowhere" / "report.md"))


def test_what_cannot_be_written_is_told(named: Path) -> None:
    with pytest.raises(Refused) as caught:
        report.write(call(named), [], named / ("long" * 100))

    assert caught.value.code == "report-not-written"


@pytest.mark.engine
def test_the_report_of_a_machine_has_neither_its_secrets_nor_its_names(
    small: SmallStack, canary: str, tmp_path: Path
) -> None:
    """Every string that is a name here, or a value, is looked for in the report of the real command."""
    watch = Watch.create(canary, tmp_path / "watch", ("age-key.txt",))
    small.replace("stack.yaml", "environments:\n", DECLARED)
    small.replace("stack.yaml", "registry: localhost:5000", "registry: registry.canary.example:5000")
    environment = {**small.environment(), "LOGNAME": "usercanary", "USER": "usercanary"}
    watch.call(small.argv("secrets.init"), small.folder, environment)
    watch.call(small.argv("secrets.set", "web_token"), small.folder, environment, stdin=canary)
    file = tmp_path / "report.md"

    for options in ((), ("--json",)):
        watch.call(small.argv("doctor", "--report", str(file), *options), small.folder, environment)
        text = file.read_text()
        file.unlink()
        names = (
            socket.gethostname(),
            "canary",
            str(small.folder),
            small.name,
            "registry.",
            "docker.sock",
            "age1",
        )
        assert [name for name in names if name in text.replace("age key", "")] == []
        assert not watch.holds(text)
        assert "| engine | ok | engine " in text

    assert watch.leaks == []


def test_another_conche_on_pythons_path_is_noticed(tmp_path: Path) -> None:
    for name, version in {"older": "0.1.0", "odd": "a|b", "gone": "0.0.1"}.items():
        folder = tmp_path / name / f"conche-{version}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: conche\nVersion: {version}\n")
        if name != "gone":
            (tmp_path / name / "conche").mkdir()
    path = [str(one) for one in sorted(tmp_path.iterdir())]

    assert versions.shadowed(tmp_path / "running/conche", path) == ("0.1.0",)
    assert versions.shadowed(tmp_path / "older/conche", path) == ()
