"""A sample depends on its seed alone, stays in range, and is the centre crop when nothing varies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from datamodules.augmentation import AugmentationConfig, AugmentationParameters, VolumeAugmentation, sample_parameters
from datamodules.errors import DataError
from datamodules.volumes.contract import PreprocessingContract

CONTRACT = PreprocessingContract(grid=(20, 35, 35))  # 8 x 4 x 4 mm
CONFIG = AugmentationConfig(crop=(16, 30, 32), flip_probability=0.5, scale_through_plane=0.1)
MODES = ("separable", "exact")
PLAIN = AugmentationConfig(crop=CONFIG.crop, intensity_scale=0, intensity_shift=0, gamma_probability=0)


def noise(batch: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1200, 1500, (batch, 1, *CONTRACT.grid), generator=generator, dtype=torch.int16)


def moved(batch: int, **values: Any) -> AugmentationParameters:
    """The identity with some values replaced, the same for all samples."""
    identity = AugmentationParameters.identity(batch)
    changes = {name: torch.as_tensor(value).expand(getattr(identity, name).shape) for name, value in values.items()}
    return replace(identity, **changes)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [torch.int16, torch.float32])
def test_identity_is_the_windowed_centre_crop(mode: Any, kind: torch.dtype) -> None:
    augmentation = VolumeAugmentation(CONTRACT, CONFIG)
    volumes = noise(2)
    crop = volumes[:, :, 2:18, 2:32, 1:33].float()  # odd margins round down
    expected = ((crop + 200) / 500).clamp(0, 1)
    evaluated = augmentation.evaluate(volumes.to(kind))
    torch.testing.assert_close(evaluated, expected)
    identity = AugmentationParameters.identity(2)
    assert torch.equal(augmentation.transform(volumes.to(kind), identity, mode), evaluated)


@pytest.mark.parametrize("mode", MODES)
def test_a_sample_depends_on_its_seed_alone(mode: Any) -> None:
    augmentation = VolumeAugmentation(CONTRACT, replace(CONFIG, mode=mode))
    volumes, seeds = noise(5), torch.tensor([3, 1 << 61, 0, 77, 1])
    together = augmentation(volumes, seeds)
    assert torch.equal(together, augmentation(volumes, seeds))
    order = torch.tensor([4, 2, 0, 3, 1])
    assert torch.equal(augmentation(volumes[order], seeds[order]), together[order])
    assert torch.equal(augmentation(volumes[3:4], seeds[3:4]), together[3:4])
    torch.manual_seed(1)
    assert torch.equal(augmentation(volumes, seeds), together)
    assert not torch.equal(augmentation(volumes, seeds + 1), together)


@pytest.mark.parametrize("mode", MODES)
def test_all_samples_at_once_equal_one_by_one(mode: Any) -> None:
    """On a GPU the batch is resampled at once, on a CPU volume by volume."""
    augmentation = VolumeAugmentation(CONTRACT, CONFIG)
    volumes, parameters = noise(3), augmentation.draw(torch.arange(3))
    one_by_one = augmentation.transform(volumes, parameters, mode)
    at_once = augmentation.transform(volumes, parameters, mode, at_once=3)
    torch.testing.assert_close(at_once, one_by_one)


def test_drawn_values_fill_their_ranges() -> None:
    parameters = sample_parameters(torch.arange(20_000), CONFIG, CONTRACT)
    room_mm = torch.tensor([2 * 8 + 0, 2.5 * 4 + 10, 1.5 * 4 + 10])
    for values, low, high in (
        (parameters.rotation_degrees[:, [0, 2]], -10, 10),
        (parameters.scale, 0.9, 1.1),
        (parameters.intensity_scale, 0.9, 1.1),
        (parameters.intensity_shift, -0.1, 0.1),
        (parameters.gamma, 0.5, 2.0),
    ):
        assert values.min() >= low
        assert values.max() <= high
        assert values.min() < low + 0.01 * (high - low)
        assert values.max() > high - 0.01 * (high - low)
    assert (parameters.translation_mm.abs().amax(0) <= room_mm).all()
    assert (parameters.translation_mm.abs().amax(0) > 0.9 * room_mm).all()
    assert torch.equal(parameters.scale[:, 1], parameters.scale[:, 2])
    varied = parameters.gamma != 1
    assert varied.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert (parameters.gamma[varied] < 1).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert parameters.flip.float().mean().item() == pytest.approx(0.5, abs=0.02)
    independent = torch.corrcoef(torch.cat([parameters.rotation_degrees[:, [0, 2]], parameters.translation_mm], 1).T)
    assert (independent - torch.eye(5)).abs().max() < 0.03


@pytest.mark.parametrize("mode", MODES)
def test_flip_mirrors_left_and_right(mode: Any) -> None:
    augmentation = VolumeAugmentation(CONTRACT, CONFIG)
    volumes = noise(2)
    flipped = augmentation.transform(volumes, moved(2, flip=True), mode)
    assert torch.equal(flipped, augmentation.evaluate(volumes).flip(-1))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_translation_moves_along_its_axis_and_pads_with_air(mode: Any, axis: int) -> None:
    augmentation = VolumeAugmentation(CONTRACT, CONFIG)
    volumes = torch.full((1, 1, *CONTRACT.grid), 1000, dtype=torch.int16)
    shift = torch.zeros(3)
    shift[axis] = 5 * CONTRACT.spacing_mm[axis]
    image = augmentation.transform(volumes, moved(1, translation_mm=shift), mode)[0, 0].movedim(axis, 0)
    start = (CONTRACT.grid[axis] - CONFIG.crop[axis]) // 2
    assert (image[: 5 - start] == 0).all()
    assert (image[5 - start :] == 1).all()


@pytest.mark.parametrize("mode", MODES)
def test_padding_has_the_value_of_the_contract(mode: Any) -> None:
    contract = replace(CONTRACT, pad_hu=50)
    far = moved(1, translation_mm=torch.tensor([0.0, 0.0, 1000.0]))
    image = VolumeAugmentation(contract, PLAIN).transform(noise(1), far, mode)
    torch.testing.assert_close(image, torch.full_like(image, 0.5))


@pytest.mark.parametrize(
    ("mode", "axis"), [("separable", 0), ("separable", 2), ("exact", 0), ("exact", 1), ("exact", 2)]
)
def test_rotation_keeps_shapes_in_mm(mode: Any, axis: int) -> None:
    """A bar that is turned by 30 degrees points 30 degrees away in mm, though the voxels are not cubes."""
    contract = PreprocessingContract(grid=(41, 71, 71))
    augmentation = VolumeAugmentation(contract, AugmentationConfig(crop=contract.grid, rotation_degrees=(30, 0, 30)))
    d, h, w = torch.meshgrid(
        *((torch.arange(n) - (n - 1) / 2) * mm for n, mm in zip(contract.grid, contract.spacing_mm, strict=True)),
        indexing="ij",
    )
    position = torch.stack([d, h, w])
    along, across = (axis + 1) % 3, (axis + 2) % 3
    spread = torch.full((3,), 12.0)
    spread[along] = 30.0
    blob = (500 * torch.exp(-(position / spread[:, None, None, None]).square().sum(0)) - 200).round().to(torch.int16)
    degrees = torch.zeros(3)
    degrees[axis] = 30.0
    image = augmentation.transform(blob[None, None], moved(1, rotation_degrees=degrees), mode)[0, 0]
    weight = image / image.sum()
    moment = torch.einsum("idhw,jdhw,dhw->ij", position, position, weight)
    angle = torch.rad2deg(0.5 * torch.atan2(2 * moment[along, across], moment[along, along] - moment[across, across]))
    # Right-handed about R, A, S; the array axes D, H, W run against x, y, z, so the sense turns round.
    assert angle.item() == pytest.approx(-30, abs=0.5)
    assert moment[axis, along].abs() < 1
    assert moment.diagonal().sum().item() == pytest.approx((900 + 2 * 144) / 2, rel=0.03)


@pytest.mark.parametrize("mode", MODES)
def test_extreme_values_stay_in_range(mode: Any) -> None:
    volumes = noise(4)
    volumes[0], volumes[1] = -32768, 32767
    volumes[2, :, ::2] = -32768
    volumes[2, :, 1::2] = 32767
    image = VolumeAugmentation(CONTRACT, replace(CONFIG, mode=mode))(volumes, torch.arange(4))
    assert image.dtype == torch.float32
    assert image.isfinite().all()
    assert image.min() >= 0
    assert image.max() <= 1
    assert image[0].unique().numel() == 1  # lower than air is still black, with or without padding


def test_intensity_follows_the_formula() -> None:
    augmentation = VolumeAugmentation(CONTRACT, CONFIG)
    volumes = noise(1)
    values = {"intensity_scale": 1.1, "intensity_shift": -0.05, "gamma": 0.6}
    expected = (augmentation.evaluate(volumes) * 1.1 - 0.05).clamp(0, 1) ** 0.6
    torch.testing.assert_close(augmentation.transform(volumes, moved(1, **values)), expected, atol=2e-6, rtol=0)


def test_output_takes_part_in_training_but_keeps_no_graph() -> None:
    augmentation = VolumeAugmentation(CONTRACT, CONFIG, dtype=torch.float16)
    volumes = noise(2)
    before = volumes.clone()
    image = augmentation(volumes, torch.arange(2))
    assert image.dtype == torch.float16
    assert not image.requires_grad
    assert not image.is_inference()
    assert torch.equal(volumes, before)
    weight = torch.ones((), requires_grad=True)
    (weight * image.float()).sum().backward()
    assert weight.grad is not None
    assert list(augmentation.parameters()) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rotation_degrees": (10, 0, 90)}, "rotation_degrees"),
        ({"rotation_degrees": (10, 10)}, "three numbers"),
        ({"crop": (32, 0, 128)}, "crop"),
        ({"translation_mm": (0, -1, 0)}, "translation_mm"),
        ({"scale_in_plane": 0.7}, "scale_in_plane"),
        ({"flip_probability": 1.5}, "flip_probability"),
        ({"gamma": (0, 2)}, "gamma"),
        ({"gamma": (2, 0.5)}, "gamma"),
        ({"intensity_scale": float("nan")}, "intensity_scale"),
        ({"rotation_degrees": (10, 10, 10)}, "choose mode exact"),
        ({"mode": "fast"}, "separable or exact"),
    ],
)
def test_bad_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        AugmentationConfig(**values)


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="larger"):
        VolumeAugmentation(CONTRACT, AugmentationConfig(crop=(16, 36, 30)))
    augmentation = VolumeAugmentation(CONTRACT, CONFIG)
    with pytest.raises(DataError, match="20, 35, 35"):
        augmentation.evaluate(torch.zeros(1, 1, 20, 35, 34))
    with pytest.raises(DataError, match="choose mode exact"):
        augmentation.transform(noise(1), replace(AugmentationParameters.identity(1), rolled=True))
    with pytest.raises(DataError, match="one for each"):
        augmentation(noise(2), torch.arange(3))
