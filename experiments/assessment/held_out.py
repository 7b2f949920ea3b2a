"""What the tables of a finished run say of patients that it had not learned from: how well, how sure, which course."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from callbacks.predictions import PREDICTIONS
from datamodules.errors import DataError
from datamodules.files import read_parquet
from experiments.doubt.task_doubt import Validated
from experiments.runs.launch import DONE
from experiments.scores.outcomes import RISK, score_columns
from experiments.scores.results_table import groups
from experiments.statistics.horizons import HORIZONS_MONTHS
from experiments.statistics.kaplan_meier import survival_at
from lightning_modules.export.task_head import TaskHead

RISK_GROUPS = {1: ("",), 2: ("low", "high"), 3: ("low", "intermediate", "high")}
_HELD_OUT = ("pooled external", "out-of-fold", "internal test")
_COUNTS = ("positives", "minority", "events")


def group_courses(predictions: pd.DataFrame, head: TaskHead) -> dict[str, dict[str, Any]]:
    """How held-out patients of every risk group fared: Kaplan-Meier with its 95 % interval, n and events.

    The curve of a Cox model has no interval for one patient; this one is that of patients whom the model put into the
    same group, and whom it had not learned from.

    Args:
        predictions: As `PredictionWriter` writes them.
        head: The model, whose cuts part the groups.

    Returns:
        By group: `patients` (who they are), `n`, `events`, and for each of `HORIZONS_MONTHS` value, low, high.
    """
    tested = {group.name: group for group in groups(predictions)}
    names = RISK_GROUPS.get(len(head.risk_cuts) + 1, ())
    chosen = next((tested[name] for name in _HELD_OUT if name in tested), None)
    if chosen is None or len(names) < 2:
        return {}
    rows = chosen.rows[chosen.rows[f"{head.endpoint}_event"].notna()]
    number = head.risk_group(torch.from_numpy(rows[RISK].to_numpy(dtype=np.float64))).numpy()
    found = {}
    for place, name in enumerate(names):
        own = rows[number == place]
        if own.empty:
            continue
        months = own[f"{head.endpoint}_months"].to_numpy(dtype=np.float64)
        event = own[f"{head.endpoint}_event"].to_numpy(dtype=bool)
        at = {f"{month:g}_months": survival_at(months, event, month) for month in HORIZONS_MONTHS}
        found[name] = {
            "patients": chosen.name,
            "n": len(own),
            "events": int(event.sum()),
            "survival": {
                month: {
                    key: None if np.isnan(getattr(one, key)) else getattr(one, key) for key in ("value", "low", "high")
                }
                for month, one in at.items()
            },
        }
    return found


def certainty_of(folder: Path, head: TaskHead) -> Validated | None:
    """How sure the scores of a run are, by its validation patients."""
    predictions = read_parquet(folder / PREDICTIONS)[0]  # a damaged file is a DataError of its own
    try:
        found = Validated.of(predictions)
        columns = len(score_columns(predictions))
    except (ValueError, LookupError, TypeError) as error:
        raise _damaged(folder, PREDICTIONS) from error
    if columns != len(head.classes):
        raise _damaged(folder, PREDICTIONS)
    return found


def courses_of(folder: Path, head: TaskHead) -> dict[str, dict[str, Any]]:
    """How the held-out patients of a run fared, by risk group."""
    try:
        return group_courses(read_parquet(folder / PREDICTIONS)[0], head)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise _damaged(folder, PREDICTIONS) from error


def _damaged(folder: Path, name: str) -> DataError:
    return DataError(
        f"{name} of run {folder.name} is damaged: it does not hold what the run wrote. Delete {DONE} there and run the "
        "same `make finetune` again."
    )


def result_of(folder: Path) -> dict[str, Any]:
    """Metric, n, events and interval of the run on everyone that it was tested on outside of its training."""
    path = folder / "results.csv"
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        if not text.endswith("\n"):  # half a number is a number, too
            raise ValueError("the last line has no end")
        return _best_row(pd.read_csv(io.StringIO(text)))
    except (ValueError, LookupError, TypeError, StopIteration) as error:  # pandas raises ValueErrors of several kinds
        raise _damaged(folder, path.name) from error


def _best_row(table: pd.DataFrame) -> dict[str, Any]:
    if "endpoint" in table:
        table = table[table["endpoint"] == table["endpoint"].iloc[0]]
    for wanted in _HELD_OUT:
        rows: Sequence[dict[str, Any]] = table[table["group"] == wanted].to_dict("records")  # type: ignore[assignment]
        if rows:
            row = rows[0]
            metric = "c_index" if "c_index" in row else "auroc"
            count = next(name for name in _COUNTS if name in row)
            numbers = {"value": row[metric], "low": row["low"], "high": row["high"]}
            return {
                "group": wanted,
                "metric": metric,
                "n": int(row["n"]),
                count: int(row[count]),
                **{name: None if pd.isna(value) else float(value) for name, value in numbers.items()},
            }
    return {}
