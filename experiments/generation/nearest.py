"""Reports by retrieval: the training report that lies nearest to the scan in the aligned space."""

from __future__ import annotations

import numpy as np
import pandas as pd

from experiments.aligned.shared_space import SpaceOptions, check_contract, load_space
from experiments.generation.systems import WritingJob
from experiments.statistics.means import owner_mean


def write(job: WritingJob) -> pd.DataFrame:
    """The nearest training report of a kidney of the same side."""
    return pd.DataFrame({"text": [texts[0] for texts in nearest_reports(job, 1)]})


def nearest_reports(job: WritingJob, count: int) -> list[list[str]]:
    """The nearest distinct training reports of every tested kidney, of kidneys of its side, nearest first.

    Args:
        job: The kidneys.
        count: Reports a kidney.
    """
    options = job.options
    space = load_space(
        job.cohort, SpaceOptions(options.runs, options.seed, options.fold, base=options.base, tag=options.tag)
    )
    check_contract(space, job.module.contract)
    space.trained_on.refuse_seen(job.module.identity, "The aligned model", ("test",))
    candidates = job.training.drop_duplicates(["side", "text"]).reset_index(drop=True)
    reports = space.texts(candidates["text"].tolist())
    found: list[list[str]] = []
    positions, owner = job.volumes(job.tested_rows)
    scans = owner_mean(space.volumes(job.module, positions), owner, len(job.kidneys))
    for scan, side in zip(scans, job.kidneys["side"], strict=True):
        rows = np.flatnonzero((candidates["side"] == side).to_numpy())
        order = rows[np.argsort(-(reports[rows] @ scan), kind="stable")][:count]
        found.append(candidates["text"].iloc[order].tolist())
    return found
