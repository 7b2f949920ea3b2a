"""Drawing a patient from the seed and the pseudonym: facts only, no voxel and no word yet."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from datamodules.anatomy.appearance import Appearance, patient_tissues
from datamodules.anatomy.tissues import Tissue
from datamodules.cohort.columns import PHASES, SIDES
from datamodules.phantoms.centers import Center, center_of, series_protocol
from datamodules.phantoms.facts import Anatomy, Clinical, Look, Patient, PhantomKidney, PhantomLesion, PhantomSeries
from datamodules.phantoms.pathology import Biology, examine, follow, hazard, relative_size
from datamodules.phantoms.phantom_lesions import draw_look, extra_lesions, tumor_appearance
from datamodules.phantoms.placement import measure, place
from datamodules.phantoms.shapes import KidneyShape
from datamodules.phantoms.streams import chance, quantile, stream
from datamodules.phantoms.subtypes import Subtype, deal


@dataclass(frozen=True)
class _Person:
    subtype: Subtype
    biology: Biology
    sex: Literal["female", "male"]
    age_years: float
    bmi_kg_m2: float
    diameter_mm: float


def draw_patient(seed: int, patient_id: str) -> Patient:
    """All facts of one patient.

    Args:
        seed: Seed of the cohort.
        patient_id: `<centre>-<number>`.

    Returns:
        The patient; the same for the same arguments, whatever was drawn before.

    Raises:
        DataError: if the pseudonym names no centre.
    """
    center = center_of(patient_id)
    person = _draw_person(seed, patient_id, center)
    rng = stream(seed, patient_id, "anatomy")
    look = draw_look(stream(seed, patient_id, "look"), person.subtype, person.biology, person.diameter_mm)
    index_side = str(rng.choice(SIDES))
    dilations = {side: _dilation(rng) for side in SIDES}
    kidneys = {side: _draw_kidney(rng, side, person, dilations[side]) for side in SIDES}
    index = kidneys[index_side]
    shape = place(rng, index.shape, person.diameter_mm, look)
    lesion = PhantomLesion(shape, measure(index.shape, shape), look)
    index = replace(index, lesions=(lesion,))
    kidneys[index_side] = _surroundings(stream(seed, patient_id, "findings"), index, person)
    kidneys = extra_lesions(stream(seed, patient_id, "extra"), kidneys, index_side)
    tissues, texture = _tissues(seed, patient_id, person, look)
    anatomy = Anatomy(
        kidneys=kidneys,
        tissues=tissues,
        fat_mm=float(np.clip(rng.normal(9.0 + 0.7 * (person.bmi_kg_m2 - 27.0), 3.0), 3.0, 22.0)),
        girth=float(np.clip(1.0 + 0.013 * (person.bmi_kg_m2 - 27.0) + rng.normal(0.0, 0.03), 0.85, 1.25)),
        seed=int(rng.integers(2**31)),
    )
    return Patient(
        patient_id=patient_id,
        study_id=f"{patient_id}-S1",
        center=center.name,
        index_side=index_side,
        anatomy=anatomy,
        series=_draw_series(stream(seed, patient_id, "series"), patient_id, center),
        days_from_origin=-int(stream(seed, patient_id, "study day").integers(0, 61)),
        clinical=_clinical(stream(seed, patient_id, "clinical"), person, kidneys[index_side], texture, center),
    )


def _draw_person(seed: int, patient_id: str, center: Center) -> _Person:
    rng = stream(seed, patient_id, "person")
    subtype = deal(quantile(seed, patient_id, "subtype"), center.population)
    public = center.population == "public"
    biology = Biology(float(rng.normal()), float(rng.normal()))
    growth = subtype.size_spread * rng.normal() + (0.12 * biology.visible if subtype.malignant else 0.0)
    return _Person(
        subtype=subtype,
        biology=biology,
        sex="male" if rng.random() < subtype.male else "female",
        age_years=float(np.clip(rng.normal(subtype.age_years - (2.0 if public else 0.0), 11.5), 22.0, 90.0)),
        bmi_kg_m2=float(np.clip(rng.normal(29.0 if public else 26.5, 4.5), 17.0, 48.0)),
        # Public collections gather larger tumours.
        diameter_mm=float(np.clip(subtype.size_mm * (1.15 if public else 1.0) * np.exp(growth), 9.0, 125.0)),
    )


def _dilation(rng: np.random.Generator) -> Literal["none", "mild", "marked"]:
    draw = rng.random()
    return "marked" if draw < 0.015 else ("mild" if draw < 0.06 else "none")


def _draw_kidney(
    rng: np.random.Generator, side: str, person: _Person, hydronephrosis: Literal["none", "mild", "marked"]
) -> PhantomKidney:
    atrophy = chance(rng, 0.03)
    stones = chance(rng, 0.07)
    size = (0.72 if atrophy else 1.0) * (1.03 if person.sex == "male" else 0.96) * np.exp(rng.normal(0.0, 0.05))
    axes = size * np.array([28.5, 23.0, 54.0]) * np.exp(rng.normal(0.0, 0.04, size=3))
    sign = 1.0 if side == "right" else -1.0
    place_mm = np.array([71.0, -38.0, 0.0]) + rng.normal(0.0, [2.5, 3.0, 5.0])
    shape = KidneyShape(
        side,
        (float(sign * place_mm[0]), float(place_mm[1]), float(place_mm[2] - (6.0 if side == "right" else -4.0))),
        (float(axes[0]), float(axes[1]), float(axes[2])),
        _frame(rng, sign),
        dilation={"none": 1.0, "mild": 1.5, "marked": 2.3}[hydronephrosis] * float(np.exp(rng.normal(0.0, 0.06))),
    )
    return PhantomKidney(shape, hydronephrosis=hydronephrosis, stones=stones, atrophy=atrophy)


def _frame(rng: np.random.Generator, sign: float) -> np.ndarray:
    """Axes of a kidney: upper pole medial and posterior, hilum towards the front and the spine."""
    lean, pitch, turn = np.deg2rad([rng.normal(14.0, 4.0), rng.normal(10.0, 4.0), rng.normal(32.0, 8.0)])
    up = np.array([-np.sin(lean), -np.sin(pitch), 1.0])
    up /= np.linalg.norm(up)
    lateral = np.array([np.cos(turn), -np.sin(turn), 0.0])
    lateral -= (lateral @ up) * up
    lateral /= np.linalg.norm(lateral)
    frame = np.stack([lateral, np.cross(up, lateral), up])
    return frame * np.array([sign, 1.0, 1.0])


def _surroundings(rng: np.random.Generator, kidney: PhantomKidney, person: _Person) -> PhantomKidney:
    """Findings beyond the lesion, each only where the geometry allows it."""
    lesion = kidney.lesions[0]
    size, active = relative_size(lesion.measures.diameter_mm), person.biology.visible
    malignant, cystic = person.subtype.malignant, person.subtype.cystic
    solid = malignant and not cystic
    touches = lesion.measures.sinus_mm <= 0.0
    invades = chance(rng, 0.15 if solid else 0.02, 0.8 * active, 0.35 * size) and touches
    collecting = chance(rng, 0.25) and invades
    beyond = chance(rng, 0.06 if solid else 0.0, 0.9 * active, 0.5 * size)
    beyond = beyond and lesion.measures.exophytic_fraction > 0.1
    stranding = chance(rng, 0.12, 0.4 * size)
    clear = person.subtype.name.startswith("clear")
    vein = chance(rng, 0.05 if clear else (0.015 if solid else 0.0), 0.9 * active, 0.7 * size)
    cava = chance(rng, 0.3)
    nodes = chance(rng, 0.04 if malignant else 0.015, 0.7 * active * malignant, 0.5 * size)
    adrenal = chance(rng, 0.03, 0.3 * size)
    return replace(
        kidney,
        perirenal="invasion" if beyond else ("stranding" if stranding else "none"),
        sinus_invasion=invades,
        collecting_invasion=collecting,
        thrombus=("vena_cava" if cava else "renal_vein") if vein else "none",
        nodes="enlarged" if nodes else "none",
        adrenal="nodule" if adrenal else "normal",
    )


def _tissues(seed: int, patient_id: str, person: _Person, look: Look) -> tuple[dict[Tissue, Appearance], float]:
    rng = stream(seed, patient_id, "tissues")
    tissues = patient_tissues(int(rng.integers(2**31)))
    tumor = tumor_appearance(rng, person.subtype, person.biology)
    fluid = float(rng.normal(60.0, 8.0) if look.haemorrhage else rng.normal(9.0, 4.0))
    tissues[Tissue.TUMOR] = tumor
    tissues[Tissue.CYST] = Appearance((fluid, fluid, fluid + 1.0, fluid + 1.0), 2.0, 0.0, 8.0)
    if look.haemorrhage:
        tissues[Tissue.NECROSIS] = replace(tissues[Tissue.NECROSIS], hu=(58.0, 60.0, 61.0, 61.0))
    return tissues, tumor.texture_share


def _draw_series(rng: np.random.Generator, patient_id: str, center: Center) -> tuple[PhantomSeries, ...]:
    present = rng.random(len(PHASES)) < np.array(center.phase_rates)
    # A renal-mass study without any early enhanced phase would not have been kept.
    if not present[1:3].any():
        present[int(rng.integers(1, 3))] = True
    return tuple(
        PhantomSeries(f"{patient_id}-S1-{phase}", phase, series_protocol(center, rng))
        for phase, kept in zip(PHASES, present, strict=True)
        if kept
    )


def _clinical(
    rng: np.random.Generator, person: _Person, kidney: PhantomKidney, texture: float, center: Center
) -> Clinical:
    subtype, lesion = person.subtype, kidney.lesions[0]
    pathology = examine(rng, subtype, lesion, kidney, person.biology)
    risks = hazard(subtype, lesion, kidney, pathology, person.biology, texture) if subtype.malignant else (None, None)
    lost = 0.08 if center.population == "public" else 0.04
    return Clinical(
        subtype=subtype.name,
        malignant=subtype.malignant,
        age_years=round(person.age_years, 1),
        sex=person.sex,
        bmi_kg_m2=round(person.bmi_kg_m2, 1),
        **vars(pathology),
        risk=risks[0],
        visible_risk=risks[1],
        endpoints=follow(rng, risks[0], person.age_years, pathology.stage_pm == "1", lost),
    )
