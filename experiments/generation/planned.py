"""Reports in two steps: what to say is read from the regions of the image, and said in sentences of training reports.

Planning and wording apart (Moryossef et al., NAACL 2019): what a report states is decided by probabilities alone, each
attribute once, and no sentence is said that the attribute rules do not read back as planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from datamodules.reports.reader.rules import RuleExtractor
from experiments.encoders.attribute_reader import AttributeReader
from experiments.generation.facts import largest_mm
from experiments.generation.kidney_readings import identity, region_readings, stage1_reader
from experiments.generation.sentence_bank import SentenceBank, sentence_bank
from experiments.generation.stated_chances import Chances, KnownKidneys, fit_chances
from experiments.generation.systems import WritingJob
from experiments.generation.template import check_sentences

__all__ = ["identity", "write", "written_from"]

_PENALTY, _RIDGE = 0.01, 300.0
"""Inverse strength of the penalty of the chances, and penalty of the sizes; there are a thousand readings. Chosen on
validation kidneys of the demo cohort, where a third and three times as much of the first did as well."""
_SIZE = "size_class"
_INSIDE_MM = 0.5


def write(job: WritingJob) -> pd.DataFrame:
    """Write the report of every kidney from its own images."""
    return written_from(job, job.tested_rows)


def written_from(job: WritingJob, rows: Sequence[int]) -> pd.DataFrame:
    """Write the report of every kidney from the images of some kidney.

    Args:
        job: The kidneys whose reports are to be written.
        rows: Row of the plan's kidneys whose images are read, one a kidney.

    Returns:
        text, and `facts`: for every kidney the attribute, value and probability of all that it states.

    Raises:
        DataError: if stage 1 was not run yet.
    """
    schema = job.module.schema
    if "planned" not in job.fitted:
        job.fitted["planned"] = _fit(job)
    plan: _Planner = job.fitted["planned"]
    readings = region_readings(job, plan.reader, rows)
    found = plan.chances.of(dict.fromkeys(schema.names, readings))
    facts = plan.chances.stated(found)
    sizes = np.full(len(rows), np.nan) if plan.size is None else np.exp(plan.size.predict(readings))
    return pd.DataFrame(
        {
            "text": [
                plan.bank.report(own, side, _within(size, own.get(_SIZE), job))
                for own, side, size in zip(facts, job.kidneys["side"], sizes, strict=True)
            ],
            "facts": [
                [
                    (name, value, float(found[name][row, schema.classes[name].index(value)]))
                    for name, value in own.items()
                ]
                for row, own in enumerate(facts)
            ],
        }
    )


class _Planner(NamedTuple):
    """What decides and words the reports.

    Args:
        reader: Stage 1.
        chances: What is worth stating.
        size: Logarithm of the largest diameter in mm from readings; None where no training report gives one.
        bank: Sentences.
    """

    reader: AttributeReader
    chances: Chances
    size: Pipeline | None
    bank: SentenceBank


def _fit(job: WritingJob) -> _Planner:
    schema, reader = job.module.schema, stage1_reader(job)
    check_sentences(schema)
    rows = {part: job.rows(part) for part in ("train", "val")}
    readings = {part: region_readings(job, reader, own) for part, own in rows.items()}
    training, validation = (
        KnownKidneys(dict.fromkeys(schema.names, readings[part]), job.codes(own)) for part, own in rows.items()
    )
    chances = fit_chances(training, validation, schema, _PENALTY)
    reports = job.training.set_index("row").loc[rows["train"]]
    texts = reports["text"].astype(str).tolist()
    bank = sentence_bank(texts, reports["side"].tolist(), reports["patient_id"].tolist(), RuleExtractor(schema), schema)
    return _Planner(reader, chances, _sizes(readings["train"], texts), bank)


def _sizes(readings: np.ndarray, texts: Sequence[str]) -> Pipeline | None:
    """A ridge regression of the logarithm of largest diameters in mm, as training reports state them, on readings."""
    stated = np.array([largest_mm(text) for text in texts])
    sized = np.isfinite(stated) & (stated > 0)
    if not sized.any():
        return None
    model: Pipeline = make_pipeline(StandardScaler(), Ridge(_RIDGE))
    model.fit(readings[sized], np.log(stated[sized]))
    return model


def _within(size_mm: float, value: str | None, job: WritingJob) -> float:
    """A diameter that agrees with the size class that is stated."""
    measure = job.module.schema[_SIZE].measure
    if value is None or measure is None or not np.isfinite(size_mm) or measure.class_of(size_mm) == value:
        return size_mm
    place = measure.classes.index(value)
    low, high = (0.0, *measure.bounds)[place], (*measure.bounds, np.inf)[place]
    return float(np.clip(size_mm, low + _INSIDE_MM, high - _INSIDE_MM))
