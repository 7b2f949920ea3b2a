"""The report that costs nothing: the commonest one of a normal kidney, for everyone."""

from __future__ import annotations

import pandas as pd

from datamodules.errors import DataError
from experiments.generation.systems import WritingJob
from experiments.generation.template import PRESENCE


def write(job: WritingJob) -> pd.DataFrame:
    """The commonest training report, by side, of kidneys without a lesion; the first in the alphabet where equal.

    Raises:
        DataError: if no training report says that a kidney has no lesion.
    """
    names = list(job.module.class_counts)
    training = job.training
    codes = job.module.plan.fields["attributes"][training["row"].to_numpy(dtype=int)]
    absent = job.module.schema.classes[PRESENCE].index("no")
    normal = training[codes[:, names.index(PRESENCE)] == absent]
    common = {side: rows["text"].value_counts().sort_index().idxmax() for side, rows in normal.groupby("side")}
    missing = sorted(set(job.kidneys["side"]) - set(common))
    if missing:
        raise DataError(
            f"No training report of cohort {job.cohort.info.name} says that a {missing[0]} kidney has no lesion."
        )
    return pd.DataFrame({"text": [common[side] for side in job.kidneys["side"]]})
