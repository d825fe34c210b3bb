"""`conche init`, in folders of strangers: what it writes works, what it refuses it says, and nothing is lost."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from conche.__main__ import main
from conche.stack import parse
from tests.init.test_sealed import SEALED, put
from tests.stacks import ROOT

pytestmark = pytest.mark.process

COMPOSE = """\
services:
  web:
    build: {context: ./web, target: run}
    ports: ["127.0.0.1:18090:8000"]
    environment: {DATABASE_PASSWORD: "${DB_PASSWORD}"}
    healthcheck: {test: [CMD, curl, -f, "http://localhost:8000/health"]}
    depends_on: [db]
    volumes: ["uploads:/uploads", "./content:/content"]
  db:
    image: postgres:16
    volumes: ["db:/var/lib/postgresql/data"]
  debugger: {image: busybox, profiles: [debug]}
volumes: {db: {}, uploads: {}}
"""


class Said(NamedTuple):
    """What a call has written."""

    stdout: str
    stderr: str


@pytest.fixture(autouse=True)
def _no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")


class Folder:
    """A repository, and `conche init` in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()

    def init(self, *words: str, status: int = 0) -> Said:
        """Call it here, with no engine: nothing of this needs one."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.chdir(self.root), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            ended = main(["init", *words])
        assert ended == status, err.getvalue()
        return Said(out.getvalue(), err.getvalue())

    def write(self, name: str, content: str | bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def read(self, name: str) -> str:
        return (self.root / name).read_text()

    def files(self) -> dict[str, bytes]:
        return {str(one.relative_to(self.root)): one.read_bytes() for one in self.root.rglob("*") if one.is_file()}

    def json(self, *words: str, status: int = 0) -> Any:
        return json.loads(self.init("--json", *words, status=status).stdout)


@pytest.fixture
def shop(tmp_path: Path) -> Folder:
    """A stranger's repository; Compose calls its project my-shop."""
    folder = Folder(tmp_path / "My-Shop")
    folder.write("docker-compose.yml", COMPOSE)
    folder.write("web/Dockerfile", "FROM scratch AS run\n")
    folder.write(".env", "DB_PASSWORD=geheim123\n")
    return folder


def uncommented(text: str) -> str:
    """A stack file in which every choice is taken."""
    lines = text.splitlines()[2:]
    return "\n".join(re.sub(r"^(\s*)# (?=\s*[\w-]+:(?: |$))", r"\1", line) for line in lines) + "\n"


def test_it_writes_two_files_that_say_what_there_is_and_shows_it(shop: Folder) -> None:
    before = shop.files()

    said = shop.init()

    after = shop.files()
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"stack.yaml", "tasks.py"}
    stack = parse(shop.read("stack.yaml"), root=shop.root)
    assert (stack.name, stack.project("dev"), stack.registry) == ("my-shop", "my-shop", None)
    assert stack.environments["dev"].health == "http://localhost:18090/health"
    assert stack.backup is not None
    assert {name: (one.driver, one.service or one.volume) for name, one in stack.backup.components.items()} == {
        "db": ("postgres", "db"),
        "uploads": ("volume", "my-shop_uploads"),
    }
    for shown in ("my-shop-web", "web, target run", "127.0.0.1:18090->8000", "DB_PASSWORD", "Next: invoke env.up"):
        assert shown in said.stdout
    assert "geheim123" not in said.stdout + said.stderr + shop.read("stack.yaml")


def test_every_choice_it_leaves_open_could_be_taken(shop: Folder) -> None:
    shop.init()

    stack = parse(uncommented(shop.read("stack.yaml")), root=shop.root)

    assert (stack.registry, stack.environments["dev"].profiles) == ("localhost:5000", ("debug",))
    assert stack.environments["dev"].branch == "develop"
    assert stack.secrets is not None
    assert list(stack.secrets.declared) == ["db_password"]
    assert stack.backup is not None
    assert stack.backup.components["web-content"].paths == ("content",)


