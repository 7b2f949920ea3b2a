"""What the name of a label, a segment or a file says: which tissue of the kidney, on which side, or none of it."""

from __future__ import annotations

import re

from datamodules.anatomy.tissues import Tissue


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_KIDNEY = frozenset({"kidney", "kidneys", "renal"})
_TISSUE = frozenset({"parenchyma", "cortex", "medulla"})
_CYSTS = frozenset({"cyst", "cysts"})
_CARCINOMA = frozenset({"rcc", "ccrcc", "prcc", "chrcc", "oncocytoma", "angiomyolipoma", "nephroblastoma"})
"""Tumours of the kidney by their own name."""
_TUMORS = _CARCINOMA | {"tumor", "tumors", "tumour", "tumours", "mass", "masses", "lesion", "lesions", "neoplasm"}
_TUMORS |= {"neoplasms", "carcinoma", "carcinomas", "cancer", "malignancy"}
_SIDES = {"left": ("left", "lt"), "right": ("right", "rt")}
# Words that do not say which organ is meant. Any other word beside `lesion` may name one: liver, hepatic, ovarian.
_NEUTRAL = _words(
    "left right lt rt both bilateral l r index primary main target largest solid cystic complex simple malignant "
    "benign of the in and a an cell clear papillary chromophobe type enhancing necrotic necrosis core gtv roi "
    "segment segmentation mask label manual auto automatic ai reader observer final expert body abdomen abdominal "
    "structure morphologically abnormal altered abnormality tissue area upper lower mid pole anterior posterior nos"
)
# Of the kidney or beside it, and neither its tissue nor a lesion.
_NO_TISSUE = _words(
    "vein veins artery arteries vessel vessels pelvis calyx calyces ureter collecting system sinus fat stone stones "
    "calculus calculi adrenal suprarenal gland thrombus cava hilum hilar fascia background non outside"
)


def meaning(name: str) -> tuple[Tissue | None, str | None]:
    """Tissue and side that a label's name speaks of.

    A lesion is one of the kidney where the name says so, or names no place at all: `Mass`, `Index lesion`, not `Liver
    lesion`.

    Args:
        name: Name of a file, a segment or a class, for example `kidney_cyst_left`, `Left kidney` or `Mass`.

    Returns:
        The tissue or None, and `left`, `right` or None.
    """
    words = re.findall(r"[^\W\d_]+", name.lower())
    said = set(words)
    sides = [side for side, spelled in _SIDES.items() if said & set(spelled)]
    if said & {"kidney", "kidneys"} and not sides:
        sides = [side for side in _SIDES if side[0] in words]
    return _tissue(said), sides[0] if len(sides) == 1 else None


def _tissue(said: set[str]) -> Tissue | None:
    if said & _NO_TISSUE:
        return None
    ours = bool(said & (_KIDNEY | _CARCINOMA))
    elsewhere = said - _NEUTRAL - _KIDNEY - _TISSUE - _CYSTS - _TUMORS
    lesion = ours or not elsewhere
    if said & _CYSTS and lesion:
        return Tissue.CYST
    if said & _TUMORS:
        return Tissue.TUMOR if lesion else None
    if said & {"kidney", "kidneys"} or ("renal" in said and said & _TISSUE):
        return Tissue.KIDNEY
    return None
