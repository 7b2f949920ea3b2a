"""The preprocessing contract, and the region it describes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torchio as tio

from datamodules.errors import DataError
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.crop import crop_roi, roi_affine


def test_it_survives_json_and_its_hash_names_every_field_but_the_region() -> None:
    contract = PreprocessingContract()
    again = PreprocessingContract.from_dict(json.loads(json.dumps(contract.to_dict())))
    assert again == contract
    assert again.hash == contract.hash
    assert PreprocessingContract(region="lesion").hash == contract.hash
    others = [
        PreprocessingContract(grid=(32, 140, 140)),
        PreprocessingContract(extent_mm=(160, 140, 141)),
        PreprocessingContract(pad_hu=-1024),
        PreprocessingContract(window_hu=(-200, 301)),
        PreprocessingContract(orientation="SPL"),
    ]
    assert len({contract.hash, *(other.hash for other in others)}) == 6
    assert contract.differences(others[0]) == ["grid: [40, 140, 140] against [32, 140, 140]"]
    assert contract.spacing_mm == (4.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "content",
    [{"grid": (0, 1, 1)}, {"extent_mm": (1, 1)}, {"window_hu": (300, -200)}, {"version": 99}],
)
def test_a_bad_contract_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(DataError, match="Preprocessing contract"):
        PreprocessingContract(**content)  # type: ignore[arg-type]


def test_unknown_and_missing_fields_are_named() -> None:
    content = PreprocessingContract().to_dict()
    content["gird"] = content.pop("grid")
    with pytest.raises(DataError, match=r"unknown fields \['gird'\], missing fields \['grid'\]"):
        PreprocessingContract.from_dict(content)


CONTRACT = PreprocessingContract(extent_mm=(40, 30, 30), grid=(20, 15, 15))


def _marked(orientation: str) -> tio.ScalarImage:
    """Water with a bright cube 10 mm right, anterior and superior of the origin, stored in some orientation."""
    data = torch.zeros(1, 60, 60, 60)
    affine = np.eye(4)
    affine[:3, 3] = -30.0
    data[0, 38:43, 38:43, 38:43] = 1000.0  # RAS +8..+12 mm
    return tio.ToOrientation(orientation)(tio.ScalarImage(tensor=data, affine=affine))


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "LPI", "SPL", "ASR"])
def test_axes_are_inferior_superior_posterior_anterior_left_right(orientation: str) -> None:
    roi = crop_roi(_marked(orientation), (0.0, 0.0, 0.0), CONTRACT)
    assert roi.shape == (20, 15, 15)
    assert roi.dtype == np.int16
    center = np.array(np.nonzero(roi > 500)).mean(axis=1)
    expected = (np.array([10.0, 10.0, 10.0]) + np.array([20.0, 15.0, 15.0])) / 2.0 - 0.5
    np.testing.assert_allclose(center, expected, atol=0.5)


def test_outside_the_scan_stands_the_padding() -> None:
    image = _marked("RAS")
    roi = crop_roi(image, (25.0, 0.0, 0.0), CONTRACT)  # reaches 10 mm beyond the right edge
    assert (roi[:, :, -4:] == CONTRACT.pad_hu).all()
    assert (roi[:, :, :9] > -100).all()
    mask = tio.LabelMap(tensor=torch.ones(1, 60, 60, 60, dtype=torch.uint8), affine=image.affine)
    labels = crop_roi(mask, (25.0, 0.0, 0.0), CONTRACT)
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) == {0, 1}
    with pytest.raises(DataError, match="outside the scan"):
        crop_roi(image, (500.0, 0.0, 0.0), CONTRACT)


def test_labels_stay_labels_and_values_are_preserved() -> None:
    data = torch.randint(0, 5, (1, 60, 60, 60), dtype=torch.uint8)
    affine = roi_affine((0.0, 0.0, 0.0), PreprocessingContract(extent_mm=(60, 60, 60), grid=(60, 60, 60)))
    whole = PreprocessingContract(extent_mm=(60, 60, 60), grid=(60, 60, 60))
    labels = crop_roi(tio.LabelMap(tensor=data, affine=affine), (0.0, 0.0, 0.0), whole)
    np.testing.assert_array_equal(labels, data[0].permute(2, 1, 0).numpy())
    scan = crop_roi(tio.ScalarImage(tensor=data.float() * 10, affine=affine), (0.0, 0.0, 0.0), whole)
    np.testing.assert_array_equal(scan, data[0].permute(2, 1, 0).numpy().astype(np.int16) * 10)
