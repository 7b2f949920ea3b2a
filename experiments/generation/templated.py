"""Reports by a template of the attributes that stage 1 reads out of the image."""

from __future__ import annotations

import numpy as np
import pandas as pd

from datamodules.errors import DataError
from experiments.encoders.attribute_reader import attribute_reader, attribute_scores
from experiments.generation.systems import WritingJob
from experiments.generation.template import check_sentences, stated_attributes, template_reports
from experiments.runs.console import counted
from experiments.runs.pretrained import Pretrained


def write(job: WritingJob) -> pd.DataFrame:
    """Word the likeliest value of every attribute that training reports usually state."""
    schema = job.module.schema
    check_sentences(schema)
    scores, classes = predicted_attributes(job)
    codes = job.module.plan.fields["attributes"][job.training["row"].to_numpy(dtype=int)]
    stated = stated_attributes(codes, schema)
    sides = job.kidneys["side"].tolist()
    return pd.DataFrame({"text": template_reports(scores, classes, sides, stated, schema)})


def predicted_attributes(job: WritingJob) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Attributes of the tested kidneys by the encoder and heads of stage 1, averaged over the volumes of each.

    Returns:
        float [N, classes] by attribute, and the classes by attribute.

    Raises:
        DataError: if stage 1 was not run yet.
    """
    options = job.options
    reader = attribute_reader(
        job.cohort,
        None,
        options.runs,
        Pretrained(options.seed, options.tag),
        options.fold,
        job.module.plan.volumes.contract,
    )
    if reader is None:
        raise DataError(
            f"Cohort {job.cohort.info.name} has no attribute heads with pretraining seed {options.seed}; run `make "
            "pretrain STAGES=image` first."
        )
    reader.trained_on.refuse_seen(job.module.identity, "The attribute encoder", ("test",))
    rows = job.kidneys["row"].tolist()
    found: dict[str, list[list[float]]] = {name: [] for name in reader.heads.classes}
    with counted("kidneys") as show:
        for number, row in enumerate(rows, start=1):
            images, _, phases = job.images([row], reader.encoder)
            for name, entry in attribute_scores(reader, images, phases).items():
                found[name].append(list(entry["scores"].values()))
            show(number, len(rows))
    return {name: np.array(values) for name, values in found.items()}, dict(reader.heads.classes)
