"""Phases of a visit as channels of one image: what is read, what is absent, and that channels are varied alike."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.augmentation import AugmentationConfig, VolumeAugmentation
from datamodules.cohort.columns import PHASES
from datamodules.errors import DataError
from datamodules.loading.joined_phases import SEVERAL, VolumeReader, joined_views
from datamodules.tasks import RoiDataModule
from datamodules.volumes.contract import ABSENT, ABSENT_HU
from datamodules.volumes.shards import VolumeSet
from tests.datamodules.test_tasks import MALIGNANCY
from tests.tiny import CONTRACT

CROP = AugmentationConfig(crop=(8, 10, 10))


@pytest.fixture(scope="module")
def volumes(tiny_root: Path) -> VolumeSet:
    return VolumeSet.find(tiny_root)


def test_a_visit_is_read_whole_by_any_of_its_volumes(volumes: VolumeSet) -> None:
    read = pickle.loads(pickle.dumps(VolumeReader(volumes, joined=True)))
    keys = ["patient_id", "study_id", "side"]
    for _, visit in list(volumes.index.groupby(keys))[:6]:
        images = [read(int(position)) for position in visit["position"]]
        assert all(torch.equal(images[0], image) for image in images)
        assert {read.first(int(position)) for position in visit["position"]} == {int(visit["position"].min())}
        for channel, phase in enumerate(PHASES):
            found = visit[visit["phase"] == phase]["position"]
            expected = volumes.read(int(found.iloc[0])) if len(found) else np.full(CONTRACT.grid, ABSENT_HU)
            assert np.array_equal(images[0][channel].numpy(), expected)
    alone = VolumeReader(volumes, joined=False)
    assert alone(3).shape == (1, *CONTRACT.grid)
    assert alone.first(3) == 3


def test_channels_are_varied_alike_and_an_absent_one_stays_absent() -> None:
    stored = torch.randint(-150, 250, (3, len(PHASES), *CONTRACT.grid), dtype=torch.int16)
    stored[0, 2], stored[1, 0] = ABSENT_HU, ABSENT_HU
    augmentation, seeds = VolumeAugmentation(CONTRACT, CROP), torch.tensor([5, 6, 7])
    varied, plain = augmentation(stored, seeds), augmentation.evaluate(stored)
    assert varied.shape == plain.shape == (3, len(PHASES), *CROP.crop)
    for result in (varied, plain):
        assert bool((result[0, 2] == ABSENT).all())
        assert bool((result[1, 0] == ABSENT).all())
        assert float(result[2].min()) >= 0
    for channel in (0, 3):
        torch.testing.assert_close(
            varied[2:, channel : channel + 1], augmentation(stored[2:, channel, None], seeds[2:])
        )
        torch.testing.assert_close(plain[2:, channel : channel + 1], augmentation.evaluate(stored[2:, channel, None]))
    with pytest.raises(DataError, match="3 volumes and 2 seeds"):
        augmentation(stored[:, :1], seeds[:2])


def test_an_epoch_shows_every_visit_once_with_all_its_phases(tiny_root: Path) -> None:
    module = RoiDataModule(
        tiny_root, label=MALIGNANCY, contract=CONTRACT, augmentation=CROP, batch_size=4, phases="joined"
    )
    for part in ("train", "test"):
        loader = module.loader(part, shuffled=part == "train")
        batches = [module.on_after_batch_transfer(batch, 0) for batch in loader]
        kidneys = torch.cat([batch["kidney"] for batch in batches]).tolist()
        assert sorted(set(kidneys)) == sorted(module.visits(part).kidney)
        assert part == "train" or len(kidneys) == len(set(kidneys))
        image = torch.cat([batch["image"] for batch in batches])
        assert image.shape[1:] == (len(PHASES), *CROP.crop)
        there = (image >= 0).flatten(2).all(dim=2)
        assert there.tolist() == [[False, True, True, False]] * len(image)  # the tiny cohort has two phases
        assert all((batch["phase"] == SEVERAL).all() for batch in batches)


def test_a_scan_of_unknown_phase_is_shown_as_each_that_it_may_be() -> None:
    first, second = (np.full(CONTRACT.grid, value, dtype=np.int16) for value in (10, 20))
    known = joined_views([first, second, second], [None, "venous", "venous"])
    assert known.shape == (1, len(PHASES), *CONTRACT.grid)
    assert [int(channel[0, 0, 0]) for channel in known[0]] == [ABSENT_HU, ABSENT_HU, 20, ABSENT_HU]
    unknown = joined_views([first], [None])
    assert len(unknown) == len(PHASES)
    assert all(int(unknown[number, number].min()) == 10 for number in range(len(PHASES)))
    assert all(int((unknown[number] == 10).flatten(1).all(dim=1).sum()) == 1 for number in range(len(PHASES)))
