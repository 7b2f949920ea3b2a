"""What an encoder is shown of a visit: one volume, or the volumes of all its contrast phases as channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from datamodules.cohort.columns import PHASES
from datamodules.volumes.contract import ABSENT_HU
from datamodules.volumes.shards import VolumeSet

SEVERAL = -1
"""Index in the place of a contrast phase where an image holds several."""
_KEYS = ["patient_id", "study_id", "side"]


class VolumeReader:
    """Reads volumes by their position in a volume set; picklable.

    Args:
        volumes: Volume set.
        joined: Whether a volume is read with those of the other phases of its visit, a kidney in one study, as the
            channels of one image in the order of `PHASES`. Of several series of a phase the first counts. They lie as
            they were stored: a kidney has one mask, and its series are cut at one place.
    """

    def __init__(self, volumes: VolumeSet, joined: bool) -> None:
        self.volumes = volumes
        self._visit: np.ndarray | None = None
        if joined:
            index = volumes.index
            visit = index.groupby(_KEYS, sort=False).ngroup().to_numpy()
            position = index["position"].to_numpy(dtype=np.int64)
            self._visit = np.empty(len(index), dtype=np.int64)
            self._visit[position] = visit
            self._members = np.full((visit.max(initial=-1) + 1, len(PHASES)), -1, dtype=np.int64)
            phase = np.array([PHASES.index(name) for name in index["phase"]], dtype=np.int64)
            for row in np.argsort(-position, kind="stable"):  # the first series of a phase is written last
                self._members[visit[row], phase[row]] = position[row]

    def members(self, position: int) -> list[int]:
        """Positions of the volumes by phase that are read with a volume, -1 for a phase that is not there."""
        return [position] if self._visit is None else self._members[self._visit[position]].tolist()

    def first(self, position: int) -> int:
        """The volume that stands for all that are read with it."""
        return min(member for member in self.members(position) if member >= 0)

    def __call__(self, position: int) -> torch.Tensor:
        """int16 [C, D, H, W] in HU, C one or the number of phases; a phase that is not there is `ABSENT_HU`.

        Raises:
            DataError: if a volume is damaged.
        """
        members = self.members(position)
        image = torch.full((len(members), *self.volumes.contract.grid), ABSENT_HU, dtype=torch.int16)
        for channel, member in enumerate(members):
            if member >= 0:
                image[channel] = torch.from_numpy(self.volumes.read(member))
        return image


def joined_views(images: Sequence[np.ndarray], phases: Sequence[str | None]) -> torch.Tensor:
    """The series of one kidney as an encoder that joins phases reads them.

    Args:
        images: int16 [D, H, W] in HU, one a series.
        phases: Contrast phase of each, None where it is not known.

    Returns:
        int16 [N, P, D, H, W]: one image of all phases that are known, the first series of each; where none is known,
        one image for every phase that the first series may be.
    """
    first = {phase: image for phase, image in reversed(list(zip(phases, images, strict=True))) if phase is not None}
    shown = [first] if first else [{phase: images[0]} for phase in PHASES]
    result = torch.full((len(shown), len(PHASES), *images[0].shape), ABSENT_HU, dtype=torch.int16)
    for number, own in enumerate(shown):
        for phase, image in own.items():
            result[number, PHASES.index(phase)] = torch.from_numpy(image)
    return result
