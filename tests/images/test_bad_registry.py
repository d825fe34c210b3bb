"""A registry that refuses, is gone, is slow, is cut in the middle or is full; and no password anywhere."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conche.engine import images, transfer
from conche.engine.connection import Engine
from conche.engine.transfer import Credentials
from conche.errors import Unreachable
from conche.images.pull import _see_pulled
from conche.output import Output, Progress
from conche.secret import Secret
from conche.supply.own import Tagged, push
from conche.supply.reference import parse
from conche.supply.registry import Registry
from tests.images.registries import USER, PrivateRegistry, Shop, serving

pytestmark = pytest.mark.engine

EACH = [
    ("images.login",),
    ("images.login", "--persist"),
    ("images.release",),
    ("images.push",),
    ("images.pull",),
    ("images.list",),
    ("images.tag", "develop", "other"),
    ("images.mirror",),
    ("images.prune", "--yes"),
]


@pytest.fixture
def pushed(shop: Shop) -> Shop:
    """A stack with an image in the registry."""
    shop.layered(os.urandom(1 << 16))
    shop.release()
    return shop


@pytest.fixture
def docker_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings of the Docker CLI in which somebody has stored a login for another registry."""
    folder = tmp_path / "docker-settings"
    folder.mkdir()
    auth = base64.b64encode(b"somebody:theirs").decode()
    (folder / "config.json").write_text(json.dumps({"auths": {"registry.example.org": {"auth": auth}}}))
    plugins = Path.home() / ".docker/cli-plugins"
    if plugins.is_dir():
        (folder / "cli-plugins").symlink_to(plugins)
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder / "config.json"


@pytest.mark.parametrize("words", EACH, ids=" ".join)
def test_a_wrong_password_is_said_and_dockers_own_are_untouched(
    pushed: Shop, docker_settings: Path, words: tuple[str, ...]
) -> None:
    before, tags = docker_settings.read_bytes(), pushed.tags()
    pushed.knows(Path(os.environ["XDG_STATE_HOME"]), "wrong-password")

    done = pushed.invoke(*words)

    if words == ("images.list",):  # what can be seen is shown, with a warning
        assert done.returncode == 0, done.stderr
        assert f"warning: {pushed.registry.host} rejects user {USER}." in done.stderr
    else:
        assert done.returncode == 8, done.stderr
        assert "error [registry-denied]" in done.stderr
        assert "invoke secrets.set registry_password" in done.stderr
    assert "wrong-password" not in done.stdout + done.stderr
    assert docker_settings.read_bytes() == before
    assert pushed.tags() == tags


@pytest.mark.parametrize("words", EACH, ids=" ".join)
def test_a_registry_that_is_down_is_said(pushed: Shop, words: tuple[str, ...]) -> None:
    gone = f"127.0.0.1:{pushed.port}"
    pushed.replace("stack.yaml", pushed.registry.host, gone)
    done = pushed.invoke(*words)

    if words == ("images.list",):
        assert done.returncode == 0, done.stderr
        assert f"warning: The registry {gone} does not answer." in done.stderr
    elif words == ("images.push",):
        assert (done.returncode, "no-such-image" in done.stderr) == (6, True)
    else:
        assert done.returncode == 9, done.stderr
        assert f"error [registry-unreachable]: The registry {gone} does not answer." in done.stderr
        # By its port it is an environment of this stack.
        assert "invoke env.up --env dev" in done.stderr


def test_a_registry_that_answers_nothing_is_given_up(registry: PrivateRegistry) -> None:
    registry.wire.holds = True

    with pytest.raises(Unreachable) as slow:
        Registry(registry.host, Credentials(USER, Secret(registry.password)), patience=0.3).check()

    assert slow.value.code == "registry-unreachable"
    assert "timed out" in slow.value.evidence[0]


def test_a_push_that_hears_nothing_is_given_up(pushed: Shop, engine: Engine) -> None:
    pushed.registry.wire.holds = True
    known = Credentials(USER, Secret(pushed.registry.password))

    with pytest.raises(Unreachable) as slow:
        transfer.push(engine, f"{pushed.registry.host}/{pushed.name}", "develop", known, patience=5.0)

    assert slow.value.code == "registry-unreachable"
    assert "the connection was lost" in slow.value.message


