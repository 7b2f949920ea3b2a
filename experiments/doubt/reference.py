"""The training scans as far as the gate needs them, as two files beside the exported encoder that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.doubt.gaussians import Gaussians
from experiments.doubt.readings import CHECKS, Trained
from experiments.doubt.region_measures import INTENSITIES, MEASURES
from lightning_modules.core.errors import ModelError
from lightning_modules.export.image import weights_sha256
from lightning_modules.export.layout import Layout

LIKENESS, LIKENESS_CONFIG = "likeness.safetensors", "likeness.json"
_FIELDS = ("encoder_sha256", "measures", "checks", "facts", "kidneys", "whose")
LAYOUT = Layout("Encoder folder", LIKENESS_CONFIG, LIKENESS, _FIELDS, "make pretrain-image")
_PARTS = ("intensities", "noise", "features")


@dataclass(frozen=True)
class ScanFacts:
    """What rules ask of the training scans.

    Args:
        intensity: acquired or rendered.
        phantom: Whether the patients were generated.
        slice_mm: Thickest slices, by the 99th percentile; None where not known.
        outside_share: Largest share of a region that lay outside the scan, by the 99th percentile.
        dense_ml: Largest volume of very dense bodies in a region.
    """

    intensity: str
    phantom: bool
    slice_mm: float | None
    outside_share: float
    dense_ml: float

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> ScanFacts:
        """From what a file holds.

        Raises:
            TypeError, ValueError, KeyError: if a value is absent, of another type or not finite.
        """
        numbers = {name: float(content[name]) for name in ("outside_share", "dense_ml")}
        thick = None if content["slice_mm"] is None else float(content["slice_mm"])
        if not np.isfinite([*numbers.values(), thick or 0.0]).all():
            raise ValueError("a number is not finite")
        if not isinstance(content["intensity"], str) or not isinstance(content["phantom"], bool):
            raise ValueError("intensity or phantom")
        return cls(content["intensity"], content["phantom"], thick, **numbers)


@dataclass(frozen=True)
class Reference:
    """The training scans, and thresholds by validation patients.

    Args:
        trained: What was measured of them.
        middle: float64 [4], median score of the validation kidneys by check.
        threshold: float64 [4], the score above which a kidney is outside.
        facts: What rules ask.
        kidneys: Numbers of training and of validation kidneys.
        whose: Whose they are, in words.
    """

    trained: Trained
    middle: np.ndarray
    threshold: np.ndarray
    facts: ScanFacts
    kidneys: tuple[int, int]
    whose: str

    def scaled(self, scores: np.ndarray) -> np.ndarray:
        """Scores [..., 4] on one scale: 0 is the median of the validation kidneys, and above 1 is outside."""
        scaled: np.ndarray = (scores - self.middle) / np.maximum(self.threshold - self.middle, 1e-6)
        return scaled

    def near_a_phase(self, measures: np.ndarray) -> np.ndarray:
        """Which views, by their `MEASURES` [V, M], are like the training scans of some phase, bool [V].

        Of the others the nearest phase says nothing.
        """
        squares = self.trained.intensities.squares(measures[:, : len(INTENSITIES)]).min(axis=1)
        near: np.ndarray = np.sqrt(squares) <= self.threshold[CHECKS.index("intensities")]
        return near

    def arrays(self) -> dict[str, np.ndarray]:
        """Its arrays by name."""
        found = {"middle": self.middle, "threshold": self.threshold}
        for name in _PARTS:
            found |= getattr(self.trained, name).tensors(name)
        return found

    def write(self, folder: Path) -> None:
        """Write it beside the encoder of a folder, whose hash it holds.

        Args:
            folder: Folder of an exported encoder, or file of published weights, beside which it is put.
        """
        content = {
            "encoder_sha256": weights_sha256(folder),
            "measures": list(MEASURES),
            "checks": list(CHECKS),
            "facts": asdict(self.facts),
            "kidneys": list(self.kidneys),
            "whose": self.whose,
        }
        for name in (LIKENESS, LIKENESS_CONFIG):
            (folder / name).unlink(missing_ok=True)
        LAYOUT.write(
            folder, content, {name: torch.from_numpy(np.asarray(value)) for name, value in self.arrays().items()}
        )


def read_reference(folder: Path) -> Reference | None:
    """The reference beside an exported encoder.

    Returns:
        The reference; None where there is none, or it is that of other weights or of other measurements, so that it is
        to be computed anew.

    Raises:
        ModelError: if a file is damaged.
    """
    if not (folder / LIKENESS).is_file():
        return None
    try:
        content, _, state, _ = LAYOUT.read(folder)
    except ModelError as error:
        raise ModelError(f"{error} Or delete {LIKENESS_CONFIG} and {LIKENESS} there.") from error
    same = content["encoder_sha256"] == weights_sha256(folder)
    if not same or content["measures"] != list(MEASURES) or content["checks"] != list(CHECKS):
        return None
    arrays = {name: value.numpy() for name, value in state.items()}
    try:
        # No comparison with NaN is true: a threshold of NaN would let everything pass.
        wrong = [name for name, value in arrays.items() if not np.isfinite(value).all()]
        if wrong:
            raise ValueError(f"{wrong[0]} is not finite")
        if any(arrays[name].shape != (len(CHECKS),) for name in ("middle", "threshold")):
            raise ValueError(f"expected {len(CHECKS)} thresholds")
        trained = Trained(*(Gaussians.of_tensors(arrays, name) for name in _PARTS))
        facts, kidneys = ScanFacts.of(content["facts"]), (int(content["kidneys"][0]), int(content["kidneys"][1]))
        return Reference(trained, arrays["middle"], arrays["threshold"], facts, kidneys, str(content["whose"]))
    except (LookupError, TypeError, ValueError) as error:
        raise ModelError(
            f"{LIKENESS_CONFIG} or {LIKENESS} in {folder.name} is damaged ({error}); delete both files."
        ) from error
