"""Where the kidneys of a study lie that several masks show: at one place, or elsewhere in one of its series."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torchio as tio

from datamodules.importers.locate import LocatedKidney
from datamodules.importers.mask_grids import values_at


def in_place(own: Sequence[LocatedKidney], kept: Sequence[LocatedKidney]) -> tuple[list[LocatedKidney], list[str]]:
    """The kidneys of a series at the places of the mask that its study keeps.

    Two masks of one kidney differ by how they were drawn, or because the kidney lay elsewhere, as between two breaths.
    It lay elsewhere where the masks agree better once one is moved onto the other.

    Args:
        own: Kidneys of the series.
        kept: Kidneys of the mask that the study keeps.

    Returns:
        A kidney each, those among them that its own mask does not show, and notes on those that lie elsewhere.
    """
    places = {kidney.side: kidney for kidney in kept}
    found, notes = [], []
    for kidney in own:
        place = places.get(kidney.side)
        if place is None or place is kidney or place.labels is None or kidney.labels is None:
            found.append(kidney)
            continue
        shift = np.subtract(kidney.center_ras_mm, place.center_ras_mm)
        if overlap(kidney.labels, place.labels, shift) > overlap(kidney.labels, place.labels, np.zeros(3)):
            found.append(kidney)
            notes.append(
                f"the {kidney.side} kidney lies {np.linalg.norm(shift):.0f} mm from its place in the series whose mask "
                "is kept; the region was moved with it."
            )
        else:
            found.append(place)
    sides = {kidney.side for kidney in own}
    return [*found, *(kidney for kidney in kept if kidney.side not in sides)], notes


def overlap(first: tio.LabelMap, second: tio.LabelMap, shift_mm: np.ndarray) -> float:
    """Share of the labelled voxels of a map that are labelled in another one.

    Args:
        first: The map.
        second: The other one, on any grid.
        shift_mm: By how much the first lies further along x, y and z than it would for the comparison.
    """
    points = np.argwhere(first.data[0].numpy() > 0)
    placed = points @ first.affine[:3, :3].T + first.affine[:3, 3] - shift_mm
    inverse = np.linalg.inv(second.affine)
    voxels = np.round(placed @ inverse[:3, :3].T + inverse[:3, 3]).astype(int)
    return float((values_at(second, voxels) > 0).sum()) / len(points)
