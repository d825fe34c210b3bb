"""The programs in the runner's image, docker/runner: how a runner starts, and how a job gets its checkout."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest
import yaml

from tests.stacks import ROOT

HEX = "0123456789abcdef0123456789abcdef01234567"


def start(tmp_path: Path, token: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """What runner-start hands to forgejo-runner, which a script stands for."""
    (tmp_path / "token").write_text(token)
    program = tmp_path / "forgejo-runner"
    program.write_text('#!/bin/sh\numask >&2; env >&2; echo "$@ in $TMPDIR" >&2\ncat "$3"\n')
    program.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin", "GITEA_INSTANCE_URL": "http://localhost:3000/",
        "GITEA_RUNNER_LABELS": "ubuntu-latest:host,ubuntu-22.04:host", "RUNNER_WORK": str(tmp_path / "work"),
        "RUNNER_TOKEN_FILE": str(tmp_path / "token"), "RUNNER_CONFIGURATION": str(tmp_path / "runner.yaml"), **extra,
    }  # fmt: skip
    argv = [str(ROOT / "docker/runner/runner-start")]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("token", [HEX, HEX + "\n"])
def test_a_runner_starts_with_a_configuration_of_its_token_and_labels(tmp_path: Path, token: str) -> None:
    done = start(tmp_path, token)

    configuration = yaml.safe_load(done.stdout)
    connection = configuration["server"]["connections"]["forgejo"]
    assert done.stderr.splitlines()[-1].startswith("daemon --config")
    assert connection == {
        "url": "http://localhost:3000/",
        "uuid": str(uuid.UUID(bytes=HEX[:16].encode())),
        "token_url": f"file:{tmp_path / 'runner.yaml.token'}",
        "labels": ["ubuntu-latest:host", "ubuntu-22.04:host"],
    }
    assert configuration["host"]["workdir_parent"] == str(tmp_path / "work")
    assert done.stderr.rstrip().endswith(f" in {tmp_path / 'work' / 'tmp'}")
    assert (tmp_path / "work" / "tmp").is_dir()
    assert (tmp_path / "runner.yaml.token").read_text() == HEX
    assert [file.name for file in tmp_path.glob("runner.yaml*") if file.stat().st_mode & 0o077] == []
    assert HEX not in done.stdout + done.stderr


def test_a_runner_starts_with_the_uuid_that_the_server_gave_with_its_token(tmp_path: Path) -> None:
    given = str(uuid.uuid4())

    connection = yaml.safe_load(start(tmp_path, f"{given}:{HEX}").stdout)["server"]["connections"]["forgejo"]

    assert connection["uuid"] == given
    assert (tmp_path / "runner.yaml.token").read_text() == HEX


def handed_on(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """The variables that steps get."""
    return dict(line.partition("=")[::2] for line in done.stderr.splitlines()[1:-1])


def test_steps_have_the_mask_of_their_user_and_a_cache_that_pip_can_write(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        done = start(tmp_path, HEX)
    finally:
        os.umask(mask)

    cache = Path(handed_on(done)["PIP_CACHE_DIR"])
    assert done.stderr.splitlines()[0] == "0022"
    assert cache.is_dir()
    assert cache.is_relative_to(tmp_path / "work")


def test_steps_know_the_authority_and_the_index_of_the_host(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("a certificate")
    index = "https://packages.example.org/simple"

    steps = handed_on(start(tmp_path, HEX, RUNNER_CA=str(bundle), PIP_INDEX_URL=index, HTTPS_PROXY=""))

    assert {steps[name] for name in ("SSL_CERT_FILE", "PIP_CERT", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS")} == {
        str(bundle)
    }
    assert (steps["PIP_INDEX_URL"], "HTTPS_PROXY" in steps) == (index, False)


def test_a_host_without_an_authority_of_its_own_leaves_steps_the_usual_ones(tmp_path: Path) -> None:
    assert not handed_on(start(tmp_path, HEX, RUNNER_CA="/dev/null")).keys() & {"SSL_CERT_FILE", "PIP_CERT"}


@pytest.mark.parametrize(
    "token", ["", "your_token_here", HEX[:-1], HEX + HEX, f"{HEX}\n{HEX}", f"some-uuid:{HEX}", f"{HEX[:36]}:"]
)
def test_a_runner_refuses_what_is_no_token(tmp_path: Path, token: str) -> None:
    done = start(tmp_path, token)

    assert done.returncode == 2
    assert "40 hexadecimal digits" in done.stderr
    assert not (tmp_path / "runner.yaml").exists()


def job_of(tmp_path: Path, ref: str) -> tuple[Path, dict[str, str]]:
    """A job's folder, and the variables of its steps, for a commit of a repository on this disk."""
    source, job, work = tmp_path / "srv/us/shop", tmp_path / "job", tmp_path / "work"
    for folder in (source / "app", job, work / "tmp/job-of-before", work / "tmp/of-the-runner"):
        folder.mkdir(parents=True)
    (source / "app/main.py").write_text("print()\n")
    git = ("git", "-C", str(source), "-c", "user.name=n", "-c", "user.email=e@example.org")
    for words in (("init", "-q", "-b", "develop"), ("add", "-A"), ("commit", "-qm", "x")):
        subprocess.run([*git, *words], check=True)
    sha = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    environment = {
        **os.environ, "GITHUB_SERVER_URL": f"file://{tmp_path}/srv", "GITHUB_REPOSITORY": "us/shop", "GITHUB_SHA": sha,
        "GITHUB_REF": ref, "GITHUB_TOKEN": HEX, "GITHUB_ENV": str(tmp_path / "env"), "RUNNER_WORK": str(work),
        "RUNNER_CHECKOUT_PAUSE": "0",
    }  # fmt: skip
    return job, environment


