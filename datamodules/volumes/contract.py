"""The preprocessing contract: how a scan became the array that a network sees."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from datamodules.errors import DataError

if TYPE_CHECKING:  # a contract is read by commands that need no torch
    import torch

CONTRACT_VERSION = 1
Region = Literal["kidney", "lesion", "abdomen"]
STORED_AXES = "SAR"
"""Patient directions of a stored array: D from inferior to superior, H from posterior to anterior, W from left to
right."""
_PLANES = {"L": "R", "P": "A", "I": "S"}
ABSENT_HU = -(2**15)
"""Stored value of every voxel of a contrast phase that a visit lacks, where phases are read together."""
ABSENT = -1.0
"""What the network is given in its place; what is there lies in [0, 1]."""
_DEFAULT_WINDOW_HU, _DEFAULT_SCALED = (-200.0, 300.0), (0.0, 1.0)
_ADDED = ("axes", "scaled", "antialias", "clip_first")
"""Fields that came later: written only where they differ from their default, so that hashes of older sets stay."""


@dataclass(frozen=True)
class PreprocessingContract:
    """Everything that must be equal between two volume sets before one encoder may read both.

    One part of it is in the stored arrays, see `stored`; the rest is done to them when they are read, so that sets are
    written once for all encoders that differ in that alone.

    Arrays are stored D x H x W, where D runs from inferior to superior, H from posterior to anterior and W from
    left to right (patient axes RAS, reversed); lengths follow the same order. The default is the kidney region of
    RenalCLIP (Tao et al., Nature Communications 2026): a box of 160 x 140 x 140 mm, padded with air.

    Args:
        extent_mm: Size of the box in mm, D x H x W.
        grid: Number of voxels, D x H x W; the spacing is `extent_mm / grid`.
        orientation: Patient axes of the array before it is reversed to D x H x W.
        pad_hu: Value outside the scan, in HU.
        window_hu: Lower and upper end of the window that is mapped to [0, 1] on the device.
        region: What the box is centred on. Recorded, and not part of the hash: an encoder trained on kidneys may
            read lesion-centred boxes of the same geometry.
        version: Version of this format.
        axes: Patient directions in which the axes of the network's input run, for example `SPL`: its first axis from
            inferior to superior, its second from anterior to posterior, its third from right to left. Arrays are stored
            as `SAR` and turned on their way to the network.
        scaled: What the ends of the window become in the network's input.
        antialias: Whether a scan finer than the grid is low-pass filtered before it is resampled. Several published
            encoders were trained without.
        clip_first: Whether HU are clipped to the window before they are resampled, and not after.

    Raises:
        DataError: if a length, the grid or the window is not positive, or `axes` names no three directions.
    """

    extent_mm: tuple[float, float, float] = (160.0, 140.0, 140.0)
    grid: tuple[int, int, int] = (40, 140, 140)
    orientation: str = "RAS"
    pad_hu: int = -1000
    window_hu: tuple[float, float] = _DEFAULT_WINDOW_HU
    region: Region = "kidney"
    version: int = CONTRACT_VERSION
    axes: str = STORED_AXES
    scaled: tuple[float, float] = _DEFAULT_SCALED
    antialias: bool = True
    clip_first: bool = False

    def __post_init__(self) -> None:
        # YAML and JSON give lists; the hash and equality want tuples of one type.
        object.__setattr__(self, "extent_mm", tuple(float(value) for value in self.extent_mm))
        object.__setattr__(self, "grid", tuple(int(value) for value in self.grid))
        object.__setattr__(self, "window_hu", tuple(float(value) for value in self.window_hu))
        object.__setattr__(self, "scaled", tuple(float(value) for value in self.scaled))
        if len(self.extent_mm) != 3 or len(self.grid) != 3 or min(self.extent_mm) <= 0 or min(self.grid) < 1:
            raise DataError(
                f"Preprocessing contract: extent_mm={self.extent_mm} and grid={self.grid} were found; "
                "expected three positive numbers each, in the order D x H x W."
            )
        if len(self.window_hu) != 2 or self.window_hu[0] >= self.window_hu[1]:
            raise DataError(f"Preprocessing contract: window_hu={self.window_hu}; expected (lower, upper) in HU.")
        if len(self.scaled) != 2 or self.scaled[0] >= self.scaled[1]:
            raise DataError(f"Preprocessing contract: scaled={self.scaled}; expected (lower, upper).")
        if sorted(_PLANES.get(letter, letter) for letter in self.axes) != ["A", "R", "S"]:
            raise DataError(
                f"Preprocessing contract: axes={self.axes!r} was found; expected three of the letters R or L, A or P, "
                "S or I, for example SPL."
            )
        if self.version != CONTRACT_VERSION:
            raise DataError(
                f"Preprocessing contract: version {self.version} was found and this code reads version "
                f"{CONTRACT_VERSION}; run `make cohort` or `make import` again."
            )

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres in mm, D x H x W."""
        depth, height, width = (extent / count for extent, count in zip(self.extent_mm, self.grid, strict=True))
        return depth, height, width

    @property
    def turn(self) -> tuple[tuple[int, int, int], tuple[int, ...]]:
        """How a stored array becomes the network's: the order of its axes, and the axes that are then reversed."""
        planes = [_PLANES.get(letter, letter) for letter in self.axes]
        first, second, third = (STORED_AXES.index(letter) for letter in planes)
        reversed_axes = tuple(axis for axis, letter in enumerate(self.axes) if letter in _PLANES)
        return (first, second, third), reversed_axes

    @property
    def stored(self) -> PreprocessingContract:
        """What of it is in the stored arrays, with the default of all that is done to them when they are read.

        Window, scale and axes are presented to the network from the same arrays, unless the window clipped them first.
        """
        window_hu = self.window_hu if self.clip_first else _DEFAULT_WINDOW_HU
        return replace(self, window_hu=window_hu, axes=STORED_AXES, scaled=_DEFAULT_SCALED)

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits that name the contract; the region is left out."""
        content = {key: value for key, value in self.to_dict().items() if key != "region"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """The contract as plain data, as it is stored beside shards and inside checkpoints."""
        default = {field.name: field.default for field in fields(self)}
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if key not in _ADDED or value != default[key]
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> PreprocessingContract:
        """Read what `to_dict` wrote.

        Raises:
            DataError: if a field is unknown, missing or out of range.
        """
        known = {field.name for field in fields(cls)}
        unknown, missing = sorted(set(content) - known), sorted(known - set(content) - set(_ADDED))
        if unknown or missing:
            raise DataError(
                f"Preprocessing contract: unknown fields {unknown}, missing fields {missing}; "
                f"expected exactly {sorted(known)}."
            )
        try:
            return cls(**content)
        except DataError:
            raise
        except (TypeError, ValueError) as error:
            raise DataError(f"Preprocessing contract: a field holds a value of another type ({error}).") from error

    def differences(self, other: PreprocessingContract) -> list[str]:
        """The fields in which two contracts differ, each as 'name: mine, theirs'; the region is left out."""
        mine, theirs = asdict(self), asdict(other)
        return [
            f"{name}: {_plain(mine[name])} against {_plain(theirs[name])}"
            for name in mine
            if name != "region" and mine[name] != theirs[name]
        ]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def channels_there(image: torch.Tensor) -> torch.Tensor:
    """Which channels of joined phases are not absent, int64 [K]: row * P + phase, of int16 [B, P, D, H, W] in HU."""
    return (image[:, :, 0, 0, 0] != ABSENT_HU).flatten().nonzero()[:, 0]