def test_a_dry_run_writes_nothing_and_says_the_same(shop: Folder) -> None:
    before = shop.files()

    dry = shop.json("--dry-run")

    assert shop.files() == before
    assert [step["subject"] for step in dry["plan"]] == ["file stack.yaml", "file tasks.py"]
    real = shop.json()
    assert (real["value"], real["plan"]) == (dry["value"], dry["plan"])
    assert (dry["changed"], real["changed"]) == (False, True)
    assert shop.read("stack.yaml") == real["value"]["stack"]


def test_a_second_run_proposes_what_is_new_and_changes_nothing(shop: Folder) -> None:
    shop.init()
    written = shop.files()
    assert "Nothing to do" in shop.init().stdout
    shop.write("docker-compose.prod.yml", "services: {web: {restart: always}}\n")

    said = shop.json()

    assert {name: content for name, content in shop.files().items() if name in written} == written
    assert (said["changed"], said["plan"]) == (False, [])
    proposed = {one["key"]: one["could_be"] for one in said["value"]["proposed"]}
    components = [f"backup.components.prod-{name}" for name in ("db", "uploads")]
    assert sorted(proposed) == [*components, "environments.prod"]
    assert proposed["environments.prod"]["compose"] == ["docker-compose.yml", "docker-compose.prod.yml"]
    assert proposed[components[1]]["volume"] == "my-shop-prod_uploads"


def test_each_protected_environments_data_are_backed_up_under_the_names_that_compose_will_give_them(
    shop: Folder,
) -> None:
    kept = COMPOSE.replace("volumes: {db: {}", "volumes: {db: {name: my-shop_db}")
    for name in ("staging", "prod"):
        shop.write(f"docker-compose.{name}.yml", kept.replace('"127.0.0.1:18090:8000"', ""))

    shop.init()

    stack = parse(shop.read("stack.yaml"), root=shop.root)
    assert stack.backup is not None
    found = {name: (one.environment, one.volume) for name, one in stack.backup.components.items()}
    assert found["uploads"] == ("dev", "my-shop_uploads")
    assert found["prod-uploads"] == ("prod", "my-shop-prod_uploads")
    assert found.keys() == {"db", "uploads", "prod-uploads"}
    chosen = re.sub(r"    (project|compose): .* # (as|alt|`docker).*\n", "", uncommented(shop.read("stack.yaml")))
    every = parse(chosen, root=shop.root).backup
    assert every is not None
    assert every.components["staging-uploads"].volume == "my-shop-staging_uploads"


def test_a_stack_file_with_a_fault_is_told_and_left_alone(shop: Folder) -> None:
    shop.write("stack.yaml", "name: shop\nenvironments: {dev: {compose: [docker-compose.yml], prot: 1}}\n")
    before = shop.files()

    refused = shop.json(status=2)

    assert refused["error"]["code"] == "stack-invalid"
    assert shop.files() == before


def test_a_tasks_file_stays_and_what_it_needs_is_said(shop: Folder) -> None:
    shop.write("tasks.py", "from invoke import task\n")

    said = shop.init()

    assert shop.read("tasks.py") == "from invoke import task\n"
    assert 'ns.add_collection(namespace(__file__), name="conche")' in said.stdout
    assert "Next: invoke conche.env.up" in said.stdout


