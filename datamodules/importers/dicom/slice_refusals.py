"""What cannot be a slice of a CT volume, by its header, and why."""

from __future__ import annotations

import re

from datamodules.importers.dicom.slice_header import SliceHeader

CT_CLASSES = ("CT Image Storage", "Enhanced CT Image Storage", "Legacy Converted Enhanced CT Image Storage")
TRUNCATED = "truncated files"
ANNOTATED = "marked as showing burned-in text, which may name the patient (BurnedInAnnotation is YES)"
_PROJECTION = re.compile(r"\b(?:MIP|MINIP|MPVR|VRT|VOLUME ?RENDERED|PROJECTION ?IMAGE|3D|DOSE|SCREEN ?SAVE|SURFACE)\b")
_MATERIAL = re.compile(
    r"\b(?:iodine (?:map|overlay|density|water|no water|concentration)|iodine$|(?:spectral|de) iodine"
    r"|material (?:fractional|quantitative)|eff(?:ective)? ?(?:atomic ?num(?:ber)?|z)|z ?eff(?:ective)?"
    r"|electron ?density|rho ?z)\b"
)
"""Maps of a material, as scanners of two energies make them, whose values are no attenuation."""
_SCOUT = re.compile(r"\b(?:scout|localizer|localiser|topogram|surview|scanogram)\b")


def refusal(header: SliceHeader, *, burned_in: bool = False) -> str | None:
    """Why an object cannot be a slice of a CT volume, in words; None if it can.

    Args:
        header: Header of the object.
        burned_in: Whether pixels with burned-in text are welcome.
    """
    if header.modality != "CT":
        return f"{header.modality or 'objects without a modality'} instead of CT"
    if header.sop_class not in (*CT_CLASSES, ""):  # some anonymisers blank it
        return f"{header.sop_class} (secondary capture, dose sheet or other object without a volume)"
    if "LOCALIZER" in header.image_type or _SCOUT.search(header.description.lower()):
        return "a localiser (scout)"
    # The first two values say original or derived, primary or secondary; reformatted volumes are welcome.
    if match := _PROJECTION.search(" ".join(header.image_type[2:]).replace("_", " ")):
        return f"a derived picture ({match.group()})"
    if match := _material(header):
        return f"a map of a material ({match.group()})"
    if header.annotated and not burned_in:
        return ANNOTATED
    return fault(header)


def _material(header: SliceHeader) -> re.Match[str] | None:
    """The words by which ImageType or the description call a picture a map of a material."""
    kinds = " | ".join(header.image_type[2:])
    return next(filter(None, (_MATERIAL.search(_plain_words(text)) for text in (kinds, header.description))), None)


def _plain_words(text: str) -> str:
    return " ".join(re.sub(r"[_()\-]", " ", text.lower()).split())


def fault(header: SliceHeader) -> str | None:
    """Why a slice of a CT cannot be used although its volume needs it; None if it can."""
    if header.truncated and not header.rows:
        return TRUNCATED
    if not header.rows or not header.columns:
        return "without Rows or Columns"
    return " and ".join(header.faults) or None