def checkout(
    job: Path, environment: dict[str, str], *words: str, mask: int = 0o022
) -> subprocess.CompletedProcess[str]:
    argv = [str(ROOT / "docker/runner/runner-checkout"), *words]
    return subprocess.run(argv, cwd=job, env=environment, check=False, umask=mask, capture_output=True, text=True)


def checked_out(tmp_path: Path, ref: str, mask: int = 0o022) -> tuple[Path, dict[str, str]]:
    """What runner-checkout makes of a commit; the folder, and what later steps get."""
    job, environment = job_of(tmp_path, ref)
    checkout(job, environment, mask=mask).check_returncode()
    return job, dict(line.partition("=")[::2] for line in (tmp_path / "env").read_text().splitlines())


@pytest.mark.parametrize(("ref", "branch"), [("refs/heads/develop", "develop"), ("refs/pull/7/head", "HEAD")])
def test_a_commit_is_checked_out_without_an_action_and_without_leaving_the_token(
    tmp_path: Path, ref: str, branch: str
) -> None:
    job, _ = checked_out(tmp_path, ref)

    argv = ["git", "-C", str(job), "rev-parse", "--abbrev-ref", "HEAD"]
    assert subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip() == branch
    assert (job / "app/main.py").read_text() == "print()\n"
    assert HEX not in (job / ".git/config").read_text()


def test_what_earlier_jobs_left_is_removed_or_named_and_stops_no_job(tmp_path: Path) -> None:
    job, environment = job_of(tmp_path, "refs/heads/develop")
    left, bin_folder = tmp_path / "work/tmp/job-of-before/kept/deep", tmp_path / "bin"
    for folder in (left, bin_folder):
        folder.mkdir(parents=True)
    (left / "file").write_text("x")
    left.chmod(0o500)
    left.parent.chmod(0)
    # As it refuses anybody but root, who runs some of these tests.
    rm = bin_folder / "rm"
    rm.write_text(f"""#!/bin/sh
[ -z "$(find {shlex.quote(str(tmp_path / "work/tmp"))} -type d ! -perm -u=rwx)" ] && exec {shutil.which("rm")} "$@"
echo "rm: Permission denied" >&2
exit 1
""")
    rm.chmod(0o755)
    environment["PATH"] = f"{bin_folder}:{environment['PATH']}"

    made = checkout(job, environment)
    for program in (rm, bin_folder / "find"):
        program.write_text("#!/bin/sh\nexit 1\n")
        program.chmod(0o755)
    despite = checkout(job, environment)

    assert (made.returncode, made.stderr, left.parent.parent.exists()) == (0, "", False)
    assert despite.returncode == 0
    assert f"earlier jobs left is not removed, and takes room: see {tmp_path}/work/tmp" in despite.stderr


