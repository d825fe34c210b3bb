import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from conftest import NOW

from app.errors import ModelsUnavailable, TooFewPrices
from app.models import KEPT, LEAST_HOURS, ModelFolder, SeasonalHourlyMean, train
from app.readings import Price

MONDAY = datetime(2026, 7, 20, tzinfo=UTC)
MODEL = SeasonalHourlyMean({(False, 0): 50.0}, 60.0)
METRICS = {"mae_eur_mwh": 1.5, "samples": 168}
TYPE = SeasonalHourlyMean.type


def hourly(hours: int) -> list[Price]:
    """Prices equal to their hour of day, twice that at weekends."""
    moments = [MONDAY + timedelta(hours=hour) for hour in range(hours)]
    return [
        Price(timestamp=one, price_eur_mwh=one.hour * (2 if one.weekday() >= 5 else 1), provider="ree")
        for one in moments
    ]


def folder_in(path: Path) -> ModelFolder:
    ticks = count()
    return ModelFolder(path, lambda: NOW + timedelta(seconds=next(ticks)))


def left_in(path: Path) -> set[str]:
    return {str(found.relative_to(path)) for found in path.rglob("*") if not found.is_dir()}


def test_a_perfectly_regular_week_is_predicted_without_error() -> None:
    model, metrics = train(hourly(14 * 24))
    assert metrics == {"mae_eur_mwh": 0.0, "samples": 14 * 24}
    assert model.predict(MONDAY + timedelta(days=14, hours=7)) == 7
    assert model.predict(MONDAY + timedelta(days=19, hours=7)) == 14


def test_the_error_is_measured_on_a_day_the_model_had_not_seen() -> None:
    *known, last = hourly(4 * 24)
    dearer = last.model_copy(update={"price_eur_mwh": last.price_eur_mwh + 24})
    assert train([*known, dearer])[1]["mae_eur_mwh"] == 1.0


def test_an_hour_never_seen_gets_the_overall_mean() -> None:
    assert MODEL.predict(MONDAY + timedelta(hours=5)) == 60.0


@pytest.mark.parametrize("hours", [0, LEAST_HOURS - 1])
def test_too_short_a_history_is_refused(hours: int) -> None:
    with pytest.raises(TooFewPrices, match=f"has {hours}"):
        train(hourly(hours))


def test_many_prices_of_one_hour_are_no_history() -> None:
    with pytest.raises(TooFewPrices, match="more than one day"):
        train(hourly(1) * LEAST_HOURS)


def test_the_registry_is_empty_before_the_first_training(tmp_path: Path) -> None:
    assert folder_in(tmp_path / "absent").registry() == {}


def test_a_kept_model_can_be_loaded_by_its_name_and_as_the_latest(tmp_path: Path) -> None:
    entry = folder_in(tmp_path).keep(MODEL, METRICS)
    assert entry["filename"] == f"{TYPE}_{entry['timestamp']}.pkl"
    latest = tmp_path / "latest" / f"{TYPE}.pkl"
    assert os.readlink(latest) == f"../{entry['filename']}"
    assert pickle.loads(latest.read_bytes()) == MODEL  # noqa: S301 - written above


def test_the_registry_has_the_shape_that_backups_and_dashboards_read(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    first, second = folder.keep(MODEL, METRICS), folder.keep(MODEL, METRICS)
    assert set(second) == {"timestamp", "filename", "metrics", "created_at", "is_current"}
    assert json.loads((tmp_path / "model_registry.json").read_text()) == {
        TYPE: {"models": [{**first, "is_current": False}, second], "latest": second}
    }


def test_the_last_ten_are_kept_and_the_files_of_the_others_removed(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    entries = [folder.keep(MODEL, METRICS) for _ in range(KEPT + 3)]
    names = [entry["filename"] for entry in entries[-KEPT:]]
    assert [entry["filename"] for entry in folder.registry()[TYPE]["models"]] == names
    assert left_in(tmp_path) == {*names, "model_registry.json", f"latest/{TYPE}.pkl", ".lock"}


def test_trainings_at_once_lose_no_model(tmp_path: Path) -> None:
    folder = folder_in(tmp_path)
    with ThreadPoolExecutor(KEPT) as pool:
        kept = list(pool.map(lambda _: folder.keep(MODEL, METRICS)["filename"], range(KEPT)))
    registered = folder.registry()[TYPE]
    assert sorted(entry["filename"] for entry in registered["models"]) == sorted(kept)
    assert [entry["is_current"] for entry in registered["models"]] == [False] * (KEPT - 1) + [True]
    assert os.readlink(tmp_path / "latest" / f"{TYPE}.pkl") == f"../{registered['latest']['filename']}"


@pytest.mark.parametrize("moment", range(1, 4), ids=["model", "registry", "link"])
def test_a_training_that_dies_leaves_no_partial_file_and_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    folder = folder_in(tmp_path)
    before = folder.keep(MODEL, METRICS)
    replacements = count(1)

    def full_disk(source: str, target: Path) -> None:
        if next(replacements) == moment:
            raise OSError(28, "No space left on device")
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_disk)
        with pytest.raises(ModelsUnavailable, match="No space left"):
            folder.keep(MODEL, METRICS)
    for entry in folder.registry()[TYPE]["models"]:
        assert pickle.loads((tmp_path / entry["filename"]).read_bytes()) == MODEL  # noqa: S301
    latest = (tmp_path / "latest" / f"{TYPE}.pkl").resolve()
    assert latest == tmp_path / before["filename"]
    after = folder.keep(MODEL, METRICS)
    assert folder.registry()[TYPE]["latest"] == after
    assert not [name for name in left_in(tmp_path) if name.endswith(".tmp")]


def test_a_folder_that_cannot_be_used_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelsUnavailable, match="Not a directory"):
        folder_in(tmp_path / "file" / "models").keep(MODEL, METRICS)


def test_a_damaged_registry_is_reported_and_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "model_registry.json").write_text('{"price')
    with pytest.raises(ModelsUnavailable, match=r"model_registry\.json"):
        folder_in(tmp_path).keep(MODEL, METRICS)
    assert (tmp_path / "model_registry.json").read_text() == '{"price'
