"""What one sample of a DataModule over kidney ROIs is, and how samples become a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from datamodules.batch import RoiBatch
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.columns import PHASES
from datamodules.loading.joined_phases import SEVERAL, VolumeReader
from datamodules.loading.sampling import Draw
from datamodules.volumes.contract import channels_there
from datamodules.volumes.shards import VolumeSet


@dataclass(frozen=True)
class Plan:
    """Who is trained on, selected on and tested on in one run.

    Args:
        cohort: The cohort.
        volumes: Its volume set.
        patients: One row per patient with `part` (train, unused, val, test) and what the subclass adds.
        kidneys: One row per kidney and study to load: patient_id, study_id, side, `row` (of `patients`), `part`.
        fields: Further entries of a sample by name, arrays whose first axis is the row of `kidneys`; integers become
            int64, floating-point numbers and booleans keep their type.
        drawn: Further entries by name that differ between visits: functions of the row of `kidneys` and the seed of the
            draw.
    """

    cohort: Cohort
    volumes: VolumeSet
    patients: pd.DataFrame
    kidneys: pd.DataFrame
    fields: dict[str, np.ndarray]
    drawn: dict[str, Callable[[int, int], torch.Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Visits:
    """The kidneys of one part: rows of `Plan.kidneys` and the positions of their volumes."""

    kidney: list[int]
    volumes: list[list[int]]


class RoiDataset(Dataset[dict[str, Any]]):
    """Loads one sample per draw; holds no order and no randomness of its own.

    Args:
        plan: The run's patients and kidneys.
        visits: The kidneys of a part.
        fused: Whether a sample holds every phase of its visit as an image of its own; else the one that was drawn.
        joined: Whether the image that was drawn holds the other phases of its visit as channels.
    """

    def __init__(self, plan: Plan, visits: Visits, fused: bool = False, joined: bool = False) -> None:
        self.volumes, self.visits, self.fused, self.joined = plan.volumes, visits, fused, joined
        self.read = VolumeReader(plan.volumes, joined)
        self.fields, self.drawn = plan.fields, plan.drawn
        self.row = plan.kidneys["row"].to_numpy(dtype=np.int64)
        self.sides = plan.kidneys["side"].tolist()
        self.patient_ids = plan.patients["patient_id"].tolist()
        self.centers = plan.patients["center"].tolist()
        self.phases = [PHASES.index(phase) for phase in plan.volumes.index["phase"]]

    def __len__(self) -> int:
        return len(self.visits.kidney)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        kidney = self.visits.kidney[draw.visit]
        patient = int(self.row[kidney])
        return {
            **(self._fused(draw) if self.fused else self._single(draw)),
            "patient": patient,
            "kidney": kidney,
            "sample": draw.position,
            "seed": draw.seed,
            "patient_id": self.patient_ids[patient],
            "side": self.sides[kidney],
            "center": self.centers[patient],
            **{name: values[kidney] for name, values in self.fields.items()},
            **{name: make(kidney, draw.seed) for name, make in self.drawn.items()},
        }

    def _single(self, draw: Draw) -> dict[str, Any]:
        return {"image": self.read(draw.position), "phase": self.phase(draw)}

    def phase(self, draw: Draw) -> int:
        """Index of the contrast phase of a draw, `SEVERAL` where its image holds more than one."""
        return SEVERAL if self.joined else self.phases[draw.position]

    def _fused(self, draw: Draw) -> dict[str, Any]:
        """All phases in the order of PHASES; where a study has several series of a phase, the seed picks one."""
        grid = self.volumes.contract.grid
        image = torch.zeros(len(PHASES), 1, *grid, dtype=torch.int16)
        available = torch.zeros(len(PHASES), dtype=torch.bool)
        for phase in range(len(PHASES)):
            found = [position for position in self.visits.volumes[draw.visit] if self.phases[position] == phase]
            if found:
                image[phase, 0] = torch.from_numpy(self.volumes.read(found[draw.seed % len(found)]))
                available[phase] = True
        return {"image": image, "phase": torch.arange(len(PHASES)), "available": available}


def collate(samples: Sequence[dict[str, Any]]) -> RoiBatch:
    """Stack samples into a batch; integers become int64 tensors, other numbers keep their type, texts stay lists.

    Of joined phases `there` says which channels are not absent, while the host knows it.
    """
    batch: dict[str, Any] = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples]
        if isinstance(values[0], torch.Tensor):
            batch[name] = torch.stack(values)
        elif isinstance(values[0], str):
            batch[name] = values
        else:
            array = np.asarray(values)
            batch[name] = torch.from_numpy(array.astype(np.int64) if array.dtype.kind in "iu" else array)
    image = batch.get("image")
    if image is not None and image.dim() == 5 and image.shape[1] > 1:
        batch["there"] = channels_there(image)
    return RoiBatch(**batch)  # type: ignore[typeddict-item]