def test_a_tag_is_checked_out_with_its_name_and_not_once_it_is_another_commit(tmp_path: Path) -> None:
    job, environment = job_of(tmp_path, "refs/tags/v1.2")
    git = ("git", "-C", str(tmp_path / "srv/us/shop"), "-c", "user.name=n", "-c", "user.email=e@example.org")
    tagging = (*git, "tag", "--force", "--annotate", "v1.2", "--message", "1.2")
    subprocess.run(tagging, check=True, capture_output=True)

    checkout(job, environment).check_returncode()
    said = subprocess.run(["git", "-C", str(job), "describe"], check=True, capture_output=True, text=True).stdout
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "the next"], check=True)
    subprocess.run(tagging, check=True, capture_output=True)
    shutil.rmtree(job)
    job.mkdir()
    moved = checkout(job, environment)

    assert said == "v1.2\n"
    assert (moved.returncode, "v1.2 is another commit by now" in moved.stderr) == (75, True)


def test_the_newest_commit_of_a_branch_goes_on_and_an_overtaken_one_ends_with_the_reason(tmp_path: Path) -> None:
    job, environment = job_of(tmp_path, "refs/heads/develop")
    newest = checkout(job, environment, "--newest")
    source = tmp_path / "srv/us/shop"
    argv = ["git", "-C", str(source), "-c", "user.name=n", "-c", "user.email=e@example.org", "commit", "-q"]
    subprocess.run([*argv, "--allow-empty", "-m", "the next"], check=True)

    overtaken = checkout(job, environment, "--newest")
    pull = checkout(job, {**environment, "GITHUB_REF": "refs/pull/7/head"}, "--newest")

    assert (newest.returncode, overtaken.returncode, pull.returncode) == (0, 75, 0)
    assert "overtaken: develop is at " in overtaken.stderr


def test_a_server_that_is_away_for_a_moment_is_asked_again(tmp_path: Path) -> None:
    job, environment = job_of(tmp_path, "refs/heads/develop")
    (tmp_path / "bin").mkdir()
    git = tmp_path / "bin/git"
    mark = shlex.quote(f"{tmp_path}/away")
    git.write_text(
        f"#!/bin/sh\ncase $1 in fetch) [ -e {mark} ] || {{ touch {mark}; exit 128; }} ;; esac\n"
        f'exec {shutil.which("git")} "$@"\n'
    )
    git.chmod(0o755)
    path = f"{tmp_path}/bin:{environment['PATH']}"

    back = checkout(job, {**environment, "PATH": path})
    gone = checkout(job, {**environment, "GITHUB_SERVER_URL": f"file://{tmp_path}/nowhere"})

    assert back.returncode == 0, back.stderr
    assert back.stderr.count("trying again") == 1
    assert gone.returncode != 0
    assert gone.stderr.count("trying again") == 4


@pytest.mark.parametrize(
    ("program", "fails"),
    [
        ("git", 'case $1 in fetch) echo "fatal: write error: No space left on device" >&2; exit 128 ;; esac'),
        ("mktemp", 'echo "mktemp: failed to create directory: No space left on device" >&2; exit 1'),
    ],
    ids=["the commit", "the temporary folder"],
)
def test_a_full_work_folder_is_said_at_once_with_what_makes_room(tmp_path: Path, program: str, fails: str) -> None:
    job, environment = job_of(tmp_path, "refs/heads/develop")
    (tmp_path / "bin").mkdir()
    for name, does in {program: fails, "df": 'printf "head\\n/dev/x 9 9 0 100%% /\\n"; exit 0'}.items():
        script = tmp_path / "bin" / name
        script.write_text(f'#!/bin/sh\n{does}\nexec {shutil.which(name)} "$@"\n')
        script.chmod(0o755)

    done = checkout(job, {**environment, "PATH": f"{tmp_path}/bin:{environment['PATH']}"})

    assert done.returncode != 0
    assert "trying again" not in done.stderr
    assert done.stderr.count(f"no room in the work folder {tmp_path}/work") == 1
    assert f"{tmp_path}/work/cache" in done.stderr


def test_what_jobs_before_left_is_swept_and_what_is_the_runners_own_stays(tmp_path: Path) -> None:
    _, later = checked_out(tmp_path, "refs/heads/develop")

    left = {path.name for path in (tmp_path / "work/tmp").iterdir()}
    assert left == {"of-the-runner", Path(later["TMPDIR"]).name}
    assert Path(later["TMPDIR"]).is_dir()


def test_code_has_the_same_modes_in_images_whatever_the_mask_of_its_checkout() -> None:
    """A step of a build copies files with the modes that they have in the checkout, unless it says others."""
    bare = []
    for file in sorted((ROOT / "docker").glob("*.Dockerfile")):
        last = file.read_text().rpartition("\nFROM ")[2]
        bare += [line for line in last.splitlines() if line.startswith("COPY ") and "--chmod=" not in line]

    assert [line for line in bare if "--from=" not in line] == []
