"""What the mask of a kidney says without any model, as plain data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

import numpy as np

from datamodules.anatomy.nephrometry.lesion_scores import LesionScores, score_lesions
from datamodules.anatomy.nephrometry.mask_geometry import Spacing
from datamodules.anatomy.nephrometry.scores import Nephrometry
from datamodules.errors import DataError
from datamodules.importers.one_scan import ScanKidney


def drawn_lesions(kidney: ScanKidney) -> tuple[list[dict[str, Any]], list[str]]:
    """The lesions that a mask draws of a kidney, from the map at the scan's own resolution.

    Args:
        kidney: A kidney with a map.

    Returns:
        One entry a lesion, tumours first and each kind from large to small; and notes.
    """
    assert kidney.located is not None
    assert kidney.located.labels is not None
    stored = kidney.located.labels
    width, height, depth = (float(value) for value in stored.spacing)
    labels = np.ascontiguousarray(stored.data[0].numpy().transpose(2, 1, 0))
    # The import measures a kidney that the scan cuts off, and does not score it.
    return lesions_of(labels, (depth, height, width), kidney.side, complete="renal_r_mm" in kidney.measures)


def lesions_of(
    labels: np.ndarray, spacing_mm: Spacing, side: str, *, complete: bool = True
) -> tuple[list[dict[str, Any]], list[str]]:
    """The lesions of a map of one kidney, measured and scored; and notes.

    Args:
        labels: uint8 [D, H, W] of `Tissue` codes.
        spacing_mm: Voxel spacing, D, H, W.
        side: left or right.
        complete: Whether the whole kidney is in the map.
    """
    found_side: Literal["left", "right"] = "left" if side == "left" else "right"
    notes = []
    try:
        found = score_lesions(labels, spacing_mm, found_side, complete=complete)
    except DataError as error:
        notes.append(f"The lesions of the {side} kidney were measured and not scored: {error}")
        found = score_lesions(labels, spacing_mm, found_side, complete=False)
    return [{"number": number, **_lesion(lesion)} for number, lesion in enumerate(found, start=1)], notes


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
