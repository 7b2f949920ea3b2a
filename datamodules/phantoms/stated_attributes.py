"""From the facts of a kidney to the values that a radiologist would name."""

from __future__ import annotations

from typing import Any

from datamodules.anatomy.appearance import Hu
from datamodules.anatomy.nephrometry.points import (
    EXOPHYTIC,
    NEARNESS,
    SIZE_CLASS,
    e_points,
    l_points,
    n_points,
    r_points,
)
from datamodules.anatomy.tissues import Tissue
from datamodules.phantoms.facts import Measures, Patient, PhantomKidney, PhantomLesion

LESION_ATTRIBUTES = (
    "lesion_number",
    "pole",
    "face",
    "size_class",
    "exophytic",
    "collecting_nearness",
    "hilar_contact",
    "margin",
    "outline",
    "density",
    "homogeneity",
    "composition",
    "bosniak",
    "enhancement_degree",
    "enhancement_pattern",
    "washout",
    "macroscopic_fat",
    "calcification",
    "necrosis",
    "haemorrhage",
    "central_scar",
    "perirenal",
    "collecting_invasion",
    "sinus_invasion",
    "venous_thrombus",
)
"""Attributes of the largest lesion of a kidney; missing where there is none."""

KIDNEY_ATTRIBUTES = ("lesion_present", "adrenal", "lymph_nodes", "hydronephrosis", "stones", "atrophy")
"""Attributes that every kidney has."""

ATTRIBUTES = (*KIDNEY_ATTRIBUTES, *LESION_ATTRIBUTES)


def renal_points(measures: Measures) -> dict[str, Any]:
    """R.E.N.A.L. values and points of the measured geometry, as columns of the table `kidneys`."""
    return {
        "renal_r_mm": measures.diameter_mm,
        "renal_e_fraction": measures.exophytic_fraction,
        "renal_n_mm": measures.sinus_mm,
        "renal_l_fraction": measures.between_fraction,
        "renal_r": r_points(measures.diameter_mm),
        "renal_e": e_points(measures.exophytic_fraction),
        "renal_n": n_points(measures.sinus_mm),
        "renal_a": measures.face,
        "renal_l": l_points(measures.between_fraction, measures.crosses_midline),
        "renal_pole": measures.pole,
    }


def attributes(patient: Patient, side: str) -> dict[str, str | None]:
    """The value of every attribute of one kidney; None where the kidney has no lesion to speak of.

    Density is judged against unenhanced parenchyma of about 33 HU, enhancement by its peak over the phases: below
    10 HU none (cyst fluid), mild to 45, moderate to 90, avid above; washout is a loss of a quarter of the arterial
    enhancement by the delayed phase.
    """
    kidney = patient.anatomy.kidneys[side]
    values: dict[str, str | None] = dict.fromkeys(ATTRIBUTES)
    values |= {
        "lesion_present": _yes(bool(kidney.lesions)),
        "adrenal": kidney.adrenal,
        "lymph_nodes": kidney.nodes,
        "hydronephrosis": kidney.hydronephrosis,
        "stones": _yes(kidney.stones),
        "atrophy": _yes(kidney.atrophy),
    }
    if kidney.lesions:
        values |= _place(kidney) | _content(kidney.lesions[0], patient)
    return values


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _place(kidney: PhantomKidney) -> dict[str, str | None]:
    measures, look = kidney.lesions[0].measures, kidney.lesions[0].look
    points = renal_points(measures)
    return {
        "lesion_number": "one" if len(kidney.lesions) == 1 else "several",
        "pole": measures.pole,
        "face": measures.face,
        "size_class": SIZE_CLASS[points["renal_r"]],
        "exophytic": EXOPHYTIC[points["renal_e"]],
        "collecting_nearness": NEARNESS[points["renal_n"]],
        "hilar_contact": _yes(measures.hilar),
        "margin": look.margin,
        "outline": look.outline,
        "perirenal": kidney.perirenal,
        "collecting_invasion": _yes(kidney.collecting_invasion),
        "sinus_invasion": _yes(kidney.sinus_invasion),
        "venous_thrombus": kidney.thrombus,
    }


def _content(lesion: PhantomLesion, patient: Patient) -> dict[str, str | None]:
    look = lesion.look
    tumor = patient.anatomy.tissues[Tissue.TUMOR]
    cystic = look.composition == "cystic"
    plain = patient.anatomy.tissues[Tissue.CYST].hu[0] if cystic else tumor.hu[0]
    uneven = tumor.texture_share > 0.18 or look.necrosis > 0.0 or look.fat > 0.0 or look.haemorrhage
    return {
        "density": "hypodense" if plain < 25 else ("isodense" if plain <= 42 else "hyperdense"),
        "homogeneity": "heterogeneous" if uneven and not cystic else "homogeneous",
        "composition": look.composition,
        "bosniak": look.bosniak if cystic else None,
        "enhancement_degree": _degree(tumor.hu, look.bosniak),
        "enhancement_pattern": _pattern(lesion, uneven),
        "washout": None if cystic else _yes(tumor.hu[1] - tumor.hu[3] > 0.25 * (tumor.hu[1] - tumor.hu[0])),
        "macroscopic_fat": _yes(look.fat > 0.0),
        "calcification": _yes(look.calcified),
        "necrosis": _yes(look.necrosis > 0.0),
        "haemorrhage": _yes(look.haemorrhage),
        "central_scar": _yes(look.scar),
    }


def _degree(hu: Hu, bosniak: str) -> str:
    if bosniak != "none":
        return {"I": "none", "II": "none", "IIF": "mild", "III": "moderate", "IV": "avid"}[bosniak]
    peak = max(hu[1:]) - hu[0]
    return "mild" if peak < 45 else ("moderate" if peak < 90 else "avid")


def _pattern(lesion: PhantomLesion, uneven: bool) -> str:
    bosniak = lesion.look.bosniak
    if bosniak != "none":
        return {"I": "none", "II": "none", "IIF": "septal", "III": "septal", "IV": "nodular"}[bosniak]
    if lesion.look.necrosis > 0.35:
        return "peripheral"
    return "heterogeneous" if uneven else "homogeneous"
