"""The errors this application means to raise.

ApplicationError
├── ConfigurationError   the start is refused (exit 78)
├── StoreUnavailable     503
├── IngestionOff         403
├── SourceFailed         reported per source by an ingestion
├── CrossSite            403
├── TooFewPrices         409
└── ModelsUnavailable    503

Messages are for the person who runs the application and never hold a secret.
"""


class ApplicationError(Exception):
    """A fault of the world, not of the code. `code` and `status` are what a client sees."""

    code = "application-error"
    status = 500


class ConfigurationError(ApplicationError):
    """The environment cannot work. Holds every problem found, not just the first."""

    code = "configuration"
    exit_code = 78  # EX_CONFIG of sysexits.h

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))


class StoreUnavailable(ApplicationError):
    """The store cannot be reached, or refuses what was asked of it."""

    code = "store-unavailable"
    status = 503


class IngestionOff(ApplicationError):
    """This environment may not fetch and write."""

    code = "ingestion-off"
    status = 403


class CrossSite(ApplicationError):
    """A page of another site has a browser send this request."""

    code = "cross-site"
    status = 403


class SourceFailed(ApplicationError):
    """A public API did not answer, or answered something else than documented."""

    code = "source-failed"
    status = 502


class TooFewPrices(ApplicationError):
    """The store holds too short a history to train on."""

    code = "too-few-prices"
    status = 409


class ModelsUnavailable(ApplicationError):
    """The models folder cannot be read or written, or its registry is damaged."""

    code = "models-unavailable"
    status = 503
