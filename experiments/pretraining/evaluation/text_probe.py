"""What a linear model reads out of the embeddings of reports, attribute by attribute."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from callbacks.predictions import attribute_frame
from datamodules.attributes import attribute_codes
from datamodules.batch import MISSING
from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.files import read_parquet
from datamodules.reports.schema import load_schema
from experiments.cohorts.extractor_accuracy import stated_truth
from experiments.pretraining.evaluation.attribute_probe import probe_scores
from lightning_modules.metrics.patient_scores import PatientTable


def stated_codes(cohort: Cohort, kidneys: pd.DataFrame) -> np.ndarray:
    """What the reports state, as class indices int64 [kidneys, attributes], -100 where they state nothing.

    Of a generated cohort it is what its reports do state; of any other what `make attributes` read out of them.

    Raises:
        DataError: if the cohort has neither.
    """
    schema = load_schema()
    if (cohort.root / "truth.parquet").is_file():
        stated = stated_truth(read_parquet(cohort.root / "truth.parquet")[0], schema)
        return attribute_codes(stated, kidneys, schema)
    if "attributes" not in cohort.tables:
        raise DataError(
            f"Cohort {cohort.info.name} has no attributes; run `make attributes DATA=` first, which reads them out of "
            "its reports."
        )
    return attribute_codes(cohort["attributes"], kidneys, schema)


def text_probe(
    embed: Callable[[Sequence[str]], np.ndarray], fitted: pd.DataFrame, tested: pd.DataFrame, codes: np.ndarray
) -> pd.DataFrame:
    """Fit a logistic regression per attribute on the embeddings of the training kidneys, and score the others.

    Args:
        embed: Texts to vectors.
        fitted: Training kidneys: patient_id, study_id, side, text.
        tested: Other kidneys, with center and role, too.
        codes: int [fitted + tested, attributes], as `stated_codes` gives them for both, the training ones first.

    Returns:
        As `callbacks.predictions.attribute_frame`, one row per tested kidney.

    Raises:
        DataError: if nothing is stated of any training kidney.
    """
    ours, theirs = codes[: len(fitted)], codes[len(fitted) :]
    if not (ours != MISSING).any():
        raise DataError("Nothing is stated of any training kidney; a probe has nothing to learn.")
    classes = {name: list(values) for name, values in load_schema().classes.items()}
    features, others = embed(fitted["text"].tolist()), embed(tested["text"].tolist())
    scores = probe_scores(features, ours, others, [len(values) for values in classes.values()])
    table = PatientTable(
        torch.arange(len(tested)), torch.from_numpy(scores).float(), torch.from_numpy(theirs.astype(np.int64))
    )
    rows = tested.reset_index(drop=True).assign(part="test")
    patients = rows[["patient_id", "center", "role"]]
    return attribute_frame(table, rows.assign(row=range(len(rows))), patients, classes)
