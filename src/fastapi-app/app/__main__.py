"""`python -m app [--reload]`: serve on 0.0.0.0, port $PORT or 8000, until SIGTERM."""

import argparse
from pathlib import Path

import uvicorn

from app.main import create_app

# Compose's stop_grace_period must be longer, or the engine kills what is still being answered.
SHUTDOWN_SECONDS = 20
ALL_INTERFACES = "0.0.0.0"  # noqa: S104 - a container is reached from outside its own loopback


def main(arguments: list[str] | None = None) -> None:
    """Serve; exits 78 with one line on stderr when the configuration cannot work."""
    parser = argparse.ArgumentParser(prog="python -m app", description=__doc__)
    parser.add_argument("--reload", action="store_true", help="start again when the code changes")
    reload = parser.parse_args(arguments).reload
    # With --reload this one only tries the configuration, so that a faulty one ends the reloader too.
    app = create_app()
    uvicorn.run(
        "app.main:create_app" if reload else app,
        factory=reload,
        reload=reload,
        reload_dirs=[str(Path(__file__).parent)] if reload else None,
        host=ALL_INTERFACES,
        port=app.state.services.settings.port,
        log_config=None,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


if __name__ == "__main__":
    main()
