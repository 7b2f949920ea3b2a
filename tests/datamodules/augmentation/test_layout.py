"""What a network is handed: axes in its order, the window's ends at its values, and hashes that stay."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import torch
import torchio as tio

from datamodules.augmentation import AugmentationConfig, VolumeAugmentation
from datamodules.errors import DataError
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.crop import crop_roi

GRID = (4, 6, 5)


def contract_of(**values: object) -> PreprocessingContract:
    return PreprocessingContract(extent_mm=(12, 6, 5), grid=GRID, window_hu=(-1000, 1000), **values)  # type: ignore[arg-type]


def test_older_contracts_keep_their_hash_and_are_read_as_before() -> None:
    contract = PreprocessingContract(grid=(40, 48, 48))
    assert contract.hash == "7be86d8cb0f4"  # the folder name of every demo cohort that was ever written
    assert "axes" not in contract.to_dict()
    turned = PreprocessingContract(grid=(40, 48, 48), axes="SPL", scaled=(-1, 1), antialias=False, clip_first=True)
    assert turned.hash != contract.hash
    assert PreprocessingContract.from_dict(json.loads(json.dumps(turned.to_dict()))) == turned
    assert contract.differences(turned)[0] == "axes: SAR against SPL"


@pytest.mark.parametrize("axes", ["SAR", "RAS", "SPL", "SRA", "LPI", "SLP"])
def test_axes_are_turned_as_nibabel_turns_them(axes: str) -> None:
    stored = torch.arange(4 * 6 * 5).reshape(1, 1, *GRID).to(torch.int16)
    augmentation = VolumeAugmentation(contract_of(axes=axes), AugmentationConfig(crop=GRID))
    found = augmentation.evaluate(stored)[0, 0]
    ours = nibabel.orientations.axcodes2ornt(tuple("SAR"))
    theirs = nibabel.orientations.axcodes2ornt(tuple(axes))
    turn = nibabel.orientations.ornt_transform(ours, theirs)
    expected = nibabel.orientations.apply_orientation(stored[0, 0].numpy(), turn)
    np.testing.assert_allclose(found.numpy(), (expected + 1000) / 2000, atol=1e-6)
    varied = augmentation(stored, torch.tensor([1]))
    assert varied.shape[2:] == expected.shape


def test_the_windows_ends_become_what_the_network_was_trained_on() -> None:
    stored = torch.tensor([-2000, -1000, 0, 500, 1000, 3000], dtype=torch.int16).reshape(1, 1, 1, 6, 1)
    contract = PreprocessingContract((1, 6, 1), (1, 6, 1), window_hu=(-1000, 1000), scaled=(-1, 1))
    found = VolumeAugmentation(contract, AugmentationConfig(crop=(1, 6, 1))).evaluate(stored).flatten()
    np.testing.assert_allclose(found.numpy(), [-1, -1, 0, 0.5, 1, 1], atol=1e-6)


@pytest.mark.parametrize("content", [{"axes": "SAA"}, {"axes": "XYZ"}, {"axes": "SP"}, {"scaled": (1, 0)}])
def test_impossible_layouts_are_refused(content: dict[str, object]) -> None:
    with pytest.raises(DataError, match="Preprocessing contract"):
        PreprocessingContract(**content)  # type: ignore[arg-type]


def test_clipping_first_and_filtering_change_the_volume_as_they_say() -> None:
    data = torch.zeros(1, 40, 40, 40)
    data[0, 20] = 3000  # a sheet of metal, one voxel of .5 mm
    scan = tio.ScalarImage(tensor=data, affine=np.diag([0.5, 0.5, 0.5, 1.0]))
    center = (10.0, 10.0, 10.0)

    def sheet(**values: object) -> np.ndarray:
        contract = PreprocessingContract((4, 4, 4), (2, 2, 2), pad_hu=-1000, window_hu=(-1000, 1000), **values)  # type: ignore[arg-type]
        return crop_roi(scan, center, contract)[0, 0]

    plain = sheet(antialias=False)
    assert np.array_equal(sheet(antialias=False, clip_first=True), (plain / 3).round())
    assert not np.array_equal(sheet(), plain)
