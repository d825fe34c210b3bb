"""What a build is given, and what is said when it fails."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from conche.engine.dockerfile import references
from conche.engine.images import Build, _build_failed
from conche.process import Captured, Completed
from conche.supply.build import _host_secrets
from conche.supply.revision import Revision, revision

ROOT = Path(__file__).parents[2]


def failed(stderr: str) -> Completed:
    return Completed(("docker",), 1, Captured(""), Captured(stderr))


def test_the_argv_of_a_build_has_each_argument_and_secret() -> None:
    build = Build(
        "localhost:5000/a:b", Path("/d e/x.Dockerfile"), Path("/d e"), {"REVISION": "r 1"}, {"ca": Path("/c a.crt")}
    )

    assert build.argv() == (
        "docker", "buildx", "build", "--progress", "plain", "--load",
        "--file", "/d e/x.Dockerfile", "--tag", "localhost:5000/a:b",
        "--build-arg", "REVISION=r 1", "--secret", "id=ca,src=/c a.crt", "/d e",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM a:1\nFROM b:2 AS two\nFROM two\nFROM scratch\n", ("a:1", "b:2")),
        ("ARG BASE=a:1\nFROM ${BASE} AS x\nfrom $BASE as y\n", ("a:1",)),
        ("FROM --platform=linux/amd64 a:1\n", ("a:1",)),
        ('ARG BASE="quoted:1"\nFROM $BASE\n', ("quoted:1",)),
    ],
)
def test_the_base_images_of_a_dockerfile_are_found(text: str, expected: tuple[str, ...]) -> None:
    assert references(text) == expected


STAGES = """\
ARG BASE=a:1
FROM ${BASE} AS tools
FROM b:2 AS builder
RUN --mount=type=bind,from=tools,target=/t true
FROM c:3 AS Test
FROM d:4
COPY --from=builder /x /x
"""


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (None, ("a:1", "b:2", "c:3", "d:4")),
        ("", ("a:1", "b:2", "d:4")),
        ("builder", ("a:1", "b:2")),
        ("test", ("c:3",)),
        ("absent", ()),
    ],
)
def test_only_the_bases_that_a_target_needs_are_asked_for(target: str | None, expected: tuple[str, ...]) -> None:
    assert references(STAGES, target=target) == expected


def test_the_arguments_of_a_build_decide_about_its_base() -> None:
    assert references(STAGES, {"BASE": "e:5"}, "tools") == ("e:5",)


def test_our_own_dockerfile_asks_for_the_base_that_stack_yaml_can_make() -> None:
    assert references((ROOT / "docker/fastapi.Dockerfile").read_text()) == ("python:3.11-slim-bookworm",)


def test_the_hosts_bundle_and_pip_settings_are_secrets_that_go_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, canary: str
) -> None:
    bundle = tmp_path / "ca.crt"
    bundle.write_text("certificate")
    for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_DEFAULT_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setenv("PIP_INDEX_URL", f"https://user:{canary}@host/simple")

    with _host_secrets() as secrets:
        settings = secrets["pip"]
        assert secrets["ca"] == bundle
        assert settings.stat().st_mode & 0o777 == 0o600
        assert settings.read_text() == (
            f"[global]\nindex-url = https://user:{canary}@host/simple\ncert = /etc/ssl/certs/ca-certificates.crt\n"
        )

    assert not settings.exists()


def test_a_host_without_settings_gives_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, "/no/such/file")
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)

    with _host_secrets() as secrets:
        assert secrets == {}


@pytest.mark.parametrize(
    ("stderr", "code", "status"),
    [
        ("#5 [2/2] RUN x\n#5 0.1 why\n#5 ERROR: process did not complete: exit code: 3\n", "build-failed", 2),
        ("ERROR: failed to solve: write /x: no space left on device\n", "disk-full", 9),
        ("docker: 'buildx' is not a docker command.\n", "buildx-missing", 9),
        ("failed to solve: unsupported frontend capability moby.buildkit.frontend.contexts\n", "builder-too-old", 9),
        ('unable to prepare context: path "/shop/api" not found\n', "build-context-missing", 2),
    ],
)
def test_a_failed_build_is_translated(stderr: str, code: str, status: int) -> None:
    build = Build("r:t", Path("x.Dockerfile"), Path())

    error = _build_failed(build, failed(stderr))

    assert (error.code, error.status) == (code, status)
    assert error.evidence or error.looked_at == ("/shop/api",)
    assert error.next_command


def test_a_failed_build_shows_the_failing_step_and_not_the_wall_before_it() -> None:
    wall = "".join(f"#4 {number} noise\n" for number in range(500))
    step = "#5 [2/2] RUN make\n#5 0.1 why\n#5 ERROR: exit code: 3\n"

    error = _build_failed(Build("r:t", Path("x.Dockerfile"), Path()), failed(wall + step))

    assert error.evidence == ("#5 [2/2] RUN make", "#5 0.1 why", "#5 ERROR: exit code: 3")


def test_of_a_long_step_its_name_and_its_last_lines_are_shown() -> None:
    step = (
        "#5 [2/2] RUN make\n" + "".join(f"#5 0.1 line {number}\n" for number in range(500)) + "#5 ERROR: exit code: 3\n"
    )

    error = _build_failed(Build("r:t", Path("x.Dockerfile"), Path()), failed(step))

    assert len(error.evidence) == 15
    assert (error.evidence[0], error.evidence[-2]) == ("#5 [2/2] RUN make", "#5 0.1 line 499")


def git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_a_revision_is_the_commit_and_says_when_the_tree_differs(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "one", "--date", "2026-01-02T03:04:05Z")
    git(tmp_path, "tag", "v1.2")

    clean = revision(tmp_path)
    (tmp_path / "a").write_text("2")
    dirty = revision(tmp_path)

    assert clean.version == "v1.2"
    assert dirty == Revision(f"{clean.name}-dirty", "v1.2-dirty", clean.created, clean.epoch)


def test_without_git_history_the_revision_is_unknown(tmp_path: Path) -> None:
    assert revision(tmp_path) == Revision("unknown", "unknown", "1970-01-01T00:00:00Z")
