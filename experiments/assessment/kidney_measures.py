"""What the mask of a kidney says without any model, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from datamodules.anatomy.nephrometry.lesion_scores import SCORED_MM, LesionScores, score_lesions
from datamodules.anatomy.nephrometry.mask_geometry import Spacing, coarsened
from datamodules.anatomy.nephrometry.scores import Nephrometry
from datamodules.errors import DataError
from datamodules.importers.one_scan import ScanKidney
from datamodules.volumes.contract import PreprocessingContract
from experiments.assessment.lesion_outlines import LesionOutline, array_affine, lesion_hu, regridded


@dataclass(frozen=True)
class Lesions:
    """The lesions of one kidney.

    Args:
        found: One entry a lesion as plain data, tumours first and each kind from large to small.
        outlines: Their outlines, in the same order.
        notes: What must be said of them.
    """

    found: list[dict[str, Any]]
    outlines: list[LesionOutline]
    notes: list[str]


def drawn_lesions(kidney: ScanKidney, contract: PreprocessingContract) -> Lesions:
    """The lesions that a mask draws of a kidney, from the map at the scan's own resolution.

    Args:
        kidney: A kidney with a map.
        contract: Preprocessing contract of its images.
    """
    assert kidney.located is not None
    assert kidney.located.labels is not None
    stored = kidney.located.labels
    labels = np.ascontiguousarray(stored.data[0].numpy().transpose(2, 1, 0))
    # The import measures a kidney that the scan cuts off, and does not score it.
    complete = "renal_r_mm" in kidney.measures
    return lesions_of(kidney, labels, array_affine(stored.affine), contract, complete=complete)


def lesions_of(
    kidney: ScanKidney,
    labels: np.ndarray,
    affine: np.ndarray,
    contract: PreprocessingContract,
    *,
    complete: bool = True,
) -> Lesions:
    """The lesions of a map of one kidney, measured and scored.

    Args:
        kidney: The kidney.
        labels: uint8 [D, H, W] of `Tissue` codes, along the axes of the patient.
        affine: From indices D, H, W to RAS millimetres, float64 [4, 4].
        contract: Preprocessing contract of its images.
        complete: Whether the whole kidney is in the map.
    """
    depth, height, width = (float(step) for step in np.linalg.norm(affine[:3, :3], axis=0))
    spacing_mm: Spacing = (depth, height, width)
    side: Literal["left", "right"] = "left" if kidney.side == "left" else "right"
    notes = []
    try:
        scored = score_lesions(labels, spacing_mm, side, complete=complete)
    except DataError as error:
        notes.append(f"The lesions of the {side} kidney were measured and not scored: {error}")
        scored = score_lesions(labels, spacing_mm, side, complete=False)
    _, measured_mm = coarsened(labels, spacing_mm, SCORED_MM)
    outlines = [LesionOutline(one.mask, regridded(affine, spacing_mm, measured_mm)) for one in scored]
    inside = lesion_hu(kidney, outlines, contract)
    found = [
        {"number": number, **_lesion(lesion), "hu": dict(hu)}
        for number, (lesion, hu) in enumerate(zip(scored, inside, strict=True), start=1)
    ]
    return Lesions(found, outlines, notes)


def _lesion(lesion: LesionScores) -> dict[str, Any]:
    row: dict[str, Any] = {
        "kind": lesion.kind,
        "volume_ml": lesion.volume_ml,
        "diameter_mm": lesion.diameter_mm,
        "axial_diameter_mm": lesion.axial_diameter_mm,
    }
    if lesion.renal is not None:
        row["renal"] = _renal(lesion.renal)
    if lesion.padua is not None:
        low, high = lesion.padua.total
        own = {"total_low": low, "total_high": high, "complexity": lesion.padua.complexity}
        row["padua"] = asdict(lesion.padua) | own
    if lesion.c_index is not None:
        row["c_index"] = lesion.c_index
    return row


def _renal(found: Nephrometry) -> dict[str, Any]:
    return asdict(found) | {"total": found.total, "text": f"{found.total}{_SUFFIX[found.a]}"}


_SUFFIX = {"anterior": "a", "posterior": "p", "x": "x"}


def index_side(kidneys: list[dict[str, Any]]) -> str | None:
    """Side of the largest lesion, a tumour before any cyst, as an import chooses it; None where no lesion is known."""
    largest = {
        kidney["side"]: max((lesion["kind"] == "tumor", lesion["diameter_mm"]) for lesion in kidney["lesions"])
        for kidney in kidneys
        if kidney["lesions"]
    }
    return max(largest, key=lambda side: largest[side]) if largest else None
