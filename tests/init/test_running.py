"""What there is on the engine before `conche init`."""

from __future__ import annotations

import subprocess
import uuid
from pathlib import Path

import pytest

from conche.init.compose import Rendered
from conche.init.environments import ProposedEnvironment
from conche.init.running import left_behind


def rendered(project: str, **volumes: str) -> Rendered:
    return Rendered({"name": project, "volumes": {key: {"name": name} for key, name in volumes.items()}}, frozenset())


@pytest.mark.engine
def test_a_volume_that_is_there_and_that_an_environment_would_lose_is_warned_about() -> None:
    name = f"t{uuid.uuid4().hex[:10]}"
    files = (Path("compose.yaml"),)
    found = [ProposedEnvironment("dev", files), ProposedEnvironment("prod", files, rival="dev")]
    plain = rendered(name, data=f"{name}_data", new=f"{name}_new", named=f"{name}_data")
    after = rendered(f"{name}-prod", data=f"{name}-prod_data", new=f"{name}-prod_new", named=f"{name}_data")
    subprocess.run(["docker", "volume", "create", f"{name}_data"], check=True, capture_output=True)
    try:
        [warning] = left_behind(found, {"dev": plain, "prod": plain}, {"dev": plain, "prod": after})
    finally:
        subprocess.run(["docker", "volume", "rm", f"{name}_data"], check=True, capture_output=True)

    assert warning.startswith(f"prod: its volume data will be a new one, since {name}_data belongs to dev's project")
