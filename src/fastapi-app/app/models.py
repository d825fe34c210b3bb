"""Models made from stored prices, and the folder that keeps them."""

import fcntl
import json
import os
import pickle
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

from app.errors import ModelsUnavailable, TooFewPrices
from app.readings import Price

KEPT = 10
REGISTRY = "model_registry.json"
HELD_OUT_HOURS = 24
LEAST_HOURS = 3 * HELD_OUT_HOURS

# {type: {"models": [entry, ...oldest first], "latest": entry}}; an entry is
# {timestamp, filename, metrics, created_at, is_current}. Backups and dashboards read this file.
Registry = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class SeasonalHourlyMean:
    """Predicts an hour's price as the mean of the same UTC hour of day, weekdays and weekends apart."""

    means: dict[tuple[bool, int], float]
    overall: float

    type = "price_hourly_mean"

    @classmethod
    def trained_on(cls, prices: Sequence[Price]) -> "SeasonalHourlyMean":
        seasons: dict[tuple[bool, int], list[float]] = defaultdict(list)
        for price in prices:
            seasons[_season(price.timestamp)].append(price.price_eur_mwh)
        means = {season: fmean(values) for season, values in seasons.items()}
        return cls(means, fmean(price.price_eur_mwh for price in prices))

    def predict(self, hour: datetime) -> float:
        """EUR/MWh; the overall mean for a season that the training never saw."""
        return self.means.get(_season(hour), self.overall)

    def mean_absolute_error(self, prices: Sequence[Price]) -> float:
        """EUR/MWh, over prices it was not trained on if the number is to mean anything."""
        return fmean(abs(self.predict(price.timestamp) - price.price_eur_mwh) for price in prices)


def _season(moment: datetime) -> tuple[bool, int]:
    return moment.weekday() >= 5, moment.hour


def train(prices: Sequence[Price]) -> tuple[SeasonalHourlyMean, dict[str, float]]:
    """A model of all the prices (oldest first), and how well one without the last day predicted that day.

    Metrics: `mae_eur_mwh`, `samples`. Raises TooFewPrices under three days of them.
    """
    if len(prices) < LEAST_HOURS:
        raise TooFewPrices(f"training needs {LEAST_HOURS} hourly prices, the store has {len(prices)}")
    last_day = prices[-1].timestamp - timedelta(hours=HELD_OUT_HOURS)
    known = [price for price in prices if price.timestamp <= last_day]
    if not known:
        raise TooFewPrices("training needs prices of more than one day")
    held_out = [price for price in prices if price.timestamp > last_day]
    error = SeasonalHourlyMean.trained_on(known).mean_absolute_error(held_out)
    return SeasonalHourlyMean.trained_on(prices), {"mae_eur_mwh": round(error, 3), "samples": len(prices)}


class ModelFolder:
    """`<type>_<timestamp>.pkl`, `latest/<type>.pkl` (a relative link) and `model_registry.json`.

    Every file appears whole or not at all, and trainings of any process take turns. The last ten of a type
    are kept. Raises ModelsUnavailable where the folder cannot be used.
    """

    def __init__(self, folder: Path, clock: Callable[[], datetime]) -> None:
        self._folder, self._clock = folder, clock

    def registry(self) -> Registry:
        """The registry as it stands; empty before the first training."""
        try:
            return dict(json.loads((self._folder / REGISTRY).read_bytes()))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise ModelsUnavailable(f"{self._folder / REGISTRY}: {error}") from error

    def keep(self, model: SeasonalHourlyMean, metrics: dict[str, float]) -> dict[str, Any]:
        """Store a model as its type's latest and return its registry entry."""
        try:
            with self._turn():
                return self._keep(model, metrics)
        except OSError as error:
            raise ModelsUnavailable(f"{self._folder}: {error.strerror or error}") from error

    def _keep(self, model: SeasonalHourlyMean, metrics: dict[str, float]) -> dict[str, Any]:
        registry, now = self.registry(), self._clock()
        timestamp = now.strftime("%Y%m%d_%H%M%S_%f")
        filename = f"{model.type}_{timestamp}.pkl"
        entry = {
            "timestamp": timestamp,
            "filename": filename,
            "metrics": metrics,
            "created_at": now.isoformat(),
            "is_current": True,
        }
        older = [{**known, "is_current": False} for known in registry.get(model.type, {}).get("models", [])]
        entries = [*older, entry]
        registry[model.type] = {"models": entries[-KEPT:], "latest": entry}
        # In this order a crash leaves at worst a file that nothing names, never a name without its file.
        _write_whole(self._folder / filename, pickle.dumps(model))
        _write_whole(self._folder / REGISTRY, json.dumps(registry, indent=2).encode())
        _link_whole(self._folder / "latest" / f"{model.type}.pkl", Path("..") / filename)
        for dropped in entries[:-KEPT]:
            (self._folder / Path(dropped["filename"]).name).unlink(missing_ok=True)
        return entry

    @contextmanager
    def _turn(self) -> Iterator[None]:
        (self._folder / "latest").mkdir(parents=True, exist_ok=True)
        with open(self._folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _write_whole(path: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".tmp", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    _sync_folder(path.parent)


def _link_whole(path: Path, target: Path) -> None:
    # The lock is held, so a link of this name is what a killed training left.
    spare = path.with_name(f".{path.name}.tmp")
    spare.unlink(missing_ok=True)
    spare.symlink_to(target)
    os.replace(spare, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
