"""What is true of a generated patient: anatomy, scan and clinical course, kept apart.

Images are made from `Anatomy` and `PhantomSeries` alone; nothing in them names a subtype, a stage or an outcome.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from datamodules.anatomy.appearance import Appearance
from datamodules.anatomy.rendering import CenterProtocol
from datamodules.anatomy.tissues import Tissue
from datamodules.phantoms.shapes import KidneyShape, LesionShape

Composition = Literal["solid", "mixed", "cystic"]


@dataclass(frozen=True)
class Measures:
    """Where a lesion lies in its kidney and how large it is, measured on the drawn geometry.

    Args:
        diameter_mm: Largest diameter in any direction, which the reports state and R is of.
        second_mm: Largest diameter at a right angle to it.
        volume_ml: Volume.
        exophytic_fraction: Part of the volume outside the convex hull of the kidney.
        sinus_mm: Distance to renal sinus or collecting system; 0 where it touches.
        between_fraction: Part of the volume between the polar planes.
        crosses_midline: Whether it crosses the axial midline of the kidney.
        offset_mm: Centre of the lesion minus centre of the kidney, in RAS.
        pole: upper, interpolar or lower, by the points for L.
        face: anterior, posterior or x.
        hilar: Whether it touches the main vessels at the hilum.
    """

    diameter_mm: float
    second_mm: float
    volume_ml: float
    exophytic_fraction: float
    sinus_mm: float
    between_fraction: float
    crosses_midline: bool
    offset_mm: tuple[float, float, float]
    pole: Literal["upper", "interpolar", "lower"]
    face: Literal["anterior", "posterior", "x"]
    hilar: bool


@dataclass(frozen=True)
class Look:
    """What a lesion is made of, as a radiologist would see it.

    Args:
        composition: solid, mixed (solid with cystic parts) or cystic.
        bosniak: Bosniak class of a cystic lesion (version 2019), else none.
        margin: smooth or irregular.
        outline: round, lobulated or irregular.
        necrosis: Share of the volume that is necrotic.
        haemorrhage: Whether that part, or the fluid of a cyst, is blood.
        fat: Share of the volume that is macroscopic fat.
        calcified: Whether it holds calcium.
        scar: Whether a central stellate scar is seen.
        seed: Seed of the inner structure.
    """

    composition: Composition
    bosniak: Literal["none", "I", "II", "IIF", "III", "IV"]
    margin: Literal["smooth", "irregular"]
    outline: Literal["round", "lobulated", "irregular"]
    necrosis: float = 0.0
    haemorrhage: bool = False
    fat: float = 0.0
    calcified: bool = False
    scar: bool = False
    seed: int = 0


@dataclass(frozen=True, eq=False)
class PhantomLesion:
    """One lesion: its shape, its measures and its content."""

    shape: LesionShape
    measures: Measures
    look: Look


@dataclass(frozen=True, eq=False)
class PhantomKidney:
    """One kidney with what belongs to it. `lesions` are in order of size, the largest first."""

    shape: KidneyShape
    lesions: tuple[PhantomLesion, ...] = ()
    perirenal: Literal["none", "stranding", "invasion"] = "none"
    sinus_invasion: bool = False
    collecting_invasion: bool = False
    thrombus: Literal["none", "renal_vein", "vena_cava"] = "none"
    adrenal: Literal["normal", "nodule"] = "normal"
    nodes: Literal["none", "enlarged"] = "none"
    hydronephrosis: Literal["none", "mild", "marked"] = "none"
    stones: bool = False
    atrophy: bool = False


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Everything that an image of the patient depends on, beside the scanner.

    Args:
        kidneys: By side.
        tissues: How each tissue looks.
        fat_mm: Thickness of the perirenal fat.
        girth: Width of the body relative to an average one.
        seed: Seed of texture and of the surroundings.
    """

    kidneys: Mapping[str, PhantomKidney]
    tissues: Mapping[Tissue, Appearance]
    fat_mm: float
    girth: float
    seed: int


@dataclass(frozen=True)
class PhantomSeries:
    """One series of the study."""

    series_id: str
    phase: str
    protocol: CenterProtocol


@dataclass(frozen=True)
class Clinical:
    """Pathology, follow-up and risk; no image or report is made from it.

    `risk` is the natural logarithm of the hazard of recurrence relative to the average patient, its visible part
    in `visible_risk`; endpoints map rfs, dss, os to (months, event) or to None where unknown.
    """

    subtype: str
    malignant: bool
    age_years: float
    sex: Literal["female", "male"]
    bmi_kg_m2: float
    isup_grade: int | None
    stage_pt: str | None
    stage_pn: str | None
    stage_pm: str | None
    necrosis: bool | None
    sarcomatoid: bool | None
    rhabdoid: bool | None
    risk: float | None
    visible_risk: float | None
    endpoints: Mapping[str, tuple[float, bool] | None]

    @property
    def aggressive(self) -> bool:
        """Any of ISUP 3-4, pT3 or above, N1, M1, necrosis, sarcomatoid, rhabdoid; not assessed counts as absent.

        A benign lesion is not aggressive (Tao et al., Nature Communications 2026).
        """
        return self.malignant and (
            (self.isup_grade or 0) >= 3
            or (self.stage_pt or "0")[0] in "34"
            or self.stage_pn in ("1", "2")
            or self.stage_pm == "1"
            or bool(self.necrosis)
            or bool(self.sarcomatoid)
            or bool(self.rhabdoid)
        )


@dataclass(frozen=True, eq=False)
class Patient:
    """One generated patient with one study."""

    patient_id: str
    study_id: str
    center: str
    index_side: str
    anatomy: Anatomy
    series: tuple[PhantomSeries, ...]
    days_from_origin: int
    clinical: Clinical

    @property
    def index_lesion(self) -> PhantomLesion:
        """The patient's largest lesion, the one that pathology speaks of."""
        return self.anatomy.kidneys[self.index_side].lesions[0]
