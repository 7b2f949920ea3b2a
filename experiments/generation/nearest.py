"""Reports by retrieval: the training report that lies nearest to the scan in the aligned space."""

from __future__ import annotations

import numpy as np
import pandas as pd

from experiments.aligned.shared_space import SpaceOptions, check_contract, load_space
from experiments.generation.systems import Study


def write(study: Study) -> pd.DataFrame:
    """The nearest training report of a kidney of the same side."""
    return pd.DataFrame({"text": [texts[0] for texts in nearest_reports(study, 1)]})


def nearest_reports(study: Study, count: int) -> list[list[str]]:
    """The nearest distinct training reports of every tested kidney, of kidneys of its side, nearest first.

    Args:
        study: The kidneys.
        count: Reports a kidney.
    """
    options = study.options
    space = load_space(study.cohort, SpaceOptions(options.runs, options.seed, options.fold, base=options.base))
    check_contract(space, study.module.contract)
    space.trained_on.refuse_seen(study.module.identity, "The aligned model", ("test",))
    candidates = study.training.drop_duplicates(["side", "text"]).reset_index(drop=True)
    reports = space.texts(candidates["text"].tolist())
    found: list[list[str]] = []
    for row, side in zip(study.kidneys["row"], study.kidneys["side"], strict=True):
        images, _, _ = study.images([int(row)], space.model.image_encoder)
        scan = space.images(images).mean(axis=0)
        rows = np.flatnonzero((candidates["side"] == side).to_numpy())
        order = rows[np.argsort(-(reports[rows] @ scan), kind="stable")][:count]
        found.append(candidates["text"].iloc[order].tolist())
    return found
