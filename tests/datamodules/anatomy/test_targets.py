"""Masks as anatomy classes, and how they follow the augmentation of their images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.anatomy.targets import ANATOMY, NO_MASK, OTHER_OR_SINUS, AnatomyLabels, anatomy_codes
from datamodules.anatomy.tissues import Tissue
from datamodules.augmentation import AugmentationConfig, VolumeAugmentation
from datamodules.errors import DataError
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.shards import VolumeSet, shard_name

CONTRACT = PreprocessingContract(grid=(16, 20, 24), extent_mm=(64.0, 60.0, 72.0), pad_hu=-200)
CONFIG = AugmentationConfig(
    crop=(12, 16, 20), flip_probability=0.5, intensity_scale=0, intensity_shift=0, gamma_probability=0
)


def test_every_tissue_has_its_class() -> None:
    labels = np.array([[[tissue.value for tissue in Tissue]]], dtype=np.uint8)
    found = dict(zip(Tissue, (ANATOMY[code] for code in anatomy_codes(labels).ravel()), strict=True))
    assert found[Tissue.KIDNEY] == "parenchyma"
    assert {found[t] for t in (Tissue.TUMOR, Tissue.NECROSIS, Tissue.MACROSCOPIC_FAT, Tissue.CALCIFICATION)} == {
        "tumour"
    }
    assert found[Tissue.CYST] == "cyst"
    assert {found[t] for t in (Tissue.RENAL_SINUS, Tissue.COLLECTING_SYSTEM)} == {"sinus"}
    assert {found[t] for t in (Tissue.UNLABELED, Tissue.FAT, Tissue.LIVER, Tissue.AORTA)} == {"other"}


def test_a_damaged_file_of_masks_is_named_and_a_kidney_without_a_mask_has_none(tiny_copy: Path) -> None:
    volumes = VolumeSet.find(tiny_copy)
    keys = [tuple(map(str, key)) for key in volumes.index[["patient_id", "study_id", "side"]].iloc[:1].to_numpy()]
    labels = AnatomyLabels(volumes, [*keys, (keys[0][0], "another study", "left")])  # type: ignore[list-item]
    assert labels(0, 0).max() < NO_MASK
    assert labels(1, 0).min() == NO_MASK
    path = volumes.folder / "masks" / f"{shard_name(keys[0][0])}.npz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=path.name):
        AnatomyLabels(VolumeSet.find(tiny_copy), keys)(0, 0)  # type: ignore[arg-type]


def test_without_a_drawn_sinus_the_rest_may_be_sinus() -> None:
    labels = np.array([[[Tissue.KIDNEY, Tissue.TUMOR, Tissue.UNLABELED]]], dtype=np.uint8)
    assert anatomy_codes(labels).ravel().tolist() == [1, 2, OTHER_OR_SINUS]


@pytest.mark.parametrize("mode", ["separable", "exact"])
def test_masks_follow_their_images(mode: str) -> None:
    """An image that is its own mask: what the augmentation makes of it is the share of the mask."""
    rng = np.random.default_rng(1)
    blob = torch.from_numpy(rng.random((3, 1, 4, 5, 6)) < 0.4).float()
    codes = torch.nn.functional.interpolate(blob, size=CONTRACT.grid, mode="nearest").to(torch.uint8) * 2
    image = torch.where(codes == 2, 300, -200).to(torch.int16)
    config = AugmentationConfig(**{**vars(CONFIG), "mode": mode})
    augmentation, seeds = VolumeAugmentation(CONTRACT, config), torch.tensor([5, 6, 7])
    shares = augmentation.follow(codes, len(ANATOMY), seeds)
    torch.testing.assert_close(shares[:, 2:3], augmentation(image, seeds), atol=1e-4, rtol=0)
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(3, *config.crop), atol=1e-4, rtol=0)
    plain = augmentation.follow(codes, len(ANATOMY))
    torch.testing.assert_close(plain[:, 2:3], augmentation.evaluate(image))


def test_masks_turn_with_the_networks_axes() -> None:
    turned = PreprocessingContract(grid=CONTRACT.grid, extent_mm=CONTRACT.extent_mm, axes="SPL")
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, 5, (1, 1, *CONTRACT.grid)).astype(np.uint8))
    stored = VolumeAugmentation(CONTRACT, CONFIG).follow(codes, len(ANATOMY))
    found = VolumeAugmentation(turned, CONFIG).follow(codes, len(ANATOMY))
    torch.testing.assert_close(found, stored.flip([3, 4]))
