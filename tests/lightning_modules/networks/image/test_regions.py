"""The region encoder: what its tokens may and may not depend on, and its statistics against NumPy and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from datamodules.anatomy.targets import ANATOMY as TARGET_ANATOMY
from lightning_modules.core.base import SuiteModule
from lightning_modules.core.errors import ModelError
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.losses.anatomy import anatomy_loss, lesion_dice
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder
from lightning_modules.networks.image.hounsfield import QUANTILES, STATISTICS, region_geometry, region_statistics
from lightning_modules.networks.image.regions import ANATOMY, REGIONS, RegionEncoder, pooled_regions

RANGE = (-200.0, 300.0)
TINY = EncoderConfig(network="regions", region_width=4, token_dim=6, region_dim=8)


def _encoder(config: EncoderConfig = TINY, seed: int = 0) -> RegionEncoder:
    torch.manual_seed(seed)
    encoder = build_encoder(config)
    assert isinstance(encoder, RegionEncoder)
    return encoder.eval()


def _statistic(result: torch.Tensor, name: str) -> np.ndarray:
    return result[..., STATISTICS.index(name)].double().numpy()


def _measured(hu: np.ndarray, inside: np.ndarray) -> torch.Tensor:
    image, weight = torch.from_numpy(hu).float()[None, None], torch.from_numpy(inside).float()[None, None]
    return region_statistics(image, weight, RANGE)[0, 0]


def test_both_sides_of_the_batch_mean_the_same_classes() -> None:
    assert ANATOMY == TARGET_ANATOMY


@pytest.mark.parametrize("spread", [2.0, 40.0])
def test_statistics_are_those_of_scipy(spread: float) -> None:
    rng = np.random.default_rng(3)
    hu = np.clip(60 + spread * rng.gamma(2.0, 1.0, size=(14, 15, 16)), *RANGE)
    inside = rng.random(hu.shape) < 0.6
    values, count = hu[inside], int(inside.sum())
    result, there = _measured(hu, inside), count / (count + 20)
    sd = np.sqrt(values.var() + 25.0)
    third, fourth = ((values - values.mean()) ** 3).mean(), ((values - values.mean()) ** 4).mean()
    assert _statistic(result, "mean") == pytest.approx(values.mean() / 100 * there, rel=1e-4)
    assert _statistic(result, "sd") == pytest.approx(sd / 50 * there, rel=1e-3)
    assert _statistic(result, "skewness") == pytest.approx(third / sd**3 * there, abs=5e-3)
    assert _statistic(result, "kurtosis") == pytest.approx((fourth / sd**4 - 3) * there, abs=2e-2)
    if spread > 5:  # the floor of the standard deviation no longer shows
        assert _statistic(result, "skewness") == pytest.approx(stats.skew(values) * there, abs=3e-2)
    for share in QUANTILES:
        found = _statistic(result, f"p{round(100 * share)}") * 100 / there
        assert found == pytest.approx(np.quantile(values, share), abs=5.1)  # a bin has 5 HU
    assert _statistic(result, "volume") == pytest.approx(np.log1p(count) / 8, rel=1e-5)


def test_what_lies_outside_a_region_does_not_count() -> None:
    rng = np.random.default_rng(0)
    hu = rng.normal(40, 20, size=(10, 10, 10))
    inside = np.zeros(hu.shape, dtype=bool)
    inside[2:7, 2:7, 2:7] = True
    changed = np.where(ndimage.binary_dilation(inside), hu, 250.0)  # the gradient looks one voxel further
    torch.testing.assert_close(_measured(hu, inside), _measured(changed, inside))


def test_an_empty_region_is_zero_and_a_small_one_fades() -> None:
    hu = np.full((8, 8, 8), 100.0)
    assert float(_measured(hu, np.zeros(hu.shape)).abs().max()) < 1e-6
    one = np.zeros(hu.shape)
    one[4, 4, 4] = 1.0
    assert 0 < float(_statistic(_measured(hu, one), "mean")) < 0.1


def test_a_region_knows_where_it_lies() -> None:
    box = torch.zeros(1, 1, 21, 31, 41)
    box[0, 0, 0:11, 15, 30:41] = 1.0
    centre, spread = region_geometry(box)[0, 0].split(3)
    there = 121 / 141
    assert centre.tolist() == pytest.approx([-0.5 * there, 0.0, 0.75 * there], abs=1e-5)
    along_d = np.linspace(-1, 0, 11).std()
    assert spread.tolist() == pytest.approx([2 * along_d * there, 0.0, 2 * along_d / 2 * there], abs=1e-3)
    assert float(region_geometry(torch.zeros_like(box)).abs().max()) == 0


def test_regions_divide_the_lesion_and_surround_it() -> None:
    anatomy = torch.zeros(1, 5, 16, 16, 16)
    anatomy[:, 0] = 1
    ball = torch.from_numpy(np.linalg.norm(np.mgrid[:16, :16, :16] - 7.5, axis=0) < 4)
    anatomy[0, 0][ball], anatomy[0, 2][ball] = 0, 1
    shares = dict(zip(REGIONS, pooled_regions(anatomy)[0], strict=True))
    torch.testing.assert_close(shares["core"] + shares["inner rim"], shares["lesion"])
    cube = np.ones((3, 3, 3), dtype=bool)
    assert np.array_equal(shares["core"].bool().numpy(), ndimage.binary_erosion(ball, cube))
    once = ndimage.binary_dilation(ball, cube)
    assert np.array_equal(shares["outer rim"].bool().numpy(), ndimage.binary_dilation(once, cube) & ~once)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    encoder, images = _encoder(), torch.rand(3, 1, 12, 16, 20)
    together, alone = encoder.see(images), encoder.see(images[1:2])
    for whole, single in zip(together, alone, strict=True):
        torch.testing.assert_close(whole[1:2], single, atol=1e-4, rtol=1e-4)


def test_a_given_mask_and_an_equal_predicted_one_give_the_same_tokens() -> None:
    encoder, images = _encoder(), torch.rand(2, 1, 12, 16, 20)
    predicted = encoder.see(images)
    given = encoder.see(images, predicted.anatomy.softmax(dim=1))
    torch.testing.assert_close(predicted.tokens, given.tokens)
    torch.testing.assert_close(predicted.statistics, given.statistics)
    other = encoder.see(images, predicted.anatomy.softmax(dim=1).flip(1))
    assert not torch.allclose(predicted.tokens, other.tokens)


@pytest.mark.parametrize(
    ("size", "patch"), [((12, 16, 20), (2, 2, 2)), ((11, 15, 19), (2, 2, 2)), ((8, 33, 32), (1, 4, 4))]
)
def test_anatomy_is_painted_on_every_voxel(size: tuple[int, int, int], patch: tuple[int, int, int]) -> None:
    encoder = _encoder(EncoderConfig(network="regions", region_width=4, patch=patch, token_dim=6, region_dim=8))
    seen = encoder.see(torch.rand(1, 1, *size))
    assert seen.anatomy.shape == (1, len(ANATOMY), *size)
    assert seen.feature.shape == (1, encoder.feature_dim)


def test_layer_groups_hold_every_parameter_once() -> None:
    encoder = _encoder()
    named = sorted(id(parameter) for part in encoder.layer_groups() for parameter in part)
    assert named == sorted(id(parameter) for parameter in encoder.parameters())


def test_another_window_than_the_datas_is_refused() -> None:
    class Module(SuiteModule):
        monitor, mode = "loss", "min"

        def __init__(self, window: list[float]) -> None:
            super().__init__({"window_hu": window}, OptimizerConfig())
            self.encoder = _encoder()

    Module([-200.0, 300.0]).setup("fit")
    with pytest.raises(ModelError, match=r"window \(-200.0, 300.0\).*\(-1000.0, 1000.0\)"):
        Module([-1000.0, 1000.0]).setup("fit")


def _shares(codes: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(codes, len(ANATOMY)).permute(0, 4, 1, 2, 3).float()


def test_a_kidney_without_a_mask_adds_nothing_to_the_loss() -> None:
    logits = torch.randn(3, 5, 4, 4, 4, requires_grad=True)
    share = _shares(torch.randint(0, 5, (3, 4, 4, 4)))
    known, sinus = torch.tensor([True, False, True]), torch.tensor([True, True, True])
    loss = anatomy_loss(logits, share, known, sinus)
    loss.backward()
    assert float(logits.grad[1].abs().max()) == 0 < float(logits.grad[0].abs().max())
    torch.testing.assert_close(loss, anatomy_loss(logits[[0, 2]], share[[0, 2]], known[[0, 2]], sinus[[0, 2]]))
    none = anatomy_loss(logits, share, torch.zeros(3, dtype=torch.bool), sinus)
    assert torch.isfinite(none)
    assert none.item() == pytest.approx(0.0, abs=1e-6)


def test_where_the_sinus_is_not_drawn_painting_it_outside_costs_nothing() -> None:
    codes = torch.zeros(1, 4, 4, 4, dtype=torch.int64)
    codes[:, :2] = 1
    share, known = _shares(codes), torch.tensor([True])
    outside = torch.full((1, 5, 4, 4, 4), -20.0)
    outside[:, 1, :2], outside[:, 0, 2:] = 20.0, 20.0
    as_sinus = outside.clone()
    as_sinus[:, 0, 2:], as_sinus[:, 4, 2:] = -20.0, 20.0
    unknown, drawn = torch.tensor([False]), torch.tensor([True])
    torch.testing.assert_close(
        anatomy_loss(as_sinus, share, known, unknown), anatomy_loss(outside, share, known, unknown)
    )
    assert anatomy_loss(as_sinus, share, known, drawn) > 1 + anatomy_loss(outside, share, known, drawn)


def test_lesion_dice_counts_tumour_and_cyst_together() -> None:
    codes = torch.zeros(2, 4, 4, 4, dtype=torch.int64)
    codes[0, 0], codes[0, 1] = 2, 3
    painted = torch.zeros_like(codes)
    painted[0, 0], painted[0, 2] = 3, 2
    value, lesion = lesion_dice(10 * _shares(painted), _shares(codes))
    assert lesion.tolist() == [True, False]
    assert float(value[0]) == pytest.approx(0.5)
