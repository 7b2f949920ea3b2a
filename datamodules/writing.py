"""The DataModule of report generation: both kidneys of every patient, with the words of their report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.attributes import AttributeDataModule
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.columns import PHASES
from datamodules.cohort.identity import REPORTS
from datamodules.cohort.keyed_order import keyed_choice
from datamodules.errors import DataError
from datamodules.loading.joined_phases import SEVERAL
from datamodules.loading.samples import Plan, RoiDataset, Visits
from datamodules.loading.sampling import Draw
from datamodules.reports.sides import KIDNEY, side_reports
from datamodules.volumes.shards import VolumeSet

PROMPT = "CT of the {side} kidney, {phase} phase. Findings:"


def prompt_of(template: str, side: str, phase: str | None) -> str:
    """What stands before the report of a kidney.

    Args:
        template: Words with {side} and {phase}.
        side: left or right.
        phase: Contrast phase; None where several were seen at once.
    """
    name = "several phases" if phase is None else f"{phase.replace('_', '-')} phase"
    return template.replace("{phase} phase", name).replace("{side}", side)


class ReportImageDataModule(AttributeDataModule):
    """Streams kidneys with the report of each and the prompt before it, which names side and phase.

    Who is trained on, selected on and tested on is as in `AttributeDataModule`; a kidney without a text is left out.

    Args:
        root: Folder of the cohort.
        template: Words before every report, with {side} and {phase}.
        validation_kidneys: Most kidneys of the validation part, by keyed hash; all when left out. A language model
            takes longer over a report than an image encoder over a volume.
        options: As `AttributeDataModule`.

    Raises:
        DataError: if the template leaves side or phase out, or no kidney would be left to select on.
    """

    def __init__(
        self, root: Path, template: str = PROMPT, validation_kidneys: int | None = None, **options: Any
    ) -> None:
        if validation_kidneys is not None and validation_kidneys < 1:
            raise DataError(f"validation_kidneys={validation_kidneys} was found; expected at least 1, or nothing.")
        self.validation_kidneys = validation_kidneys
        absent = [name for name in ("{side}", "{phase} phase") if name not in template]
        if absent:
            raise DataError(f"The template {template!r} lacks {' and '.join(absent)}; the writer must be told both.")
        self.template = template
        super().__init__(root, **options)

    def described(self) -> dict[str, Any]:
        """The attributes, the template of the prompt, and how many kidneys select."""
        return {**super().described(), "template": self.template, "validation_kidneys": self.validation_kidneys}

    def select(self, cohort: Cohort, volumes: VolumeSet) -> Plan:
        """Kidneys with a text that states something.

        Raises:
            DataError: if the cohort has no attributes or reports.
        """
        plan = super().select(cohort, volumes)
        kidneys = plan.kidneys.merge(side_reports(cohort)[[*KIDNEY, "text"]], on=KIDNEY, how="left")
        known = kidneys["text"].notna().to_numpy()
        kidneys = kidneys[known].reset_index(drop=True)
        if not (kidneys["part"] == "train").any():
            raise DataError(f"No kidney of the training part of cohort {cohort.info.name} has a report; look at roles.")
        if self.validation_kidneys is not None:
            selecting = [tuple(key) for key in kidneys.loc[kidneys["part"] == "val", KIDNEY].to_numpy().tolist()]
            chosen = keyed_choice(selecting, self.validation_kidneys, self.seed, "validation kidneys")
            left_out = set(selecting) - chosen
            named = kidneys[KIDNEY].itertuples(index=False, name=None)
            kidneys.loc[[key in left_out for key in named], "part"] = "unused"
        fields = {name: values[known] for name, values in plan.fields.items()}
        fields["report"] = np.array(kidneys["text"].tolist(), dtype=object)
        return replace(plan, kidneys=kidneys.drop(columns=["text"]), fields=fields)

    def stated(self) -> Mapping[str, Sequence[bytes]]:
        """The attributes and the reports."""
        return {**super().stated(), REPORTS: [str(text).encode() for text in self.plan.fields["report"]]}

    def dataset(self, visits: Visits, fused: bool) -> RoiDataset:
        """Samples with their prompt."""
        if fused:
            raise DataError("Report generation takes one image a sample; set data.phases to random, single or joined.")
        return _Prompted(self.plan, visits, self.template, self.phases == "joined")


class _Prompted(RoiDataset):
    def __init__(self, plan: Plan, visits: Visits, template: str, joined: bool) -> None:
        super().__init__(plan, visits, joined=joined)
        self.template = template

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        sample = super().__getitem__(draw)
        phase = None if sample["phase"] == SEVERAL else PHASES[sample["phase"]]
        return {**sample, "prompt": prompt_of(self.template, sample["side"], phase)}
