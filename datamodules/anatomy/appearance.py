"""What the tissues of a patient look like on CT: mean HU in every phase and texture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from datamodules.anatomy.tissues import Tissue

Hu = tuple[float, float, float, float]


@dataclass(frozen=True)
class Appearance:
    """How one tissue of one patient looks.

    Args:
        hu: Mean HU in the order of `datamodules.cohort.columns.PHASES`.
        texture_hu: Standard deviation of the tissue's own structure before contrast, in HU.
        texture_share: Further structure as a share of the enhancement.
        texture_mm: Correlation length of the structure.
        core_hu: Mean HU deep below the surface, where it differs: the medulla of a kidney, the centre of a lesion.
        core_depth_mm: Depth at which the core begins.
    """

    hu: Hu
    texture_hu: float = 4.0
    texture_share: float = 0.03
    texture_mm: float = 6.0
    core_hu: Hu | None = None
    core_depth_mm: float = 6.0


# Organs and vessels: unenhanced and portal values as in textbooks of abdominal CT; corticomedullary, nephrographic
# and excretory kidney as in Birnbaum et al., Radiology 1996;200:753-758; tumour means between the subtypes of
# Young et al., Radiology 2013;267:444-453.
TYPICAL: Mapping[Tissue, Appearance] = {
    Tissue.KIDNEY: Appearance((33, 165, 185, 130), 3, 0.05, 5, core_hu=(31, 72, 178, 136), core_depth_mm=6.5),
    Tissue.TUMOR: Appearance((34, 105, 95, 75), 5, 0.16, 7),
    Tissue.CYST: Appearance((9, 9, 10, 10), 2, 0.0, 8),
    Tissue.NECROSIS: Appearance((20, 24, 27, 27), 5, 0.1, 6),
    Tissue.MACROSCOPIC_FAT: Appearance((-72, -66, -66, -68), 14, 0.1, 5),
    Tissue.CALCIFICATION: Appearance((420, 430, 430, 430), 60, 0.0, 4),
    Tissue.RENAL_SINUS: Appearance((-85, -78, -78, -80), 12, 0.0, 5),
    Tissue.COLLECTING_SYSTEM: Appearance((8, 10, 16, 420), 3, 0.05, 8),
    Tissue.RENAL_VEIN: Appearance((40, 130, 165, 105), 2, 0.02, 10),
    Tissue.RENAL_ARTERY: Appearance((40, 255, 150, 105), 2, 0.02, 10),
    Tissue.THROMBUS: Appearance((38, 78, 74, 62), 5, 0.12, 6),
    Tissue.STONE: Appearance((720, 720, 720, 720), 80, 0.0, 4),
    Tissue.AIR: Appearance((-1000, -1000, -1000, -1000), 0, 0.0, 20),
    Tissue.FAT: Appearance((-104, -102, -101, -101), 7, 0.0, 9),
    Tissue.MUSCLE: Appearance((52, 58, 66, 62), 6, 0.03, 7),
    Tissue.BONE: Appearance((430, 435, 440, 440), 60, 0.0, 5, core_hu=(190, 200, 210, 205), core_depth_mm=4.0),
    Tissue.LIVER: Appearance((56, 72, 112, 88), 4, 0.05, 9),
    Tissue.SPLEEN: Appearance((47, 118, 116, 90), 4, 0.05, 9),
    Tissue.BOWEL: Appearance((38, 72, 88, 70), 8, 0.05, 8, core_hu=(12, 16, 20, 22), core_depth_mm=4.0),
    Tissue.AORTA: Appearance((42, 285, 155, 105), 2, 0.01, 12),
    Tissue.VENA_CAVA: Appearance((40, 85, 145, 105), 2, 0.05, 12),
    Tissue.STRANDING: Appearance((-42, -34, -30, -32), 18, 0.1, 4),
    Tissue.SOFT_TISSUE: Appearance((38, 62, 78, 68), 5, 0.05, 6),
}


def vary(appearance: Appearance, rng: np.random.Generator, share: float = 0.1, shift_hu: float = 2.0) -> Appearance:
    """A tissue as another patient has it: its enhancement scaled by about `share`, its level moved by `shift_hu`."""
    shift, factor = rng.normal(0.0, shift_hu), float(np.exp(rng.normal(0.0, share)))

    def moved(hu: Hu) -> Hu:
        plain = hu[0]
        return (plain + shift, *(plain + shift + factor * (value - plain) for value in hu[1:]))  # type: ignore[return-value]

    return replace(
        appearance, hu=moved(appearance.hu), core_hu=None if appearance.core_hu is None else moved(appearance.core_hu)
    )


def patient_tissues(seed: int) -> dict[Tissue, Appearance]:
    """The tissues of one patient, typical values with a variation drawn from the seed alone.

    Solid tumours vary most, from hypovascular to hypervascular and from homogeneous to patchy, as a mixture of all
    subtypes would; which one a real patient has is not known here and must not be.

    Args:
        seed: Seed of the patient.

    Returns:
        An appearance for every tissue but `UNLABELED`.
    """
    rng = np.random.default_rng([seed, 11])
    tissues = {tissue: vary(TYPICAL[tissue], rng, 0.08) for tissue in TYPICAL}
    tumor = vary(TYPICAL[Tissue.TUMOR], rng, 0.35, 4.0)
    tissues[Tissue.TUMOR] = replace(
        tumor, texture_share=float(rng.uniform(0.06, 0.28)), texture_mm=float(rng.uniform(4.0, 10.0))
    )
    return tissues