@pytest.mark.parametrize("ends", ["", "ns = Collection(a)\n"])
def test_what_a_tasks_file_needs_gives_it_the_tasks_and_keeps_its_own(shop: Folder, ends: str) -> None:
    own = f"from invoke import Collection, task\n@task\ndef a(c): pass\n{ends}"
    shop.write("tasks.py", own)
    said = shop.init().stdout
    shop.write("tasks.py", own + "".join(f"{line.strip()}\n" for line in said.splitlines() if line.startswith("  ")))

    argv = [sys.executable, "-m", "invoke", "--list"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    listed = subprocess.run(argv, cwd=shop.root, env=environment, capture_output=True, text=True, check=True).stdout

    assert {"a", "conche.env.up"} <= set(listed.split())


def test_a_sops_file_and_workflows_are_described(shop: Folder) -> None:
    put(shop.root, "secrets.enc.yaml", {"db_password": SEALED, "api_token": SEALED})
    shop.write(
        "docker-compose.yml",
        COMPOSE.replace("    depends_on", "    secrets: [api]\n    depends_on")
        + "secrets: {api: {file: ./private/api_token.txt}}\n",
    )
    job = "jobs: {a: {runs-on: big, steps: [{run: 'true', env: {K: '${{ secrets.DEPLOY_KEY }}'}}]}}\n"
    shop.write(".github/workflows/ci.yml", f"on: push\n{job}")

    shop.init()

    said = yaml.safe_load(shop.read("stack.yaml"))
    assert said["secrets"] == {
        "file": "secrets.enc.yaml",
        "folder": "private",
        "declared": {
            "db_password": {"required": False},
            "api_token": {"outputs": ["file"], "services": ["web"], "required": False},
        },
    }
    assert said["ci"] == {"workflows": ".github/workflows", "labels": ["big"], "secrets": ["DEPLOY_KEY"]}


def test_the_sops_files_of_environments_are_declared_as_they_are(shop: Folder) -> None:
    shop.write(
        "docker-compose.yml", COMPOSE.replace("${DB_PASSWORD}", "${DB_PASSWORD}-${KEY:?from a vault}-${smtp_password}")
    )
    shop.write("docker-compose.prod.yml", "services: {web: {restart: always}}\n")
    nested = {"app": {"key": SEALED, "port": SEALED.replace("str", "int")}, "smtp_password": SEALED}
    put(shop.root, "deploy/secrets.production.json", {**nested, "more": [SEALED]})
    put(shop.root, "deploy/secrets.dev.yaml", nested)
    put(shop.root, "config/pgp.yaml", {"token": SEALED}, pgp=[{"fp": "x"}])
    before = shop.files()

    said = shop.json()

    assert {name: content for name, content in shop.files().items() if name in before} == before
    declared = yaml.safe_load(shop.read("stack.yaml"))["secrets"]
    assert declared["files"] == {"dev": "deploy/secrets.dev.yaml", "prod": "deploy/secrets.production.json"}
    assert declared["declared"] == {
        "key": {"path": "app.key", "required": False},
        "app_port": {"path": "app.port", "required": False},
        "smtp_password": {"env": "smtp_password", "required": False},
        "more": {"environments": ["prod"], "required": False},
    }
    assert "# config/pgp.yaml is encrypted by sops and left alone: it is encrypted to more" in shop.read("stack.yaml")
    assert {"name": "key", "where": "deploy/secrets.dev.yaml"} in said["value"]["secrets"]
    assert "Nothing to do" in shop.init().stdout


def test_a_fresh_clone_without_its_env_files_is_understood(shop: Folder) -> None:
    named = "    image: postgres:16\n    env_file: [.env, db.env]\n"
    shop.write("docker-compose.yml", COMPOSE.replace("    image: postgres:16\n", named))
    (shop.root / ".env").unlink()

    said = shop.json()

    assert "dev: db lacks .env, db.env, without which Compose brings nothing up" in said["warnings"]
    assert list(said["value"]["environments"]["dev"]["services"]) == ["db", "debugger", "web"]


def test_a_variable_that_compose_insists_on_is_asked_for_where_it_belongs(shop: Folder) -> None:
    shop.write("docker-compose.yml", COMPOSE.replace("${DB_PASSWORD}", "${APP_KEY:?make one}"))

    refused = shop.json(status=2)["error"]

    assert refused["next"] == "write APP_KEY=… into .env, then: conche init"

    (shop.root / ".env").rename(shop.root / ".env.example")

    again = shop.json(status=2)["error"]

    assert again["next"] == "cp .env.example .env    # and write APP_KEY=… into it, then: conche init"


def test_a_value_in_dotenv_counts_before_one_that_only_sops_can_read(shop: Folder) -> None:
    shop.write("docker-compose.yml", COMPOSE.replace("18090", "${APP_PORT:?}"))
    shop.write(".env", "DB_PASSWORD=x\nAPP_PORT=18099\n")
    put(shop.root, "secrets.enc.yaml", {"app_port": SEALED})

    shop.init()

    assert ":18099/health" in shop.read("stack.yaml")


def test_a_lower_case_variable_is_declared_as_it_is_asked_for_by_its_bare_name_in_an_included_file(
    tmp_path: Path,
) -> None:
    folder = Folder(tmp_path / "shop")
    folder.write("compose.yaml", "include: [db.yaml]\nservices: {web: {image: a, ports: ['18099:80']}}\n")
    folder.write("db.yaml", "services: {db: {image: '${image_of_db:?}', environment: [db_password]}}\n")
    put(folder.root, "secrets.enc.yaml", {"db_password": SEALED, "image_of_db": SEALED})

    folder.init()

    stack = parse(folder.read("stack.yaml"), root=folder.root)
    assert stack.secrets is not None
    assert {name: one.variable(name) for name, one in stack.secrets.declared.items()} == {
        "db_password": "db_password",
        "image_of_db": "image_of_db",
    }
    assert stack.environments["dev"].health is None
    assert "    # health: http://localhost:18099/    # port 80 of web" in folder.read("stack.yaml")


def test_a_stack_in_a_usual_folder_is_called_after_its_repository_and_keeps_its_project(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "shop")
    folder.write("docker/compose.yaml", "services: {web: {image: a}}\n")

    folder.init()

    stack = parse(folder.read("stack.yaml"), root=folder.root)
    assert (stack.name, stack.project("dev")) == ("shop", "docker")


def test_an_empty_folder_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "empty")

    refused = folder.json(status=6)

    assert refused["error"]["code"] == "no-compose-file"
    assert "docker-compose.yml" in refused["error"]["looked_at"][0]
    assert folder.files() == {}


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{below}'] * 9)}]\n" for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("compose", "code", "said"),
    [
        ("services:\n  web:\n    image: a\n    imge: b\n", "compose-file-invalid", "docker-compose.yml:4"),
        ("services:\n  web:\n   image: a\n   - b\n", "compose-file-invalid", "docker-compose.yml:4"),
        ("services:\n  web: {image: a}\n  api: {image: b, depends_on: [none]}\n", "compose-file-invalid", ":3"),
        ("services:\n  web:\n    command: x\n", "compose-file-invalid", "docker-compose.yml:2"),
        (f"services: {{web: {{image: a}}}}\n{BOMB}x-all: *i\n", "text-too-large", "aliases"),
        (f"services: {{web: {{image: a}}}}\nx-long: {'y' * (1 << 20)}\n", "text-too-large", "split it"),
        (b"services: {web: {image: a, labels: [caf\xe9]}}\n", "text-not-utf8", "docker-compose.yml:1"),
        (
            "services:\n  web: {image: a, container_name: shop}\n  api: {image: b, container_name: shop}\n",
            "container-name-twice",
            "api and web",
        ),
        ("services: {}\n", "no-services", "docker-compose.yml"),
    ],
    ids=["unknown-key", "no-yaml", "undefined", "no-image", "bomb", "large", "latin-1", "same-name", "no-service"],
)
def test_files_that_cannot_work_are_refused_with_their_line_and_nothing_is_written(
    tmp_path: Path, compose: str | bytes, code: str, said: str
) -> None:
    folder = Folder(tmp_path / "shop")
    folder.write("docker-compose.yml", compose)
    before = folder.files()

    error = folder.json(status=2)["error"]

    assert error["code"] == code
    assert said in json.dumps(error)
    assert folder.files() == before


