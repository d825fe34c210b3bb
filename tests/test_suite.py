"""How a run of the tests behaves when it loses workers, its engine or its disk."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import noxfile
from tests.stacks import ROOT

pytestmark = pytest.mark.process

HERE = "def test_works():\n    assert True\n"


def run(folder: Path, *arguments: str, before: Sequence[str] = (), **environment: str) -> tuple[int, str]:
    """Run the test files in a folder separately; return exit code and output."""
    argv = [*before, sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder)]
    argv += ["-p", "no:cacheprovider", *arguments, str(folder)]
    done = subprocess.run(
        argv, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


DIES = "import os, signal\n\n\ndef test_dies():\n    os.kill(os.getpid(), signal.SIGKILL)\n\n\n"


@pytest.mark.parametrize(
    ("workers", "last"),
    [("1", DIES), ("1", DIES + HERE), ("2", HERE + "\n\n" + DIES)],
    ids=["alone, at the end", "alone, before the end", "beside another"],
)
def test_a_worker_that_is_killed_fails_its_test_and_all_others_are_run(tmp_path: Path, workers: str, last: str) -> None:
    files = [HERE, DIES + HERE, HERE, last]
    for number, text in enumerate(files):
        (tmp_path / f"test_{number}.py").write_text(text)

    code, said = run(tmp_path, "-p", "tests.scheduling", "-n", workers, "--dist", "loadfile", PYTHONPATH=str(ROOT))

    assert code == 1
    assert f"2 failed, {sum(text.count('test_works') for text in files)} passed" in said
    assert "crashed while running 'test_1.py::test_dies'" in said


def test_files_that_take_minutes_come_before_those_with_more_tests(tmp_path: Path) -> None:
    for name, count in (("images/test_many", 3), ("e2e/test_a", 1), ("e2e/test_b", 2), ("test_few", 2)):
        (tmp_path / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        tests = "".join(f"def test_{number}():\n    assert True\n\n\n" for number in range(count))
        (tmp_path / f"tests/{name}.py").write_text(tests)

    _, said = run(tmp_path, "-v", "-p", "tests.scheduling", "-n", "1", "--dist", "loadfile", PYTHONPATH=str(ROOT))

    ran = re.findall(r"PASSED tests/(\S+)\.py", said)
    assert list(dict.fromkeys(ran)) == ["e2e/test_b", "e2e/test_a", "images/test_many", "test_few"], said


def test_a_test_that_hangs_fails_alone(tmp_path: Path) -> None:
    hangs = "import pytest, signal\n\n\n@pytest.mark.timeout(1)\ndef test_hangs():\n    signal.pause()\n\n\n"
    (tmp_path / "test_hangs.py").write_text(hangs + HERE)

    code, said = run(tmp_path, "-n", "1")

    assert code == 1
    assert "1 failed, 1 passed" in said
    assert "Timeout" in said


def test_what_a_failed_test_has_not_ended_makes_no_other_one_red(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    leaves = "    left = [subprocess.Popen(['sleep', '9']), open('left', 'w')]\n    assert left == []\n\n\n"
    fixture = f"@pytest.fixture\ndef left():\n{leaves}def test_too(left):\n    pass\n\n\n"
    tests = f"def test_leaves():\n{leaves}{HERE}\n\n{fixture}{HERE.replace('works', 'also')}"
    (tmp_path / "test_leaves.py").write_text(f"import pytest, subprocess\n\n\n{tests}")

    code, said = run(tmp_path, PYTHONPATH=str(ROOT))

    assert code == 1
    assert "1 failed, 2 passed, 1 error" in said
    assert "ResourceWarning" not in said


def test_a_unit_test_that_starts_conche_through_a_shell_is_told_what_to_mark(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    start = "subprocess.run(['sh', '-c', '$invoke'], env={**os.environ, 'invoke': sys.executable + ' -m invoke'})"
    (tmp_path / "test_starts.py").write_text(
        f"import os, subprocess, sys\n\n\ndef test_starts():\n    {start}\n\n\n"
        "def test_asks_a_shell():\n    subprocess.run(['sh', '-c', 'true'], check=True)\n"
    )

    code, said = run(tmp_path, PYTHONPATH=str(ROOT))

    assert code == 1
    assert "1 failed, 1 passed" in said
    assert "mark it pytest.mark.process" in said


def test_a_skipped_test_is_red_in_ci_and_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    (tmp_path / "test_skips.py").write_text(
        "import pytest\n\n\ndef test_skips():\n    pytest.skip('restic is not installed')\n"
    )

    laptop, _ = run(tmp_path, CI="", CONCHE_TEST_CI="", PYTHONPATH=str(ROOT))
    code, said = run(tmp_path, CI="true", PYTHONPATH=str(ROOT))

    assert laptop == 0
    assert code == 1
    assert "restic is not installed" in said


def test_what_a_machine_lacks_on_purpose_is_skipped_in_ci_too(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    (tmp_path / "test_skips.py").write_text("import pytest\n\n\ndef test_skips():\n    pytest.skip('needs IPv6')\n")

    lacks, _ = run(tmp_path, CI="true", CONCHE_TEST_WITHOUT="root IPv6", PYTHONPATH=str(ROOT))
    has, _ = run(tmp_path, CI="true", CONCHE_TEST_WITHOUT="root", PYTHONPATH=str(ROOT))
    unknown, said = run(tmp_path, CI="true", CONCHE_TEST_WITHOUT="restic", PYTHONPATH=str(ROOT))

    assert (lacks, has, unknown) == (0, 1, 4)
    assert "CONCHE_TEST_WITHOUT takes IPv6, root, systemd-analyze, not restic" in said


def test_what_is_marked_long_waits_to_be_asked_for(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    mark = "import pytest\n\n\n@pytest.mark.long\n"
    (tmp_path / "test_some.py").write_text(mark + HERE.replace("works", "lasts") + "\n\n" + HERE)

    _, short = run(tmp_path, PYTHONPATH=str(ROOT))
    _, whole = run(tmp_path, "--long", PYTHONPATH=str(ROOT))
    _, named = run(tmp_path, str(tmp_path / "test_some.py"), PYTHONPATH=str(ROOT))

    assert "1 passed, 1 deselected" in short
    assert "2 passed" in whole
    assert "2 passed" in named


def test_what_is_in_order_is_not_shuffled_and_all_else_is(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    tests = "".join(f"def test_{number}():\n    assert True\n\n\n" for number in range(20))
    (tmp_path / "test_order.py").write_text(f"import pytest\n\npytestmark = pytest.mark.in_order\n\n\n{tests}")
    (tmp_path / "test_chance.py").write_text(tests)

    _, said = run(tmp_path, "-v", "-p", "randomly", "--randomly-seed", "7", PYTHONPATH=str(ROOT))

    ran = re.findall(r"test_(order|chance)\.py::test_(\d+) PASSED", said)
    by_file = {file: [int(number) for one, number in ran if one == file] for file in ("order", "chance")}
    assert by_file["order"] == [*range(20)], said
    assert sorted(by_file["chance"]) == [*range(20)] != by_file["chance"]


def test_everything_that_is_marked_long_is_in_a_part_of_long() -> None:
    places = [ROOT / place for folders in noxfile.MARKED.values() for place in folders]

    mark = re.compile(r"^(?:@|pytestmark = .*)pytest\.mark\.long\b|marks=.*pytest\.mark\.long", re.MULTILINE)
    marked = [file for file in ROOT.glob("tests/**/test_*.py") if mark.search(file.read_text())]

    assert len(marked) > 5
    assert [file for file in marked if not {file, *file.parents} & {*places}] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="to mount a small disk takes root")
def test_a_full_disk_for_temporary_files_is_said(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_writes.py").write_text(
        "def test_writes(tmp_path):\n    (tmp_path / 'much').write_bytes(bytes(1 << 20))\n"
    )
    mount = f"mount -t tmpfs -o size=256k tmpfs '{small}' && exec \"$@\""
    unshare = shutil.which("unshare")
    assert unshare

    code, said = run(tmp_path / "tests", before=(unshare, "--mount", "sh", "-c", mount, "sh"), TMPDIR=str(small))

    assert code == 1
    assert "No space left on device" in said
