import subprocess
import sys
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from serving import Silent, serving

ROOT = Path(__file__).parent.parent


def healthcheck(port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app.healthcheck"],
        cwd=ROOT,
        env={"PORT": str(port), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("status", "code"), [(HTTPStatus.OK, 0), (HTTPStatus.SERVICE_UNAVAILABLE, 1), (HTTPStatus.NOT_FOUND, 1)]
)
def test_only_a_200_of_health_is_healthy(status: HTTPStatus, code: int) -> None:
    class Calls(Silent):
        def do_GET(self) -> None:
            self.answer(status if self.path == "/health" else HTTPStatus.NOT_FOUND)

    with serving(Calls) as address:
        done = healthcheck(urlsplit(address).port or 0)
    assert done.returncode == code
    assert done.stderr == ("" if code == 0 else f"unhealthy: GET /health answered {status.value}\n")


def test_a_port_where_nothing_listens_is_unhealthy_and_says_why() -> None:
    done = healthcheck(1)
    assert done.returncode == 1
    assert "refused" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_starts_without_any_package_that_is_not_of_python_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import app.healthcheck, sys; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert loaded - sys.stdlib_module_names == {"__main__", "app"}
