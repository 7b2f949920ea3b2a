"""Reports by a template of the attributes that stage 1 reads out of the image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from experiments.generation.kidney_readings import head_scores, identity, stage1_reader
from experiments.generation.stated_chances import KnownKidneys, fit_chances
from experiments.generation.systems import WritingJob
from experiments.generation.template import PRESENCE, check_sentences, worded

__all__ = ["identity", "template_reports", "write"]

_LEAST = 1e-4


def write(job: WritingJob) -> pd.DataFrame:
    """Word every value that the report is likely enough to state."""
    return pd.DataFrame({"text": template_reports(job)})


def template_reports(job: WritingJob) -> list[str]:
    """A report of every tested kidney: the values that are worth stating by the heads of stage 1, worded.

    What a report states of an attribute follows from the head's scores and from those of whether there is a lesion.
    The model is fitted on training kidneys, calibrated on those of validation, and its threshold is chosen there.

    Raises:
        DataError: if stage 1 was not run yet, or a value has no sentence.
    """
    schema = job.module.schema
    check_sentences(schema)
    reader = stage1_reader(job)
    features = {
        part: _features(head_scores(job, reader, rows))
        for part, rows in (("train", job.rows("train")), ("val", job.rows("val")), ("test", job.tested_rows))
    }
    known = {part: KnownKidneys(features[part], job.codes(job.rows(part))) for part in ("train", "val")}
    chances = fit_chances(known["train"], known["val"], schema)
    facts = chances.stated(chances.of(features["test"]))
    return [worded(own, side, schema) for own, side in zip(facts, job.kidneys["side"], strict=True)]


def _features(scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Log-odds of the values of each attribute, and of whether there is a lesion."""
    odds = {
        name: np.log(np.clip(values, _LEAST, 1) / np.clip(1 - values, _LEAST, 1)) for name, values in scores.items()
    }
    lesion = [odds[PRESENCE]] if PRESENCE in odds else []
    return {name: np.concatenate([values, *lesion], axis=1) for name, values in odds.items()}
