"""The control of the planned reports: what the regions of other patients' images say."""

from __future__ import annotations

import pandas as pd

from experiments.generation.planned import identity, written_from
from experiments.generation.shuffled import other_rows
from experiments.generation.systems import WritingJob

__all__ = ["identity", "write"]


def write(job: WritingJob) -> pd.DataFrame:
    """Write the report of every kidney from the images of another patient's."""
    return written_from(job, other_rows(job))
