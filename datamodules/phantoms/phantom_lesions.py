"""What lesions look like: content, margin, enhancement; and the cysts and tumours beside the index lesion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from datamodules.anatomy.appearance import Appearance
from datamodules.phantoms.facts import Look, PhantomKidney, PhantomLesion
from datamodules.phantoms.pathology import Biology, relative_size
from datamodules.phantoms.placement import measure, place
from datamodules.phantoms.streams import chance
from datamodules.phantoms.subtypes import Subtype

_BOSNIAK = ("II", "IIF", "III", "IV")
_TRIES = 12


def draw_look(rng: np.random.Generator, subtype: Subtype, biology: Biology, diameter_mm: float) -> Look:
    """Content and margin of the index lesion: by subtype, and with size and behaviour in malignant ones."""
    size = relative_size(diameter_mm)
    active = biology.visible if subtype.malignant else 0.0
    irregular = chance(rng, subtype.irregular, 0.9 * active, 0.15 * size)
    dead = chance(rng, subtype.necrosis, 0.7 * active, 0.45 * size)
    necrosis = float(np.clip(rng.beta(2.0, 4.5) + 0.04 * active, 0.05, 0.6)) if dead else 0.0
    lobulated = rng.random() < 0.35
    bosniak = str(rng.choice(_BOSNIAK, p=subtype.bosniak)) if subtype.cystic else "none"
    blood = chance(rng, subtype.haemorrhage, 0.3 * size)
    return Look(
        composition="cystic" if subtype.cystic else ("mixed" if necrosis > 0.35 else "solid"),
        bosniak=bosniak,  # type: ignore[arg-type]
        margin="irregular" if irregular else "smooth",
        outline="irregular" if irregular and rng.random() < 0.6 else ("lobulated" if lobulated else "round"),
        # Blood in a solid tumour lies in its necrotic part, so there is one.
        necrosis=max(necrosis, 0.06) if blood and not subtype.cystic else necrosis,
        haemorrhage=blood,
        fat=float(rng.uniform(0.25, 0.85)) if subtype.fat else 0.0,
        calcified=chance(rng, subtype.calcified, 0.3 * size),
        scar=chance(rng, subtype.scar, 0.4 * size) and necrosis == 0.0,
        seed=int(rng.integers(2**31)),
    )


def tumor_appearance(rng: np.random.Generator, subtype: Subtype, biology: Biology) -> Appearance:
    """Enhancement and texture of the solid part of a patient's tumour."""
    plain = subtype.hu[0] + rng.normal(0.0, subtype.plain_sd_hu)
    gain = np.exp(rng.normal(0.0, subtype.gain_sd))
    late = np.exp(rng.normal(0.0, subtype.shape_sd, size=2))
    active = biology.visible if subtype.malignant else 0.0
    texture = subtype.texture * np.exp(rng.normal(0.0, 0.42)) + 0.022 * active
    factors = (gain, gain * late[0], gain * late[1])
    enhanced = [plain + factor * (value - subtype.hu[0]) for factor, value in zip(factors, subtype.hu[1:], strict=True)]
    return Appearance(
        hu=(float(plain), *map(float, enhanced)),  # type: ignore[arg-type]
        texture_hu=subtype.texture_hu,
        texture_share=float(np.clip(texture, 0.03, 0.45)),
        texture_mm=float(subtype.texture_mm * np.exp(rng.normal(0.0, 0.2))),
    )


def extra_lesions(
    rng: np.random.Generator, kidneys: Mapping[str, PhantomKidney], index_side: str
) -> dict[str, PhantomKidney]:
    """Simple and minimally complex cysts of either kidney, and now and then a second tumour of the same kind.

    All are smaller than the index lesion and keep clear of the other lesions; one that finds no room is left out.
    """
    result = dict(kidneys)
    index = kidneys[index_side].lesions[0]
    second = index.look.composition != "cystic" and rng.random() < 0.04
    if second:
        look = replace(index.look, necrosis=0.0, scar=False, calcified=False, seed=int(rng.integers(2**31)))
        look = replace(look, composition="solid", haemorrhage=False)
        size = index.measures.diameter_mm * rng.uniform(0.3, 0.7)
        side = index_side if rng.random() < 0.6 else ("left" if index_side == "right" else "right")
        result[side] = _add(rng, result[side], float(max(size, 8.0)), look)
    for side in sorted(result):
        for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.72, 0.18, 0.07, 0.03]))):
            size = float(np.clip(14.0 * np.exp(rng.normal(0.0, 0.45)), 7.0, 0.8 * index.measures.diameter_mm))
            bosniak = "II" if rng.random() < 0.2 else "I"
            look = Look("cystic", bosniak, "smooth", "round", seed=int(rng.integers(2**31)))  # type: ignore[arg-type]
            result[side] = _add(rng, result[side], size, look)
    return result


def _add(rng: np.random.Generator, kidney: PhantomKidney, diameter_mm: float, look: Look) -> PhantomKidney:
    for _ in range(_TRIES):
        shape = place(rng, kidney.shape, diameter_mm, look)
        clear = all(
            np.linalg.norm(shape.center - other.shape.center) > 0.52 * (diameter_mm + other.measures.diameter_mm) + 2.0
            for other in kidney.lesions
        )
        measures = measure(kidney.shape, shape)
        if clear and measures.sinus_mm > 0.0:
            lesions = [*kidney.lesions, PhantomLesion(shape, measures, look)]
            lesions.sort(key=lambda lesion: -lesion.measures.diameter_mm)
            return replace(kidney, lesions=tuple(lesions))
    return kidney