def test_something_else_on_the_registrys_port_is_told_from_a_registry(pushed: Shop) -> None:
    page = "import http.server as h; s = h.HTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler); "
    page += "print(s.server_address[1], flush=True); s.serve_forever()"
    (pushed.folder / "v2").mkdir()
    argv = [pushed.argv()[0], "-c", page]
    with subprocess.Popen(argv, cwd=pushed.folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as web:
        assert web.stdout is not None
        pushed.replace("stack.yaml", pushed.registry.host, f"127.0.0.1:{web.stdout.readline().strip()}")
        done = pushed.invoke("images.release")
        web.kill()

    assert done.returncode == 9, done.stderr
    assert "answers, but not like a registry" in done.stderr


def test_a_push_that_is_cut_leaves_no_tag_and_goes_on_where_it_was(shop: Shop) -> None:
    shop.layered(os.urandom(40 << 20))
    wire = shop.registry.wire

    def cut_soon(said: str) -> None:
        # The first blob that is whole is the small one; what follows gives a busy registry the time to keep it.
        if said.startswith(f"PUT /v2/{shop.name}/blobs/") and wire.cut_at is None:
            wire.cut_at = wire.sent + (20 << 20)

    wire.watch = cut_soon

    cut = shop.invoke("images.release")

    assert cut.returncode == 9, cut.stderr
    assert "error [registry-unreachable]" in cut.stderr
    assert "run it again" in cut.stderr
    assert shop.tags() == ()
    wire.reset()
    document = shop.json("images.release")
    assert document["value"]["digest"] == shop.digest("develop")
    # The small layer was through before the cut, and is not moved again.
    assert (document["value"]["layers_moved"], document["value"]["layers_there"]) == (1, 1)


def test_a_short_cut_is_bridged_by_the_engine(shop: Shop) -> None:
    shop.layered(os.urandom(4 << 20))
    shop.registry.wire.cut_at = 2 << 20
    shop.registry.wire.heals = True

    done = shop.invoke("images.release")

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(str(shop.digest("develop")))


@pytest.mark.long
def test_a_full_disk_of_the_registry_is_said_and_leaves_no_tag(
    engine: Engine, registry_image: str, tmp_path: Path, small_disk: Path, base_image: str
) -> None:
    state = Path(os.environ["XDG_STATE_HOME"])
    with serving(engine, registry_image, tmp_path / "full", storage=small_disk) as full:
        shop = Shop.open(tmp_path / "shop", full, state)
        try:
            shop.layered(os.urandom(4 << 20))
            refused = shop.invoke("images.release")
            left = shop.tags()
            subprocess.run(["mount", "-o", "remount,size=32m", str(small_disk)], check=True)
            fits = shop.invoke("images.release")
        finally:
            shop.remove_all(engine)

    assert refused.returncode == 9, refused.stderr
    assert "error [registry-failed]" in refused.stderr
    assert "such as a full disk" in refused.stderr
    assert left == ()
    assert fits.returncode == 0, fits.stderr


COMMANDS: list[tuple[str, ...]] = [
    ("images.login",),
    ("images.build",),
    ("images.push",),
    ("images.push", "--json"),
    ("images.release",),
    ("images.release", "--json"),
    ("images.release", "--dry-run"),
    ("images.pull",),
    ("images.list", "--json"),
    ("images.inspect", "--json"),
    ("images.tag", "develop", "by-hand"),
    ("images.check",),
    ("images.prune", "--yes", "--json"),
    ("images.pull", "--env", "prod"),
]


def test_the_password_is_in_no_argv_no_stream_and_no_file_that_others_may_read(
    pushed: Shop, tmp_path: Path, argv_log: Callable[[], str]
) -> None:
    password = pushed.registry.password
    encoded = base64.b64encode(f"{USER}:{password}".encode()).decode()

    said = "".join(done.stdout + done.stderr for done in (pushed.invoke(*words) for words in COMMANDS))

    seen = argv_log()
    assert "docker login" in seen
    assert "buildx build" in seen
    for secret in (password, encoded):
        assert secret not in said
        assert secret not in seen
    assert loose(tmp_path, password) == loose(Path(os.environ["XDG_RUNTIME_DIR"]), password) == []


def test_only_persist_stores_the_login_and_only_for_its_owner(pushed: Shop, docker_settings: Path) -> None:
    before = docker_settings.read_bytes()

    plain = pushed.invoke("images.login")
    untouched = docker_settings.read_bytes()
    persisted = pushed.invoke("images.login", "--persist")

    assert plain.returncode == persisted.returncode == 0, persisted.stderr
    assert "Nothing was stored." in plain.stdout
    assert untouched == before
    assert set(json.loads(docker_settings.read_text())["auths"]) == {"registry.example.org", pushed.registry.host}
    assert docker_settings.stat().st_mode & 0o077 == 0
    assert f"docker logout {pushed.registry.host}" in persisted.stdout


def test_without_a_login_of_the_stack_dockers_own_is_used(pushed: Shop, docker_settings: Path) -> None:
    stack = (pushed.folder / "stack.yaml").read_text()
    pushed.write("stack.yaml", stack[: stack.index("login:")])
    refused = pushed.invoke("images.login")
    auth = base64.b64encode(f"{USER}:{pushed.registry.password}".encode()).decode()
    docker_settings.write_text(json.dumps({"auths": {pushed.registry.host: {"auth": auth}}}))

    entered = pushed.invoke("images.login")

    assert refused.returncode == 8
    assert "error [no-registry-login]" in refused.stderr
    assert entered.returncode == 0, entered.stderr
    assert f"accepts {USER}" in entered.stdout


def test_an_engine_that_knows_another_registry_by_that_name_is_noticed(
    pushed: Shop, engine: Engine, registry_image: str, tmp_path: Path
) -> None:
    known = Credentials(USER, Secret(pushed.registry.password))
    given = Tagged("web", parse(pushed.image), "")
    with serving(engine, registry_image, tmp_path / "other") as other:
        with pytest.raises(Unreachable) as differs:
            push(engine, other.client(), given, known, Progress(Output("images.push")))
        with pytest.raises(Unreachable):
            _see_pulled(engine, other.client(), given.reference, "sha256:" + "0" * 64)

    assert differs.value.code == "registry-differs"
    assert images.find(engine, pushed.image) is not None


def loose(folder: Path, secret: str) -> list[Path]:
    """Files that hold a secret and that others may read."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes() and path.stat().st_mode & 0o077
    ]
