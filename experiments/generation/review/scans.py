"""Slices of a kidney's scan as pictures: three planes, every phase, the lesion outlined where it is known."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from matplotlib.image import imsave
from scipy import ndimage

from datamodules.anatomy.tissues import LESION
from datamodules.cohort.columns import PHASES
from datamodules.errors import DataError
from datamodules.volumes.shards import VolumeSet
from experiments.generation.review.cases import Case

PLANES: Mapping[str, int] = {"axial": 0, "coronal": 1, "sagittal": 2}
"""Axis of the stored array that runs through the slices of each plane."""
WINDOWS_HU: Mapping[str, tuple[float, float]] = {
    "soft": (-160.0, 240.0),
    "narrow": (-10.0, 190.0),
    "bone": (-500.0, 1300.0),
}
"""Ends of the grey scale by the window's name, the usual one first; the others show enhancement, and calcification."""
PIXELS_A_MM = 3.0
_OUTLINE = np.array([255, 176, 0], dtype=np.uint8)
_KEPT = 8  # volumes in memory; a kidney has four phases at most in common use


@dataclass(frozen=True)
class ReviewScan:
    """One scan of a kidney.

    Args:
        position: Its place in the volume set.
        title: Its phase, with a number where several have it.
    """

    position: int
    title: str


class Scans:
    """Pictures of the kidneys of a volume set; safe to use from several threads.

    Args:
        volumes: The volume set.
    """

    def __init__(self, volumes: VolumeSet) -> None:
        self.volumes = volumes
        self._lock = threading.Lock()
        index = volumes.index.assign(place=range(len(volumes)))
        keys = zip(index["patient_id"], index["study_id"], index["side"], strict=True)
        self._of: dict[tuple[str, str, str], list[tuple[int, str, int]]] = {}
        for key, phase, place in zip(keys, index["phase"], index["place"], strict=True):
            self._of.setdefault(key, []).append((PHASES.index(phase), phase, place))
        self._image = lru_cache(maxsize=_KEPT)(self._read_image)
        self._lesion = lru_cache(maxsize=_KEPT)(self._read_lesion)

    def series(self, case: Case) -> list[ReviewScan]:
        """The scans of a kidney, from non-contrast to delayed."""
        found = sorted(self._of.get(case.key, []))
        names = [phase.replace("_", "-") for _, phase, _ in found]
        return [
            ReviewScan(place, name if names.count(name) == 1 else f"{name} {names[: number + 1].count(name)}")
            for number, (name, (_, _, place)) in enumerate(zip(names, found, strict=True))
        ]

    def slices(self, plane: str) -> int:
        """How many slices a plane has."""
        return self.volumes.contract.grid[PLANES[plane]]

    def size(self, plane: str) -> tuple[int, int]:
        """Width and height of a plane's pictures in pixels, in proportion to mm."""
        height, width = (mm for axis, mm in enumerate(self.volumes.contract.extent_mm) if axis != PLANES[plane])
        return round(width * PIXELS_A_MM), round(height * PIXELS_A_MM)

    def outlined(self, case: Case) -> bool:
        """Whether a lesion is known, to be outlined."""
        lesion = self._cached_lesion(case)
        return lesion is not None and bool(lesion.any())

    def first_slice(self, case: Case, plane: str) -> int:
        """The slice with most of the lesion, the middle one where none is known; counted as `picture` does."""
        lesion, axis = self._cached_lesion(case), PLANES[plane]
        if lesion is None or not lesion.any():
            return self.slices(plane) // 2
        areas = lesion.sum(axis=tuple(other for other in range(3) if other != axis))
        return self.slices(plane) - 1 - int(areas.argmax())

    def picture(self, case: Case, number: int, plane: str, level: int, outline: bool, window: str = "soft") -> bytes:
        """A slice as PNG, in the radiological convention.

        Args:
            case: The kidney.
            number: Which of its `series`.
            plane: axial, coronal or sagittal.
            level: Slice, counted from the head, from the front, or from the patient's right.
            outline: Whether the lesion is outlined.
            window: One of `WINDOWS_HU`.

        Raises:
            DataError: if there is no such slice or window, or its shard is damaged.
        """
        series = self.series(case)
        there = plane in PLANES and 0 <= number < len(series) and 0 <= level < self.slices(plane)
        if not there or window not in WINDOWS_HU:
            raise DataError(
                f"Series {number}, {plane} slice {level}, window {window} was asked for; this kidney has none such."
            )
        with self._lock:  # a volume set is read by one thread at a time
            image = self._image(series[number].position)
        lesion = self._cached_lesion(case) if outline else None
        cut = (slice(None),) * PLANES[plane] + (self.slices(plane) - 1 - level,)
        return _png(image[cut], None if lesion is None else lesion[cut], self.size(plane), WINDOWS_HU[window])

    def _read_image(self, position: int) -> np.ndarray:
        return self.volumes.read(position)

    def _cached_lesion(self, case: Case) -> np.ndarray | None:
        with self._lock:
            return self._lesion(case.key)

    def _read_lesion(self, key: tuple[str, str, str]) -> np.ndarray | None:
        labels = self.volumes.masks(key[0]).get(key[1:])
        return None if labels is None else np.isin(labels, LESION)


def _png(view: np.ndarray, lesion: np.ndarray | None, size: tuple[int, int], window_hu: tuple[float, float]) -> bytes:
    """A slice [rows, columns] in HU, turned for display.

    The front, or the head, is above and the patient's right on the left; of a sagittal slice the front is on the left.
    """
    low, high = window_hu
    zoom = size[1] / view.shape[0], size[0] / view.shape[1]
    fine = ndimage.zoom(view[::-1, ::-1].astype(np.float32), zoom, order=1, grid_mode=True, mode="nearest")
    grey = np.round(255 * np.clip((fine - low) / (high - low), 0, 1)).astype(np.uint8)
    shown = np.repeat(grey[..., None], 3, axis=-1)
    if lesion is not None and lesion.any():
        turned = lesion[::-1, ::-1].astype(np.float32)
        inside = ndimage.zoom(turned, zoom, order=1, grid_mode=True, mode="nearest") > 0.5
        shown[inside & ~ndimage.binary_erosion(inside, iterations=2)] = _OUTLINE
    buffer = io.BytesIO()
    imsave(buffer, shown, format="png")
    return buffer.getvalue()
