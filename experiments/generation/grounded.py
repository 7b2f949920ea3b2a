"""Retrieval-grounded reports: a language model is given the predicted attributes and the nearest training reports."""

from __future__ import annotations

import pandas as pd

from experiments.generation.nearest import nearest_reports
from experiments.generation.systems import WritingJob
from experiments.generation.template import stated_attributes, template_reports
from experiments.generation.templated import predicted_attributes
from experiments.generation.untrained import answered, identity

__all__ = ["identity", "write"]

_EXAMPLES = 3
_ASKED = (
    "You are a radiologist. Write the findings of the {side} kidney in the style of the examples. State these findings "
    "and nothing else.\n{examples}\nFindings of the {side} kidney: {findings}\nReport:"
)


def write(job: WritingJob) -> pd.DataFrame:
    """Ask for a report in the words of the nearest reports, with the facts that stage 1 predicts."""
    schema = job.module.schema
    scores, classes = predicted_attributes(job)
    codes = job.module.plan.fields["attributes"][job.training["row"].to_numpy(dtype=int)]
    sides = job.kidneys["side"].tolist()
    findings = template_reports(scores, classes, sides, stated_attributes(codes, schema), schema)
    near = nearest_reports(job, _EXAMPLES)
    prompts = [
        _ASKED.format(side=side, findings=facts, examples="\n".join(f"Example: {text}" for text in examples))
        for side, facts, examples in zip(sides, findings, near, strict=True)
    ]
    return answered(job, prompts)
