"""Compose: argv as tuples, the rendered configuration as values, complaints translated."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from conche.engine.builds import built_outside
from conche.engine.compose import Compose, Configuration, version
from conche.engine.connection import Engine
from conche.engine.dockerfile import text_of
from conche.engine.ports import Port
from conche.engine.rendered import Healthcheck, must_exist
from conche.engine.service import Service
from conche.errors import Refused, Unreachable

ROOT = Path(__file__).parents[2]
HERE = Engine()


def compose(*files: Path, **variables: str) -> Compose:
    return Compose(HERE, "some-project", files or (ROOT / "compose/dev.yaml",), variables)


def test_every_argv_names_the_files_and_the_project() -> None:
    two = compose(Path("/a b/one.yaml"), Path("/a b/two.yaml"))

    assert two.argv("ps") == (
        "docker", "compose", "--file", "/a b/one.yaml", "--file", "/a b/two.yaml",
        "--project-name", "some-project", "ps",
    )  # fmt: skip


def test_a_service_needs_what_the_services_it_needs_depend_on() -> None:
    bodies: dict[str, Any] = {"a": {"depends_on": {"b": {}}}, "b": {"depends_on": {"c": {}, "gone": {}}}, "c": {}}
    services = {name: Service(name, "x", frozenset()) for name in bodies}
    made = Configuration("p", services, (), (), {"services": bodies})

    assert {name: made.all_needs(name) for name in bodies} == {"a": {"b", "c", "gone"}, "b": {"c", "gone"}, "c": set()}


def test_several_services_are_named_in_one_argv() -> None:
    project = compose(Path("/x.yaml"))

    assert project.up_alone("web", "db")[-3:] == ("--no-deps", "web", "db")
    assert project.up_whole("web", "db")[3:5] == ("sh", "web db")


def test_up_alone_neither_builds_nor_pulls_nor_touches_dependencies() -> None:
    assert compose(Path("/x.yaml")).up_alone("web")[-7:] == (
        "up", "--detach", "--no-build", "--pull", "never", "--no-deps", "web",
    )  # fmt: skip


@pytest.mark.parametrize(("volumes", "tail"), [(False, ()), (True, ("--volumes",))])
def test_down_deletes_volumes_only_when_asked(volumes: bool, tail: tuple[str, ...]) -> None:
    argv = compose(Path("/x.yaml")).down(volumes=volumes)

    assert argv[argv.index("down") :] == ("down", "--remove-orphans", *tail)


def test_variables_go_into_the_environment_and_never_into_argv() -> None:
    project = Compose(Engine("ssh://deploy@host"), "p", (Path("/x.yaml"),), {"TOKEN": "value"})

    assert project.environment() == {"TOKEN": "value", "DOCKER_HOST": "ssh://deploy@host"}
    assert "value" not in " ".join(project.up_alone("web"))
    assert "value" not in repr(project)


@pytest.mark.process
def test_the_development_files_are_what_the_documents_promise() -> None:
    configuration = compose(CONCHE_PORT="8001", CONCHE_PUBLISH="127.0.0.1").configuration()

    assert configuration.services == {
        "fastapi-app-dev": Service(
            name="fastapi-app-dev",
            image="localhost:5000/chocolate-factory:develop",
            hashes=configuration.services["fastapi-app-dev"].hashes,
            ports=(Port("127.0.0.1", 8001),),
            healthcheck=Healthcheck(interval=30, timeout=10, retries=3, start_period=40),
            binds=(ROOT / "src/fastapi-app",),
            user="1000:1000",
            replicas=1,
        )
    }
    assert configuration.external_networks == ("chocolate-factory_dev-backend",)
    assert configuration.volumes == ("chocolate-factory_models_dev",)
    body = configuration.rendered["services"]["fastapi-app-dev"]
    assert (body["environment"]["ENVIRONMENT"], body["environment"]["LOG_LEVEL"]) == ("development", "DEBUG")
    assert body["user"].split(":")[0] != "0"


@pytest.mark.process
def test_the_production_files_are_what_the_documents_promise() -> None:
    configuration = compose(ROOT / "compose/prod.yaml").configuration()

    app, influxdb = configuration.services["fastapi-app-prod"], configuration.services["influxdb"]
    assert (app.image, app.ports) == ("localhost:5000/chocolate-factory:production", ())
    assert configuration.services["edge"].ports == (Port("127.0.0.1", 8000),)
    assert (influxdb.image, influxdb.ports) == ("influxdb:2.7", (Port("127.0.0.1", 8086),))
    assert configuration.rendered["services"]["influxdb"]["healthcheck"]["test"] == ["CMD", "influx", "ping"]
    assert {file.name for file in influxdb.secret_files} == {"influxdb_admin_password.txt", "influxdb_token.txt"}
    assert set(configuration.volumes) == {
        "chocolate-factory_edge_prod",
        "chocolate-factory_models_prod",
        "chocolate-factory_influxdb_prod_data",
        "chocolate-factory_influxdb_prod_config",
    }
    body = configuration.rendered["services"]["fastapi-app-prod"]
    variables = body["environment"]
    assert (variables["ENVIRONMENT"], variables["LOG_LEVEL"]) == ("production", "INFO")
    assert [
        mount for mount in configuration.rendered["services"]["fastapi-app-prod"]["volumes"] if mount["type"] == "bind"
    ] == []


@pytest.mark.process
@pytest.mark.parametrize("name", ["dev", "prod", "git"])
def test_by_default_every_port_is_published_on_loopback_alone(name: str) -> None:
    services = compose(ROOT / f"compose/{name}.yaml").configuration().services.values()

    assert {port.address for service in services for port in service.ports} == {"127.0.0.1"}


@pytest.mark.process
@pytest.mark.parametrize(
    ("healthcheck", "expected"),
    [
        ("{test: [CMD, 'true'], interval: 1m30s, timeout: 500ms, retries: 5}", Healthcheck(90, 0.5, 5, 0)),
        ("{test: 'true'}", Healthcheck()),
        ("{disable: true}", None),
        ("{test: [NONE]}", None),
    ],
)
def test_durations_are_seconds_and_silence_means_dockers_defaults(
    tmp_path: Path, healthcheck: str, expected: Healthcheck | None
) -> None:
    (tmp_path / "c.yaml").write_text(f"services: {{web: {{image: x, healthcheck: {healthcheck}}}}}")

    assert compose(tmp_path / "c.yaml").configuration().services["web"].healthcheck == expected


@pytest.mark.process
def test_a_file_compose_does_not_accept_is_refused_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("services: {web: {image: x, prots: []}}")

    with pytest.raises(Refused, match="rejects") as refused:
        compose(tmp_path / "c.yaml").configuration()

    assert (refused.value.code, refused.value.status) == ("compose-file-invalid", 2)
    assert "prots" in " ".join(refused.value.evidence)


@pytest.mark.process
def test_a_docker_with_compose_v1_only_is_told_apart_from_a_bad_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho \"docker: 'compose' is not a docker command.\" >&2; exit 1\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    with pytest.raises(Unreachable) as refused:
        compose().configuration()

    assert (refused.value.code, refused.value.status) == ("compose-v2-missing", 9)
    assert "scripts/install-engine" in refused.value.next_command


@pytest.mark.process
def test_a_port_is_known_by_address_number_and_protocol(tmp_path: Path) -> None:
    ports = "['3000-3002:80', '53:53/udp', '9:9', '127.0.0.2:10-11:10-11', '[::1]:12:12', '13']"
    (tmp_path / "c.yaml").write_text(f"services: {{web: {{image: x, ports: {ports}}}}}")

    found = compose(tmp_path / "c.yaml").configuration().services["web"].ports

    assert sorted(found) == [
        Port("", 9), Port("", 53, "udp"), Port("", 3000, "tcp", 3002), Port("127.0.0.2", 10), Port("127.0.0.2", 11),
        Port("::1", 12),
    ]  # fmt: skip


@pytest.mark.process
def test_a_service_that_names_no_image_has_the_name_that_compose_builds_it_under(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("services: {web: {build: .}}")
    described = compose(tmp_path / "c.yaml")

    assert described.configuration().services["web"].image == f"{described.project}-web"


RELEASES = ((2, 26), (2, 40), (5, 0))


@pytest.mark.parametrize(
    ("bind", "needed_by"),
    [
        ({"create_host_path": True}, []),
        ({"create_host_path": False}, [(2, 26), (2, 40), (5, 0)]),
        ({}, [(2, 26), (2, 40)]),
        ({"propagation": "rslave"}, [(2, 26), (2, 40)]),
        (None, [(2, 26)]),
    ],
    ids=str,
)
def test_which_folders_have_to_be_there_depends_on_what_compose_leaves_out(
    bind: dict[str, Any] | None, needed_by: list[tuple[int, int]]
) -> None:
    """Each version renders and creates otherwise: 5 leaves out what is true, 2 what is false."""
    mount = {"type": "bind", "source": "/d", "target": "/d", **({} if bind is None else {"bind": bind})}

    assert [one for one in RELEASES if must_exist(mount, partial(tuple[int, ...], one))] == needed_by


@pytest.mark.process
def test_a_path_with_a_dollar_is_that_of_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "a $b"
    (folder / "d").mkdir(parents=True)
    (folder / "Dockerfile").write_text("FROM a:$TAG\n")
    file = folder / "compose.yaml"
    bind = "{type: bind, source: ./d, target: /d, bind: {create_host_path: false}}"
    mounted = f"volumes: [{bind}], secrets: [s], configs: [s]"
    file.write_text(
        f"services: {{web: {{build: ., {mounted}}}}}\nsecrets: {{s: {{file: ./s}}}}\nconfigs: {{s: {{file: ./s}}}}\n"
    )

    configuration = compose(file).configuration(hashed=False)

    web = configuration.services["web"]
    assert (web.binds, web.secret_files, web.config_files) == ((folder / "d",), (folder / "s",), (folder / "s",))
    assert text_of(configuration.rendered["services"]["web"]["build"]) == "FROM a:$TAG\n"
    assert not [*built_outside(configuration.rendered, folder)]


@pytest.mark.process
def test_what_compose_renders_and_does_not_read_is_put_as_it_reads_it(tmp_path: Path) -> None:
    limits = "ulimits: {core: 0, fsize: {soft: 0, hard: 5}, nproc: 3}"
    built = "build: {context: ., ulimits: {core: 0}}"
    services = f"services: {{web: {{{built}, {limits}, memswap_limit: -1, mem_limit: 64m, configs: [empty]}}}}\n"
    (tmp_path / "c.yaml").write_text(services + "configs: {empty: {content: ''}}\n")

    rendered = compose(tmp_path / "c.yaml").configuration().rendered
    body = rendered["services"]["web"]

    assert rendered["configs"]["empty"]["content"] == ""
    assert body["ulimits"] == {"core": {"soft": 0, "hard": 0}, "fsize": {"soft": 0, "hard": 5}, "nproc": 3}
    assert body["build"]["ulimits"] == {"core": {"soft": 0, "hard": 0}}
    assert (body["memswap_limit"], body["mem_limit"]) == (-1, "67108864")


@pytest.mark.process
def test_a_service_that_depends_on_another_has_the_hash_of_being_started_alone_too(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("services: {a: {image: x}, b: {image: y, depends_on: [a]}}")
    (tmp_path / "alone.yaml").write_text("services: {b: {image: y}}")

    both = compose(tmp_path / "c.yaml").configuration().services
    (alone,) = compose(tmp_path / "alone.yaml").configuration().services["b"].hashes

    assert list(both) == ["a", "b"]
    assert (len(both["a"].hashes), len(both["b"].hashes)) == (1, 2)
    assert alone in both["b"].hashes


@pytest.mark.process
@pytest.mark.parametrize(
    ("number", "code"),
    [("1.29.2", "compose-v2-missing"), ("2.19.1", "compose-too-old"), ("v2.20.0", ""), ("2.26.1-4", ""), ("3.0.0", "")],
)
def test_an_older_compose_is_refused(number: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docker").write_text(f"#!/bin/sh\necho {number}\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    if not code:
        assert version(HERE) == number.removeprefix("v")
        return
    with pytest.raises(Unreachable) as caught:
        version(HERE)
    assert caught.value.code == code
