"""Keeps an environment's files in its own engine, so that every client of that engine sees the same.

They are in a named volume. A container that is created but never started gives access to it: nothing has to run, and it
works over ssh too.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from conche.engine.connection import OF_NO_PROJECT, Engine, translated
from conche.errors import Unreachable

__all__ = ["State", "forget", "kept", "volume_name"]

FOLDER = "/state"

LABEL = "io.conche.state"


def volume_name(project: str) -> str:
    """Return the name of the volume with a project's state."""
    return f"{project}-state"


def kept(engine: Engine, project: str) -> bool:
    """Return whether anything was ever kept for a project."""
    with translated(engine.address):
        volumes = engine.client.api.volumes(filters={"name": volume_name(project)}).get("Volumes") or []
    return any(volume["Name"] == volume_name(project) for volume in volumes)


def forget(engine: Engine, project: str) -> None:
    """Delete a project's state with the container that gives access to it; either may be gone already."""
    import docker.errors

    api, name = engine.client.api, volume_name(project)
    with translated(engine.address):
        with contextlib.suppress(docker.errors.NotFound):
            api.remove_container(name, force=True, v=True)
        with contextlib.suppress(docker.errors.NotFound):
            api.remove_volume(name)


class State:
    """The state of one Compose project.

    Args:
        images: candidates for the image of the container, which is never started; the first that the engine has is
            used.
    """

    def __init__(self, engine: Engine, project: str, images: Sequence[str]) -> None:
        self._engine, self._project, self._images = engine, project, images

    def read(self) -> dict[str, bytes]:
        """Return every file, by its path below the state folder; empty if nothing was ever kept."""
        import docker.errors

        api = self._engine.client.api
        with translated(self._engine.address):
            if not kept(self._engine, self._project):
                return {}
            container = self._container()
            try:
                stream, _ = api.get_archive(container, FOLDER)
                packed = b"".join(stream)
            except docker.errors.NotFound:
                return {}
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            return {
                member.name.partition("/")[2]: stream.read()
                for member in archive
                if member.isfile() and (stream := archive.extractfile(member)) is not None
            }

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files (0600, owned by root), replacing existing ones; others stay."""
        with translated(self._engine.address):
            if not self._engine.client.api.put_archive(self._container(), FOLDER, packed(files)):
                raise Unreachable("state-not-kept", f"The engine did not keep the state of {self._project}.")

    def remove(self, paths: Iterable[str]) -> None:
        """Remove files or folders; this briefly runs a container.

        Raises:
            Unreachable: some of them are still there.
        """
        argv = ["rm", "-rf", "--", *(f"{FOLDER}/{path}" for path in paths)]
        api = self._engine.client.api
        with translated(self._engine.address):
            config = self._host_config()
            made = api.create_container(
                self._image(), entrypoint=argv, command=[], user="0:0", labels=OF_NO_PROJECT, host_config=config
            )
            try:
                api.start(made["Id"])
                failed = api.wait(made["Id"])["StatusCode"] != 0
                said = api.logs(made["Id"]).decode(errors="replace").splitlines() if failed else []
            finally:
                api.remove_container(made["Id"], force=True, v=True)
        if failed:
            raise Unreachable(
                "state-not-removed",
                f"The engine did not delete old state of {self._project}.",
                evidence=said[-3:],
                next_command="docker system df",
            )

    def _container(self) -> str:
        import docker.errors

        api, name = self._engine.client.api, volume_name(self._project)
        try:
            return str(api.inspect_container(name)["Id"])
        except docker.errors.NotFound:
            pass
        try:
            made: dict[str, Any] = api.create_container(
                self._image(),
                entrypoint=["true"],
                name=name,
                labels={**OF_NO_PROJECT, LABEL: self._project},
                host_config=self._host_config(),
            )
        except docker.errors.APIError as error:
            if error.status_code != 409:  # 409: somebody else has just made it
                raise
            return str(api.inspect_container(name)["Id"])
        return str(made["Id"])

    def _image(self) -> str:
        from conche.engine import images

        for reference in self._images:
            if images.find(self._engine, reference) is not None:
                return reference
        raise Unreachable(
            "no-image-for-state",
            f"The engine has no image yet with which to access the state of {self._project}.",
            looked_at=list(self._images),
            next_command="invoke images.base",
        )

    def _host_config(self) -> Any:
        return self._engine.client.api.create_host_config(
            binds={volume_name(self._project): {"bind": FOLDER, "mode": "rw"}}, network_mode="none"
        )


def packed(files: Mapping[str, bytes], mode: int = 0o600) -> bytes:
    """Pack files and their folders into the tar archive that the engine takes."""
    buffer = io.BytesIO()
    now = int(time.time())
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folders = sorted({part for path in files for part in _parents(path)})
        for folder in folders:
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o700 if mode == 0o600 else 0o755, now
            archive.addfile(entry)
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode, entry.mtime = len(content), mode, now
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _parents(path: str) -> Iterable[str]:
    parts = path.split("/")[:-1]
    return ("/".join(parts[: count + 1]) for count in range(len(parts)))
