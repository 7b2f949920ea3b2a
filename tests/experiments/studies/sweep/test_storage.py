"""Draws that do not depend on who draws, and URLs without their passwords."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import Trial

from datamodules.errors import DataError
from experiments.studies.sweep.sampler import NumberedSampler
from experiments.studies.sweep.storage import chosen_url, open_storage, redacted
from experiments.studies.sweep.sweep_table import importances


def _objective(trial: Trial) -> float:
    x, y = trial.suggest_float("x", -1, 1), trial.suggest_float("y", -1, 1)
    trial.suggest_categorical("kind", ["a", "b"])
    return -((x - 0.3) ** 2) - 0.01 * y**2


def _study(storage: optuna.storages.BaseStorage | None = None) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        study_name="s",
        storage=storage,
        sampler=NumberedSampler(7, startup=4),
        direction="maximize",
        load_if_exists=True,
    )


def test_an_interrupted_search_draws_what_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole = _study()
    whole.optimize(_objective, n_trials=12)
    for trials in (3, 5, 4):  # a worker of its own each, as after a kill
        _study(open_storage("", tmp_path)).optimize(_objective, n_trials=trials)
    parts = _study(open_storage("", tmp_path)).get_trials()
    assert [trial.params for trial in parts] == [trial.params for trial in whole.get_trials()]
    drawn = np.array([[trial.params["x"], trial.params["y"]] for trial in parts])
    assert len(np.unique(drawn, axis=0)) == 12
    assert abs(np.corrcoef(drawn[:4].T)[0, 1]) < 0.999  # parameters of one trial are drawn apart
    shares = importances(whole)
    assert next(iter(shares)) == "x"
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("", ""),
        ("sqlite:////tmp/s.db", "sqlite:////tmp/s.db"),
        ("postgresql://anna:geheim@host:5432/db", "postgresql://anna:***@host:5432/db"),
        ("mysql+pymysql://host/db?user=anna&password=geheim", "mysql+pymysql://host/db?password=***&user=anna"),
        ("geheim", "***"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert redacted(url) == shown


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("geheim", "no URL that SQLAlchemy reads"),
        ("nothing://anna:geheim@host/db", "cannot be used"),
        ("sqlite:////no/such/folder/s.db?password=geheim", "cannot be used"),
    ],
)
def test_a_storage_that_cannot_be_used_is_refused_without_its_password(tmp_path: Path, url: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as refused:
        open_storage(url, tmp_path)
    assert "geheim" not in str(refused.value)


def test_a_redacted_url_is_not_connected_to() -> None:
    with pytest.raises(DataError, match="has its password taken out"):
        chosen_url("postgresql://anna:***@host/db")
