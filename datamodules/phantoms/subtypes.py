"""The subtypes of renal masses: how common, how large and how they look on four-phase CT.

Proportions follow surgical series (Kutikov et al., Urology 2006;68:737-740; Moch et al., WHO 2022), enhancement
Young et al., Radiology 2013;267:444-453 and van Oostenbrugge et al., Kidney Cancer 2018;2:79-93, malignancy of cystic
masses by class Schoots et al., J Urol 2017;198:12-21. The spread between patients is wide on purpose: no single
value tells the subtypes apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from datamodules.anatomy.appearance import Hu


@dataclass(frozen=True)
class Subtype:
    """One subtype.

    Args:
        name: Name in pathology.
        malignant: Whether pathology calls it malignant.
        surgical_share: Percent of the patients of a surgical centre.
        public_share: Percent of the patients of the public-like centre.
        size_mm: Median diameter.
        size_spread: Standard deviation of the logarithm of the diameter.
        hu: Mean HU of the solid part in the four phases.
        plain_sd_hu: Standard deviation between patients before contrast.
        gain_sd: Standard deviation of the logarithm of the enhancement.
        shape_sd: Standard deviation of the logarithm of the venous and delayed enhancement against the arterial.
        texture_hu: Standard deviation of the texture before contrast.
        texture: Mean of the texture's share of the enhancement.
        texture_mm: Typical correlation length of the texture.
        irregular: Probability of an irregular margin in a lesion of average size and behaviour.
        necrosis, calcified, haemorrhage, scar: Probability of each in such a lesion.
        fat: Whether macroscopic fat is seen.
        cystic: Whether it is a cystic mass.
        bosniak: Probability of Bosniak II, IIF, III, IV.
        male: Probability that the patient is male.
        age_years: Mean age.
    """

    name: str
    malignant: bool
    surgical_share: float
    public_share: float
    size_mm: float
    size_spread: float
    hu: Hu
    plain_sd_hu: float = 4.0
    gain_sd: float = 0.24
    shape_sd: float = 0.10
    texture_hu: float = 3.0
    texture: float = 0.12
    texture_mm: float = 6.0
    irregular: float = 0.2
    necrosis: float = 0.1
    calcified: float = 0.08
    haemorrhage: float = 0.05
    scar: float = 0.0
    fat: bool = False
    cystic: bool = False
    bosniak: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    male: float = 0.6
    age_years: float = 60.0


# Malignant subtypes first: patients are dealt over cumulative shares, which keeps malignancy balanced over centres.
SUBTYPES: tuple[Subtype, ...] = (
    Subtype(
        "clear cell renal cell carcinoma", True, 55, 64, 44, 0.48, (34, 145, 115, 84), 4, 0.26, 0.10,
        texture_hu=8.0, texture=0.32, texture_mm=9.0, irregular=0.46, necrosis=0.48, calcified=0.11, haemorrhage=0.10,
        scar=0.04, male=0.64,
    ),
    Subtype(
        "papillary renal cell carcinoma", True, 11, 9, 39, 0.48, (38, 62, 82, 76), 5, 0.30, 0.12,
        texture_hu=12.0, texture=0.28, texture_mm=8.0, irregular=0.38, necrosis=0.38, calcified=0.16, haemorrhage=0.15,
        male=0.74, age_years=62,
    ),
    Subtype(
        "chromophobe renal cell carcinoma", True, 6, 4, 46, 0.48, (37, 102, 96, 78), 4, 0.22, 0.10,
        texture_hu=9.0, texture=0.24, texture_mm=9.0, irregular=0.28, necrosis=0.20, calcified=0.14, haemorrhage=0.04,
        scar=0.12, male=0.52, age_years=57,
    ),
    Subtype(
        "cystic clear cell renal cell carcinoma", True, 5, 3, 40, 0.42, (34, 128, 112, 86), 4, 0.24, 0.10,
        texture_hu=6.0, texture=0.2, irregular=0.20, necrosis=0.0, calcified=0.16, haemorrhage=0.08, cystic=True,
        bosniak=(0.01, 0.05, 0.26, 0.68), male=0.6, age_years=56,
    ),
    Subtype(
        "oncocytoma", False, 8, 8, 34, 0.46, (35, 138, 142, 104), 4, 0.22, 0.10,
        texture=0.085, texture_mm=9.0, irregular=0.04, necrosis=0.02, calcified=0.05, haemorrhage=0.02, scar=0.5,
        male=0.62, age_years=65,
    ),
    Subtype(
        "angiomyolipoma", False, 6.5, 5, 34, 0.50, (38, 108, 98, 80), 5, 0.24, 0.12,
        texture=0.12, irregular=0.12, necrosis=0.02, calcified=0.02, haemorrhage=0.08, fat=True, male=0.22,
        age_years=52,
    ),
    Subtype(
        "angiomyolipoma without visible fat", False, 2.5, 3, 27, 0.42, (46, 112, 124, 104), 4, 0.24, 0.10,
        texture=0.065, texture_mm=7.0, irregular=0.06, necrosis=0.02, calcified=0.01, haemorrhage=0.02, male=0.22,
        age_years=52,
    ),
    Subtype(
        "benign cyst", False, 6, 4, 36, 0.46, (32, 78, 76, 62), 4, 0.22, 0.10,
        texture=0.08, irregular=0.04, necrosis=0.0, calcified=0.15, haemorrhage=0.14, cystic=True,
        bosniak=(0.38, 0.36, 0.22, 0.04), male=0.6,
    ),
)  # fmt: skip


def deal(quantile: float, population: Literal["surgical", "public"]) -> Subtype:
    """The subtype at a quantile of a population, in [0, 1)."""
    shares = [subtype.surgical_share if population == "surgical" else subtype.public_share for subtype in SUBTYPES]
    rest = quantile * sum(shares)
    for subtype, share in zip(SUBTYPES, shares, strict=True):
        rest -= share
        if rest < 0:
            return subtype
    return SUBTYPES[-1]