@pytest.mark.parametrize(
    ("content", "encoding"),
    [("A=1\nNAME=café\n".encode("latin-1"), "ISO-8859-1"), ("A=1\nB=2\n".encode("utf-16"), "UTF-16")],
)
def test_a_dotenv_file_in_another_encoding_is_refused_with_the_line_and_how_to_convert_it(
    shop: Folder, content: bytes, encoding: str
) -> None:
    shop.write(".env", content)

    error = shop.json(status=2)["error"]

    assert error["code"] == "text-not-utf8"
    assert error["looked_at"] == [f".env:{2 if encoding == 'ISO-8859-1' else 1}"]
    assert error["next"].startswith(f"iconv -f {encoding} -t UTF-8 '.env'")


def test_a_line_of_dotenv_that_compose_cannot_read_is_named_and_not_shown(shop: Folder) -> None:
    shop.write(".env", "DB PASSWORD geheim123\n")

    said = shop.init(status=2)

    assert ".env: line 1" in said.stderr
    assert "geheim123" not in said.stdout + said.stderr


@pytest.mark.parametrize("variant", ["services: {web: {imge: x}}\n", f"services: {{web: {{restart: always}}}}\n{BOMB}"])
def test_a_variant_that_compose_refuses_is_left_out_and_said(shop: Folder, variant: str) -> None:
    shop.write("docker-compose.test.yml", variant)

    said = shop.json()

    assert list(said["value"]["environments"]) == ["dev"]
    assert any("docker-compose.test.yml is left out" in one for one in said["warnings"])


