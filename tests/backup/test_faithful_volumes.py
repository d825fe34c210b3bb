"""What comes back in a volume is what was there, on the real engine, and what cannot be kept is said."""

from __future__ import annotations

import ast
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conche.backup.archive import ArchiveWriter, compressing
from conche.backup.drivers.volume import read_into
from conche.backup.filling import _put
from conche.backup.losses import Losses
from conche.backup.reading import Reading
from conche.backup.strict import Limits, Walked, admitted
from conche.backup.within import opened
from conche.engine import gnutar, networks, volumes
from conche.engine.connection import Engine
from conche.engine.packing import Helper, helping
from tests.backup import unusual
from tests.backup.checkouts import with_backup
from tests.backup.unusual import Seen
from tests.stacks import SmallStack

pytestmark = pytest.mark.engine


def python(container: str, code: str) -> str:
    """Run Python in a container, with what `unusual` has."""
    script = Path(unusual.__file__).read_text() + code
    argv = ["docker", "exec", "-i", "-u", "0", container, "python3", "-"]
    return subprocess.run(argv, input=script, capture_output=True, text=True, check=True).stdout


def seen(container: str, place: str) -> Seen:
    """What there is to see of a folder of a container, without what restores have put aside."""
    found: Seen = ast.literal_eval(python(container, f"\nprint(look(Path({place!r})))"))
    return {name: what for name, what in found.items() if "restore-" not in name}


def without_time(found: Seen) -> Seen:
    """The same without the time of the top, which changes whenever something in it is renamed."""
    top = found["."]
    return {**found, ".": (*top[:3], *top[4:])}


@pytest.mark.parametrize("unpacked", ["true", "false"])
def test_a_volume_comes_back_as_it_was_and_so_it_does_by_an_undo(small: SmallStack, unpacked: str) -> None:
    with_backup(small)
    small.replace("stack.yaml", "driver: volume", f"driver: volume, unpacked: {unpacked}")
    small.up()
    web = f"{small.name}-web"
    python(web, "\nmake_unusual(Path('/kept'))\nos.chown('/kept', 4242, 4242)\nos.chmod('/kept', 0o2770)")
    python(web, "\nos.setxattr('/kept', DEFAULT, INHERITED)\nPath('/kept/journal').write_text('first')")
    before = seen(web, "/kept")
    made = small.invoke("backup.create", "daily", "--json")
    assert made.returncode == 0, made.stderr
    python(web, "\nos.chmod('/kept', 0o755)\nos.chown('/kept', 0, 0)\nos.removexattr('/kept', DEFAULT)")
    python(web, "\nos.system('rm -rf /kept/*')")
    python(web, "\nPath('/kept/journal').write_text('later')")
    later = seen(web, "/kept")

    done = small.invoke("backup.restore", "latest", "--component", "kept", "--force")

    assert done.returncode == 0, done.stderr
    assert without_time(seen(web, "/kept")) == without_time(before)
    undone = small.invoke("backup.undo", "--force")
    assert undone.returncode == 0, undone.stderr
    assert without_time(seen(web, "/kept")) == without_time(later)
    assert json.loads(made.stdout)["value"]["complete"]


@pytest.fixture
def scratch(
    engine: Engine, base_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, str]]:
    """Two volumes, the first with everything that there may be in one; what helps with them has Python, too."""
    monkeypatch.setattr(gnutar, "provide", lambda _: None)
    names = [f"{tmp_path.name.replace('_', '-')}-{one}-faithful" for one in ("full", "empty")]
    try:
        for name in names:
            engine.client.api.create_volume(name, labels={volumes.LABEL: name})
        with helping(engine, names[0], writable=True) as helper:
            python(helper.id, f"\nmake_unusual(Path({volumes.MOUNTED!r}))")
        yield names[0], names[1]
    finally:
        for name in names:
            networks.remove_volume(engine, name)


def test_gnu_tar_is_found_and_an_empty_volume_is_filled_exactly(
    engine: Engine, scratch: tuple[str, str], tmp_path: Path
) -> None:
    reading = Reading(searched=False, top=True, exclude=("d/second", "*.tmp", "new\nli[mn]e"))
    losses = Losses()
    with compressing(tmp_path / "a.tar.gz") as compressor, helping(engine, scratch[0]) as helper:
        writer = ArchiveWriter(compressor)
        read_into(writer, helper, scratch[0], reading)
        made = writer.finish()
        before = seen(helper.id, volumes.MOUNTED)

    with helping(engine, scratch[1], writable=True) as helper, opened(tmp_path, "a.tar.gz") as file:
        limits = Limits(made.members, made.content, exact=True, links_out=True, top=True)
        _put(helper, volumes.MOUNTED, admitted(file, limits, Walked()), losses)
        after = seen(helper.id, volumes.MOUNTED)

    assert (reading.left_out, bool(losses)) == ([], False)
    kept = {name: what for name, what in before.items() if name not in ("d/second", "new\nline")}
    # Names of one file are told by the first of them.
    assert after == {
        name: (*what[:5], str(what[5]).replace("d/second", "plain"), *what[6:]) for name, what in kept.items()
    }
    assert made.content < 1 << 20


def test_without_gnu_tar_it_is_said_what_is_lost(engine: Engine, scratch: tuple[str, str], tmp_path: Path) -> None:
    reading, losses = Reading(searched=False, top=True), Losses()
    with volumes.mounted(engine, scratch[0]) as container, compressing(tmp_path / "a.tar.gz") as compressor:
        writer = ArchiveWriter(compressor)
        read_into(writer, Helper(engine, container, packs=False), scratch[0], reading)
        made = writer.finish()
    with volumes.mounted(engine, scratch[1], writable=True) as container, opened(tmp_path, "a.tar.gz") as file:
        limits = Limits(made.members, made.content, exact=True, links_out=True, top=True)
        _put(Helper(engine, container, packs=False), volumes.MOUNTED, admitted(file, limits, Walked()), losses)
    with helping(engine, scratch[0]) as helper:
        before = seen(helper.id, volumes.MOUNTED)
    with helping(engine, scratch[1]) as helper:
        after = seen(helper.id, volumes.MOUNTED)

    [lost] = [one for one in reading.left_out if "an image on the engine has GNU tar" in one.why]
    assert not lost.harmful
    assert {name: what[:3] for name, what in after.items() if name != "acl"} == {
        name: what[:3] for name, what in before.items() if name != "acl"
    }
    assert {name: what[5] for name, what in after.items()} == {name: what[5] for name, what in before.items()}
