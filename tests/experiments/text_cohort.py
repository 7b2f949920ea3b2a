"""A phantom cohort with reports and no images, and the folder of a tiny random language model."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.tables import TABLES
from datamodules.files import write_parquet
from datamodules.phantoms.phantom_source import DemoSource
from tests.datamodules.reports.small import random_model


def reports_cohort(root: Path, patients: int = 100) -> Cohort:
    """The tables of a phantom cohort, its truth beside them."""
    source = DemoSource(patients, 7)
    tables = source.tables()
    write_parquet(root / "truth.parquet", tables["truth"])
    known = {name: pd.DataFrame(frame) for name, frame in tables.items() if name in TABLES}
    Cohort(root, source.info, known).write()
    return Cohort.load(root)


def tiny_base(folder: Path) -> Path:
    """A Llama of two layers with random weights, as `save_pretrained` writes it."""
    found = random_model()
    found.model.save_pretrained(folder)
    found.tokenizer.save_pretrained(folder)
    return folder
