"""The log of a job, wherever it can be had: from the API, our own Forgejo's container, or a public web page."""

from __future__ import annotations

from functools import cached_property

from conche.ci.forge.forge import LARGEST_LOG, Forge
from conche.ci.forge.own import LogForm, OwnForge
from conche.ci.forge.values import Run, ServerJob, ended
from conche.command import Invocation
from conche.errors import ConcheError, NotFound, Refused

__all__ = ["JobLogs", "LogNotThere"]


class LogNotThere(NotFound):
    """The server is ours, and this one log cannot be read: it is still written, compressed, or deleted."""


class JobLogs:
    """The logs of one run's jobs."""

    def __init__(self, call: Invocation, forge: Forge, run: Run) -> None:
        self._call, self._forge, self._run = call, forge, run

    def of(self, job: ServerJob) -> str:
        """Return the log of a job; of one that is larger than `LARGEST_LOG`, its end.

        Raises:
            LogNotThere: our own server has no plain file of it.
            Refused: the server's version has no API for it, and nothing else gives it.
        """
        if self._forge.can("job-log"):
            return self._forge.log(job, self._run.url)
        kept, tried = None, []
        try:
            if self._own is not None:
                kept, text = self._own.log(self._repository, job.id, LARGEST_LOG)
                if kept is LogForm.PLAIN:
                    return text
        except ConcheError as error:
            tried.append(error.message)
        try:
            return self._forge.public_log(self._run, job)
        except ConcheError as error:
            tried.append(error.message)
        if kept is not None:
            raise self._not_there(job, kept)
        self.refuse(tried)
        raise AssertionError("a server without the API refuses")

    def refuse(self, tried: list[str]) -> None:
        """Refuse if the server's API has no logs, naming the page of the run and what else was tried."""
        try:
            self._forge.require("job-log", self._run.url)
        except Refused as error:
            looked = [*error.looked_at, *tried]
            raise Refused(error.code, error.message, looked_at=looked, next_command=error.next_command) from error

    @cached_property
    def _own(self) -> OwnForge | None:
        """The Forgejo of this stack, if that is the server."""
        own = OwnForge.find(self._call)
        return own if own is not None and own.address == self._forge.client.address else None

    @cached_property
    def _repository(self) -> str:
        """The repository's name in the server's own spelling, which its files have."""
        return str(self._forge.described()["full_name"])

    def _not_there(self, job: ServerJob, kept: LogForm) -> LogNotThere:
        page = f"open {self._run.url}"
        if kept is LogForm.COMPRESSED:
            return LogNotThere(
                "log-not-there",
                f"The server keeps the log of {job.name} compressed, which only its page undoes.",
                looked_at=["FORGEJO__actions__LOG_COMPRESSION, which is for jobs that begin after it was set to none"],
                next_command=page,
            )
        if not ended(job.state):
            return LogNotThere(
                "log-not-there",
                f"{job.name} is {job.state}: until it has ended, only its page has the log.",
                next_command=f"invoke ci.watch --run {self._run.number}    # then again, or\n{page}",
            )
        return LogNotThere(
            "log-not-there",
            f"The server has no file with the log of {job.name}: its runner was killed, or the log is too old.",
            looked_at=["FORGEJO__actions__LOG_RETENTION_DAYS; a killed runner's log becomes a file within a day"],
            next_command=page,
        )
