"""The commands of docs/how-to/from-the-old-commands.md, each with what it has to answer on this project's own stack."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["WALK", "Step", "dry"]


@dataclass(frozen=True)
class Step:
    """One command of the document.

    Attributes:
        written: as the document has it.
        says: what its answer has to have in it, as a pattern.
        typed: with what the reader fills in, where that is not what is written.
        exit: the exit code that it has to end with.
        stdin: what is piped into it.
    """

    written: str
    says: str
    typed: str = ""
    exit: int = 0
    stdin: str = ""


def dry(written: str, says: str, typed: str = "", exit: int = 0) -> Step:  # noqa: A002 - what it is called there
    """A command that only says what it would do."""
    return Step(written, says, f"{typed or written} --dry-run", exit)


WALK = [
    # Setting up
    Step("invoke secrets.render", r"\.env"),
    Step("invoke images.build --env dev", ":develop"),
    Step("invoke images.push --env dev", "sha256:"),
    Step("invoke images.release --env dev", "sha256:"),
    Step("invoke env.up", "http://localhost:"),
    Step("invoke env.networks --create", "dev-backend"),
    Step("invoke images.promote --from dev --to prod", "production"),
    # Deploying
    Step("invoke images.login", "accepts admin"),
    Step("invoke images.pull --env dev", ":develop"),
    Step("invoke env.update --service fastapi-app-dev", "fastapi-app-dev"),
    Step("invoke env.up --env dev", "Nothing to do"),
    Step("invoke env.status --env dev", "fastapi-app-dev.*running.*healthy"),
    Step("invoke env.health --env dev", "200"),
    dry("invoke env.deploy --env prod", "start +release r1 of fastapi-app-prod"),
    # Updating
    Step("invoke images.build", ":develop"),
    Step("invoke images.push", "sha256:"),
    Step("invoke images.pull", ":develop"),
    Step("invoke env.update --env dev --service fastapi-app-dev", "already runs this image"),
    dry("invoke env.update --env dev --service fastapi-app-dev --build", "build.*:develop"),
    Step("invoke env.update --env dev --service fastapi-app-dev", "already runs this image"),
    dry("invoke images.release --env prod", ":production"),
    dry("invoke env.deploy --env prod", "start +release r1 of fastapi-app-prod"),
    dry("invoke env.rollback --env prod", "no-such-release|no-earlier-release", exit=6),
    # When something was wrong
    Step("invoke images.list", "develop(.|\n)*production"),
    Step("invoke images.build", ":develop"),
    Step('invoke env.logs --env dev \\| grep -i "startup complete"', "startup complete"),
    # Secrets
    Step("invoke secrets.init", "Nothing to do"),
    Step("invoke secrets.set NAME", "aemet_api_key", "invoke secrets.set aemet_api_key", stdin="a key of aemet"),
    Step("invoke secrets.encrypt FILE --merge", "ree_api_token", "invoke secrets.encrypt old.yaml --merge"),
    Step("invoke secrets.render", r"ree_api_token.txt +created"),
    Step("invoke secrets.render --env-only", r"\.env +same"),
    Step("invoke secrets.edit", "openweathermap_api_key", "invoke secrets.edit --allow-disk"),
    Step("invoke secrets.set NAME", "registry_user", "invoke secrets.set registry_user", stdin="admin"),
    Step("invoke secrets.check", "stale +.env does not match the secrets", exit=1),
    dry("invoke secrets.rotate --identity", "rotate.*secrets.enc.yaml"),
    Step("invoke secrets.render", r"\.env"),
    Step("invoke secrets.recipients.list", "age1"),
    Step("invoke secrets.check", "nothing found"),
    Step("invoke secrets.list", "aemet_api_key"),
    Step("invoke env.config", "fastapi-app-dev:"),
    # Compose reference
    Step("invoke env.up --env dev", "fastapi-app-dev|Nothing to do"),
    dry("invoke env.deploy --env prod", "start +release r1 of fastapi-app-prod"),
    dry("invoke env.up --env prod", "start +release r1 of fastapi-app-prod"),
    dry("invoke env.down --env dev", "fastapi-app-dev"),
    dry("invoke env.down --env prod", "Nothing to do", "invoke env.down --env prod --confirm prod"),
    Step("invoke env.logs --env dev --follow", "startup complete", "invoke env.logs --env dev"),
    Step("invoke env.logs --env prod --tail 100", "prod has no container"),
    Step("invoke env.update --env dev --service fastapi-app-dev", "already runs this image"),
    dry("invoke env.deploy --env prod", "start +release r1 of fastapi-app-prod"),
    dry("invoke env.down --env dev --volumes", "volume .*models_dev", "invoke env.down --env dev --volumes --yes"),
    dry("invoke env.down --env prod --volumes --confirm prod", "models_prod"),
    # Backups
    Step("invoke backup.create daily", "DEGRADED(.|\n)*influxdb", exit=3),
    Step("invoke backup.restore", "_daily_"),
    dry("invoke backup.restore NAME [--force]", "exchange.*models", "invoke backup.restore latest --force"),
    Step("invoke backup.verify [NAME]", "_daily_.* ok", "invoke backup.verify latest"),
    dry("invoke backup.cron install", "schedule"),
    dry(
        "invoke backup.restore NAME --component influxdb",
        "has no component 'influxdb'",
        "invoke backup.restore latest --component influxdb",
        exit=6,
    ),
    dry(
        "invoke backup.restore NAME --component models",
        "exchange.*models",
        "invoke backup.restore latest --component models --force",
    ),
    Step("invoke env.influx.prune --older-than 90d --dry-run", "influxdb is not running in prod", exit=6),
    # Pipeline
    dry("invoke ci.setup", "put +secret SOPS_AGE_KEY"),
    dry("invoke ci.secrets --new-key", "SOPS_AGE_KEY"),
    Step("invoke ci.runner.status", "dev .*absent", exit=1),
    Step("invoke ci.status", "ci-cd-dual.yml"),
    Step("invoke ci.watch", "ok"),
    Step("invoke ci.logs", "all passed"),
    Step("invoke ci.runner.logs --runner dev --follow", "dev has no container", "invoke ci.runner.logs --runner dev"),
    dry("invoke secrets.rotate-value runner_token_dev", "runner_token_dev"),
    dry("invoke ci.runner.up", r"image \S*runner"),
    dry("invoke ci.run --job test-all", "test-all"),
    Step("invoke images.build", ":develop"),
]
