"""What a region looks like without a network, on regions of which the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from datamodules.volumes.contract import PreprocessingContract
from experiments.doubt.region_measures import (
    INTENSITIES,
    MEASURES,
    dense_ml,
    in_words,
    outside,
    reaches,
    region_measures,
)

CONTRACT = PreprocessingContract(grid=(40, 48, 48))


def region(noise_hu: float = 10.0, mean_hu: float = 60.0, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(mean_hu, noise_hu, CONTRACT.grid)
    return drawn.round().astype(np.int16)


def measure(image: np.ndarray, name: str) -> float:
    return float(region_measures(image, CONTRACT)[MEASURES.index(name)])


def test_planes_beyond_the_scan_are_outside_and_air_within_it_is_not() -> None:
    image = region()
    image[5:8, 10:14, 10:14] = CONTRACT.pad_hu  # gas of the bowel, as padding is
    assert not outside(image, CONTRACT).any()
    image[30:], image[:, :, :3] = CONTRACT.pad_hu, CONTRACT.pad_hu
    beyond = outside(image, CONTRACT)
    assert beyond[30:].all()
    assert beyond[:, :, :3].all()
    assert beyond.mean() == pytest.approx(1 - 30 / 40 * 45 / 48)
    assert not beyond[:30, :, 3:].any()


def test_padding_changes_no_measurement_of_what_is_within_the_scan() -> None:
    image = region()
    cut = image.copy()
    cut[34:] = CONTRACT.pad_hu
    np.testing.assert_allclose(region_measures(cut, CONTRACT), region_measures(image, CONTRACT), atol=0.3)


def test_an_edge_reaches_the_kidney_by_its_mask_or_by_the_middle() -> None:
    beyond = np.zeros(CONTRACT.grid, dtype=bool)
    beyond[36:] = True
    labels = np.zeros(CONTRACT.grid, dtype=np.uint8)
    labels[10:35, 18:30, 18:30] = 1
    assert not reaches(beyond, labels, CONTRACT)
    assert not reaches(beyond, None, CONTRACT)
    labels[35] = labels[34]
    assert reaches(beyond, labels, CONTRACT)  # the voxel beside the last one of the mask
    beyond[26:] = True
    assert reaches(beyond, None, CONTRACT)


def test_noise_and_smoothing_along_one_axis_are_seen_where_they_are() -> None:
    image = region(noise_hu=12.0)
    assert measure(region(noise_hu=24.0), "roughness along H") > measure(image, "roughness along H") + 0.5
    smooth = image.astype(float)
    smooth[1:-1] = (smooth[:-2] + smooth[1:-1] + smooth[2:]) / 3
    smooth = smooth.round().astype(np.int16)
    assert measure(smooth, "difference along D against the plane") < -0.4
    assert abs(measure(image, "difference along D against the plane")) < 0.05


def test_a_shift_of_all_hounsfield_units_is_that_of_every_percentile() -> None:
    image = region()
    found = region_measures((image + 1024).astype(np.int16), CONTRACT) - region_measures(image, CONTRACT)
    places = [number for number, name in enumerate(INTENSITIES) if "percentile" in name]
    np.testing.assert_allclose(found[places], 1024, atol=1e-6)


def test_metal_is_counted_in_millilitres_and_numbers_carry_their_unit() -> None:
    image = region()
    image[:2, :3, :4] = 3000
    assert dense_ml(image, CONTRACT) == pytest.approx(24 * np.prod(CONTRACT.spacing_mm) / 1000)
    assert in_words("50th percentile of HU in the middle", 1084.4) == "1084 HU"
    assert in_words("share of air", np.sqrt(0.125)) == "12.5%"
    assert in_words("difference of neighbours along D", np.log(8.0 + 0.5)) == "8.0 HU"
    assert in_words("roughness along D against the plane", np.log(2.0)) == "2.00"
