"""Pathology and follow-up of a patient, from what is visible in the images and from what is not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datamodules.phantoms.facts import PhantomKidney, PhantomLesion
from datamodules.phantoms.streams import chance
from datamodules.phantoms.subtypes import Subtype

DAYS_PER_MONTH = 30.4375
_SIZE_MM, _SIZE_SPREAD = 43.0, 0.48
_STEEPNESS = 0.88  # scale of the log-hazard, set so that the true risk reaches a C-index of .75-.80


@dataclass(frozen=True)
class Biology:
    """Latent behaviour of a tumour: `visible` shapes what a CT shows, `hidden` does not."""

    visible: float
    hidden: float


@dataclass(frozen=True)
class PhantomPathology:
    """What the pathologist finds; None where it is not assessed."""

    isup_grade: int | None = None
    stage_pt: str | None = None
    stage_pn: str | None = None
    stage_pm: str | None = None
    necrosis: bool | None = None
    sarcomatoid: bool | None = None
    rhabdoid: bool | None = None


def relative_size(diameter_mm: float) -> float:
    """Logarithm of the diameter in standard deviations from the typical malignant tumour."""
    return float(np.log(diameter_mm / _SIZE_MM) / _SIZE_SPREAD)


def examine(
    rng: np.random.Generator, subtype: Subtype, lesion: PhantomLesion, kidney: PhantomKidney, biology: Biology
) -> PhantomPathology:
    """Pathology of a malignant tumour; all fields are None for a benign one.

    Grades follow WHO/ISUP (not given to chromophobe tumours), T stages AJCC 8. Stage pT3a is also found where
    invasion is too small to be seen.
    """
    if not subtype.malignant:
        return PhantomPathology()
    size = relative_size(lesion.measures.diameter_mm)
    behaviour = 0.8 * biology.visible + 0.45 * biology.hidden + 0.2 * size + rng.normal(0.0, 0.45)
    grade = 1 + int(np.searchsorted([-1.4, 0.5, 1.6], behaviour - (0.5 if subtype.cystic else 0.0)))
    sarcomatoid = chance(rng, 0.25 if grade == 4 else 0.004)
    rhabdoid = chance(rng, 0.15 if grade == 4 else 0.002)
    necrosis = chance(rng, 0.12, 0.7 * behaviour, 3.5 * lesion.look.necrosis)
    found = kidney.sinus_invasion or kidney.perirenal == "invasion" or kidney.thrombus == "renal_vein"
    unseen = chance(rng, 0.06, 0.5 * biology.hidden, 0.8 * size)
    nodal = kidney.nodes == "enlarged" and chance(rng, 0.6)
    unseen_nodes = chance(rng, 0.01, 0.5 * biology.hidden, 0.4 * size)
    distant = chance(rng, 0.03, 0.7 * behaviour, 0.4 * size)
    resected = chance(rng, 0.35)
    return PhantomPathology(
        isup_grade=None if subtype.name.startswith("chromophobe") else grade,
        stage_pt=_stage(lesion.measures.diameter_mm, (found and chance(rng, 0.8)) or unseen, kidney, rng),
        stage_pn="1" if nodal or unseen_nodes else ("0" if resected else "X"),
        stage_pm="1" if distant else "0",
        necrosis=necrosis,
        sarcomatoid=sarcomatoid,
        rhabdoid=rhabdoid,
    )


def _stage(diameter_mm: float, beyond: bool, kidney: PhantomKidney, rng: np.random.Generator) -> str:
    gerota = kidney.perirenal == "invasion" and chance(rng, 0.06)
    if gerota:
        return "4"
    if kidney.thrombus == "vena_cava":
        return "3b"
    if beyond:
        return "3a"
    limits = ((40.0, "1a"), (70.0, "1b"), (100.0, "2a"))
    return next((stage for limit, stage in limits if diameter_mm <= limit), "2b")


def hazard(
    subtype: Subtype,
    lesion: PhantomLesion,
    kidney: PhantomKidney,
    pathology: PhantomPathology,
    biology: Biology,
    texture: float,
) -> tuple[float, float]:
    """Log-hazard of recurrence and its part that images show, both relative to an average malignant tumour.

    The factors are those of the Leibovich score and its successors (Leibovich et al., Eur Urol 2018;73:772-780):
    size, stage, nodes, grade, necrosis, sarcomatoid change; the weights are ours.
    """
    visible = (
        0.45 * (lesion.look.margin == "irregular")
        + 1.6 * lesion.look.necrosis
        + 2.2 * (texture - 0.31)
        + 0.45 * (kidney.perirenal == "invasion")
        + 0.45 * kidney.sinus_invasion
        + 0.7 * (kidney.thrombus != "none")
        + 0.8 * (kidney.nodes == "enlarged")
        - 0.8 * subtype.cystic
        - 0.3
    )
    hidden = (
        0.45 * ((pathology.isup_grade or 2) - 2.3)
        + 0.4 * bool(pathology.necrosis)
        + 0.7 * bool(pathology.sarcomatoid)
        + 0.5 * (pathology.stage_pn == "1")
        + 0.55 * biology.hidden
        - 0.5 * subtype.name.startswith("chromophobe")
        - 0.3
    )
    return _STEEPNESS * (visible + hidden), _STEEPNESS * visible


def follow(
    rng: np.random.Generator, risk: float | None, age_years: float, metastatic: bool, lost: float
) -> dict[str, tuple[float, bool] | None]:
    """Follow-up after surgery: time in months and event of rfs, dss and os.

    Recurrence comes first and death of cancer some time after it, deaths of other causes compete, and one censoring
    time ends all; so every DSS event is an OS event and no RFS time exceeds the DSS time.

    Args:
        rng: Random numbers.
        risk: Log-hazard of recurrence; None for a benign lesion, which has overall survival only.
        age_years: Age.
        metastatic: M1: no recurrence-free survival, and cancer kills sooner.
        lost: Probability that nothing is known.
    """
    unknown = rng.random() < lost
    censored = rng.uniform(8.0, 130.0)
    # About 2 % a year die of other causes at 60, doubling every nine years of age.
    other = rng.exponential(12.0 / (0.014 * np.exp(0.075 * (age_years - 60.0))))
    uniform, gap, fatal = rng.random(), rng.exponential(1.0), rng.random() < 0.7
    if unknown:
        return {"rfs": None, "dss": None, "os": None}
    if risk is None:
        return {"rfs": None, "dss": None, "os": _first(censored, other)}
    # Weibull with a falling hazard: most recurrences come within three years.
    recurrence = 240.0 * (-np.log(uniform) * np.exp(-risk)) ** (1 / 0.85)
    if metastatic:
        recurrence, fatal = 0.0, True
    cancer = recurrence + 22.0 * np.exp(-0.25 * risk) * gap if fatal else np.inf
    return {
        "rfs": None if metastatic else _first(min(censored, other), recurrence),
        "dss": _first(min(censored, other), cancer),
        "os": _first(censored, min(other, cancer)),
    }


def _first(end: float, event: float) -> tuple[float, bool]:
    days = int(np.floor(min(end, event) * DAYS_PER_MONTH))
    return days / DAYS_PER_MONTH, bool(event < end)
