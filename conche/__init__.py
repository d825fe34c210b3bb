"""Conche: Invoke tasks that run a self-hosted Docker Compose stack described by one `stack.yaml`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from invoke import Collection

    __version__: str

__all__ = ["__version__", "namespace"]


def namespace(root: str | Path) -> Collection:
    """The tasks of the toolkit as one Invoke collection.

    Args:
        root: the folder with `stack.yaml`, or a file in it; a tasks.py gives its own `__file__`.
    """
    require_posix()
    from invoke import Collection

    from conche.command import seldom_collecting

    with seldom_collecting():
        from conche.backup import tasks as backup
        from conche.ci import tasks as ci
        from conche.ci.runner import tasks as runner
        from conche.doctor import tasks as doctor
        from conche.env import tasks as env
        from conche.env.influx import tasks as influx
        from conche.images import tasks as images
        from conche.secrets import tasks as secrets
        from conche.secrets.recipients import tasks as recipients

    folder = Path(root).resolve()
    collection = Collection("conche")
    collection.configure({"conche": {"root": str(folder if folder.is_dir() else folder.parent)}})
    collection.add_task(doctor.doctor)
    for module, name in ((backup, "backup"), (env, "env"), (images, "images"), (secrets, "secrets"), (ci, "ci")):
        collection.add_collection(Collection.from_module(module, name=name))
    collection.collections["secrets"].add_collection(Collection.from_module(recipients, name="recipients"))
    collection.collections["env"].add_collection(Collection.from_module(influx, name="influx"))
    collection.collections["ci"].add_collection(Collection.from_module(runner, name="runner"))
    return collection


def require_posix() -> None:
    """Refuse Windows: pip installs what is pure Python there too, and the first lock would end in a traceback."""
    if sys.platform == "win32":
        from conche.errors import Refused
        from conche.output import Output

        error = Refused(
            "windows-unsupported",
            "Conche does not run on Windows itself; inside WSL it does.",
            next_command="wsl --install",
        )
        Output("conche").error(error)
        raise SystemExit(error.status)


if not TYPE_CHECKING:  # to a type checker it would make every name an attribute

    def __getattr__(name: str) -> str:
        """`conche.__version__`, looked up when it is asked for: in a checkout that means to ask git."""
        if name == "__version__":
            from conche.version import version

            return version()
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
