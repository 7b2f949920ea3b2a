"""A draft of the findings: what was measured, in words, and what the model reads, each with its probability."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from callbacks.predictions import PREDICTIONS
from datamodules.batch import MISSING
from datamodules.files import read_parquet
from datamodules.reports.measured import kidney_sentences
from datamodules.reports.schema import load_schema
from experiments.doubt.calibrators import TEMPERATURE, Calibrator, fit_calibrator
from experiments.generation.template import sentence

MEASURED = frozenset(
    {"lesion_present", "size_class", "exophytic", "collecting_nearness", "face", "pole", "lesion_number"}
)
"""Attributes that a mask answers; where it does the model is not asked."""
FEWEST = 20
"""Kidneys of which an attribute is stated, below which its scores are not calibrated."""
MEASURED_KEYS = (
    "side", "has_lesion", "renal_pole", "renal_r_mm", "renal_e", "renal_n", "renal_n_mm", "renal_a", "lesion_count",
)  # fmt: skip


@dataclass(frozen=True)
class Draft:
    """Words findings, with how sure each is.

    Args:
        calibrators: By attribute, from the scores of its classes to probabilities.
        kidneys: By attribute, on how many kidneys that was fitted.
    """

    calibrators: Mapping[str, Calibrator]
    kidneys: Mapping[str, int]

    @classmethod
    def of_run(cls, run: Path) -> Draft:
        """Calibrated by temperature on the internal centres that a run of stage image was tested on.

        External centres stay out, so that they can say how well that holds.

        Args:
            run: Folder of the run; without its predictions nothing is calibrated.
        """
        path = run / PREDICTIONS
        if not path.is_file():
            return cls({}, {})
        frame = read_parquet(path)[0]
        return cls.fitted(frame[frame["role"] == "internal"])

    @classmethod
    def fitted(cls, rows: pd.DataFrame) -> Draft:
        """Calibrated on the predictions of some kidneys, as `AttributePredictionWriter` writes them."""
        calibrators, kidneys = {}, {}
        for name in load_schema().names:
            columns = [f"score:{name}:{value}" for value in load_schema()[name].class_names]
            if f"target:{name}" not in rows or not set(columns) <= set(rows):
                continue
            target = rows[f"target:{name}"].to_numpy(dtype=np.int64)
            stated = target != MISSING
            if stated.sum() < FEWEST or len(np.unique(target[stated])) < len(columns):
                continue
            score = rows.loc[stated, columns].to_numpy(dtype=np.float64)
            calibrators[name] = fit_calibrator(score / score.sum(axis=1, keepdims=True), target[stated], TEMPERATURE)
            kidneys[name] = int(stated.sum())
        return cls(calibrators, kidneys)

    @classmethod
    def of_dict(cls, content: Mapping[str, Mapping[str, Any]]) -> Draft:
        """From plain data."""
        return cls(
            {name: Calibrator.of_dict(one) for name, one in content.items()},
            {name: int(one["kidneys"]) for name, one in content.items()},
        )

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """As plain data; no patient."""
        return {name: {**one.to_dict(), "kidneys": self.kidneys[name]} for name, one in self.calibrators.items()}

    def sentences(
        self, side: str, measures: Mapping[str, Any], attributes: Mapping[str, Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """The sentences of a kidney, those that were measured first.

        Args:
            side: left or right.
            measures: Columns of the table `kidneys` that a mask answers; empty where none draws lesions.
            attributes: What the model says and nothing contradicts, as of `attribute_scores`.

        Returns:
            `text`, `from` (measured or model), and of the model's `score`, with `probability` and `kidneys` where it is
            calibrated.
        """
        row = {name: None if pd.isna(measures.get(name)) else measures.get(name) for name in MEASURED_KEYS}
        drawn = kidney_sentences({**row, "side": side})
        found: list[dict[str, Any]] = [{"text": text, "from": "measured"} for text in drawn]
        for name, entry in attributes.items():
            if drawn and name in MEASURED:
                continue
            value, scores = entry["value"], entry["scores"]
            said = {"text": sentence(name, value, side), "from": "model", "score": scores[value]}
            if name in self.calibrators:
                given = np.array([list(scores.values())], dtype=np.float64)
                probability = self.calibrators[name](given / given.sum())[0]
                said |= {"probability": float(probability[list(scores).index(value)]), "kidneys": self.kidneys[name]}
            found.append(said)
        return found
