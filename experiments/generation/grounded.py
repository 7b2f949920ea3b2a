"""Retrieval-grounded reports: a language model is given the predicted attributes and the nearest training reports."""

from __future__ import annotations

import pandas as pd

from experiments.generation import kidney_readings, untrained
from experiments.generation.nearest import nearest_reports
from experiments.generation.systems import WritingJob
from experiments.generation.templated import template_reports

_EXAMPLES = 3
_ASKED = (
    "You are a radiologist. Write the findings of the {side} kidney in the style of the examples. State these findings "
    "and nothing else.\n{examples}\nFindings of the {side} kidney: {findings}\nReport:"
)


def identity(job: WritingJob) -> dict[str, str]:
    """Fingerprint of the language model, and hash of stage 1."""
    return untrained.identity(job) | kidney_readings.identity(job)


def write(job: WritingJob) -> pd.DataFrame:
    """Ask for a report in the words of the nearest reports, with the facts that stage 1 predicts."""
    findings = template_reports(job)
    near = nearest_reports(job, _EXAMPLES)
    prompts = [
        _ASKED.format(side=side, findings=facts, examples="\n".join(f"Example: {text}" for text in examples))
        for side, facts, examples in zip(job.kidneys["side"], findings, near, strict=True)
    ]
    return untrained.answered(job, prompts)
