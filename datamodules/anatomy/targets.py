"""The anatomy of a kidney region as an image encoder learns it: five classes out of the codes of a label map."""

from __future__ import annotations

import numpy as np
import torch

from datamodules.anatomy.tissues import TUMOR, Tissue
from datamodules.volumes.shards import VolumeSet

ANATOMY = ("other", "parenchyma", "tumour", "cyst", "sinus")
"""Classes of an anatomy target, in order; the same as those of the encoder that learns them."""
NO_MASK = 255
"""Code of every voxel of a kidney whose mask is not known."""
OTHER_OR_SINUS = len(ANATOMY)
"""Code of what lies outside the drawn tissues where nobody drew the sinus, as in KiTS23."""
_SINUS = (Tissue.RENAL_SINUS, Tissue.COLLECTING_SYSTEM, Tissue.RENAL_VEIN, Tissue.RENAL_ARTERY, Tissue.STONE)


def _table() -> np.ndarray:
    table = np.zeros(256, dtype=np.uint8)
    table[Tissue.KIDNEY] = ANATOMY.index("parenchyma")
    table[[*TUMOR, Tissue.THROMBUS]] = ANATOMY.index("tumour")
    table[Tissue.CYST] = ANATOMY.index("cyst")
    table[list(_SINUS)] = ANATOMY.index("sinus")
    return table


_CODES = _table()


def anatomy_codes(labels: np.ndarray) -> np.ndarray:
    """Class of every voxel of a label map, uint8 of the same shape.

    Where no sinus is drawn, what lies outside the drawn tissues is `OTHER_OR_SINUS`.
    """
    codes = _CODES[labels]
    if not (codes == ANATOMY.index("sinus")).any():
        codes = np.where(codes == 0, np.uint8(OTHER_OR_SINUS), codes)
    return codes


class AnatomyLabels:
    """Gives the anatomy of a kidney out of the masks of a volume set; picklable.

    Args:
        volumes: Volume set.
        keys: Patient, study and side by row of the kidney table.
    """

    def __init__(self, volumes: VolumeSet, keys: list[tuple[str, str, str]]) -> None:
        self.volumes, self.keys = volumes, keys

    def __call__(self, kidney: int, seed: int) -> torch.Tensor:
        """uint8 [1, D, H, W]; `NO_MASK` throughout where the kidney has no mask. The seed changes nothing.

        Raises:
            DataError: if the file of masks is damaged.
        """
        patient, study, side = self.keys[kidney]
        labels = self.volumes.masks(patient).get((study, side))
        if labels is None:
            return torch.full((1, *self.volumes.contract.grid), NO_MASK, dtype=torch.uint8)
        return torch.from_numpy(anatomy_codes(labels))[None]
