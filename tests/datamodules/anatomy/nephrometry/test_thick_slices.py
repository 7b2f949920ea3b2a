"""A kidney of so few voxels that none lies where its sinus usually is."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.anatomy.nephrometry.organ import measure_organ
from datamodules.anatomy.tissues import Tissue


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("shape", [(3, 4, 4), (2, 5, 5), (12, 4, 4)])
def test_it_still_has_a_sinus_and_polar_lines(side: str, shape: tuple[int, int, int]) -> None:
    labels = np.zeros(tuple(size + 4 for size in shape), dtype=np.uint8)
    labels[2:-2, 2:-2, 2:-2] = Tissue.KIDNEY
    organ = measure_organ(labels, (8.0, 8.0, 8.0), side)  # type: ignore[arg-type]
    low, high = organ.polar_mm
    assert organ.sinus.any()
    assert low < high
    assert organ.sinus_source == "approximated"