def test_what_stands_outside_or_is_open_to_all_is_warned_about(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder = Folder(tmp_path / "shop")
    folder.write(
        "compose.yaml", "services:\n  web: {build: ../elsewhere, ports: ['18091:80']}\n  api: {image: $IMAGE-a}\n"
    )

    warnings = "\n".join(folder.json()["warnings"])

    assert f"web is built from {tmp_path / 'elsewhere'}, outside this repository" in warnings
    assert "web publishes 18091->80 on every address" in warnings
    assert 'The "IMAGE" variable is not set' in warnings


def test_names_with_dots_and_capitals_and_hundreds_of_services_are_taken(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "3.My_Stack")
    services = "".join(f"  Api.V{n}: {{image: 'a:1', volumes: ['Data.V{n}:/d']}}\n" for n in range(300))
    volumes = "".join(f"  Data.V{n}: {{}}\n" for n in range(300))
    folder.write("compose.yaml", f"services:\n{services}volumes:\n{volumes}")
    folder.write("compose.My.Prod.yaml", "services: {Api.V1: {restart: always}}\n")

    folder.init()

    stack = parse(folder.read("stack.yaml"), root=folder.root)
    assert list(stack.environments) == ["dev", "my-prod"]
    assert stack.project("dev") == "3my_stack"
    assert stack.backup is not None
    assert len(stack.backup.components) == 300


KILLED = """\
import os, signal, sys
from conche.__main__ import main
made = iter(range(10))
def dies(how):
    def act(*words, **options):
        if next(made) == AT:
            os.kill(os.getpid(), signal.SIGKILL)
        return how(*words, **options)
    return act
os.link, os.fsync = dies(os.link), dies(os.fsync)
sys.exit(main(["init"]))
"""


@pytest.mark.parametrize("at", range(6))
def test_killed_in_the_middle_it_leaves_no_half_file_and_the_next_run_finishes(shop: Folder, at: int) -> None:
    before = shop.files()

    argv = [sys.executable, "-c", KILLED.replace("AT", str(at))]
    killed = subprocess.run(argv, cwd=shop.root, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)

    assert killed.returncode == -signal.SIGKILL
    left = shop.files().keys() - before.keys()
    assert left <= {"stack.yaml", "tasks.py"}
    if "stack.yaml" in left:
        parse(shop.read("stack.yaml"), root=shop.root)
    shop.init()
    assert shop.files().keys() - before.keys() == {"stack.yaml", "tasks.py"}
    assert "namespace(__file__)" in shop.read("tasks.py")
