"""The codes of a label map: what every voxel is made of.

Importers, the phantom generator, the renderer and the nephrometry all speak these codes, so that a mask drawn by
an expert and one drawn by a program are the same kind of object.
"""

from __future__ import annotations

from enum import IntEnum


class Tissue(IntEnum):
    """One tissue of a label map (uint8).

    A map drawn by experts usually holds `KIDNEY`, `TUMOR` and `CYST` on `UNLABELED` only, as KiTS23 does. The
    kidney of such a map is the whole organ with its sinus fat excluded or included as the annotators chose.
    """

    UNLABELED = 0  # nothing is known: a renderer fills it with plausible surroundings
    KIDNEY = 1  # renal parenchyma (cortex and medulla)
    TUMOR = 2  # solid part of a lesion
    CYST = 3  # fluid part of a lesion, or a simple cyst
    NECROSIS = 4  # non-enhancing part of a solid lesion
    MACROSCOPIC_FAT = 5  # fat inside a lesion (angiomyolipoma)
    CALCIFICATION = 6
    RENAL_SINUS = 7  # sinus fat
    COLLECTING_SYSTEM = 8  # calyces and pelvis
    RENAL_VEIN = 9
    RENAL_ARTERY = 10
    THROMBUS = 11  # tumour thrombus in renal vein or vena cava
    STONE = 12  # calculus in the collecting system, no part of a lesion
    AIR = 20  # outside the body
    FAT = 21  # perirenal and retroperitoneal fat
    MUSCLE = 22
    BONE = 23
    LIVER = 24
    SPLEEN = 25
    BOWEL = 26
    AORTA = 27
    VENA_CAVA = 28
    STRANDING = 29  # perirenal fat stranding or invasion
    SOFT_TISSUE = 30  # lymph nodes and adrenal glands


LESION = (Tissue.TUMOR, Tissue.CYST, Tissue.NECROSIS, Tissue.MACROSCOPIC_FAT, Tissue.CALCIFICATION)
"""Tissues that belong to a lesion, the cysts included."""

TUMOR = (Tissue.TUMOR, Tissue.NECROSIS, Tissue.MACROSCOPIC_FAT, Tissue.CALCIFICATION)
"""Tissues that belong to a tumour, cysts left aside."""

KIDNEY_WITH_LESION = (Tissue.KIDNEY, *LESION)
"""The kidney as an organ with its lesions, which nephrometry measures."""
