"""The region encoder: what its tokens may and may not depend on, and its statistics against NumPy and SciPy."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from datamodules.anatomy.targets import ANATOMY as TARGET_ANATOMY
from datamodules.cohort.columns import PHASES as PHASE_NAMES
from datamodules.volumes.contract import ABSENT
from lightning_modules.core.errors import ModelError
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.core.suite_module import SuiteModule
from lightning_modules.losses.anatomy import anatomy_loss, lesion_dice
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder
from lightning_modules.networks.image.hounsfield import (
    QUANTILES,
    STATISTICS,
    phase_summary,
    region_geometry,
    region_statistics,
)
from lightning_modules.networks.image.lesion_shape import SHAPE, lesion_shape, widened
from lightning_modules.networks.image.regions import ANATOMY, PHASES, REGIONS, RegionEncoder, pooled_regions
from lightning_modules.networks.image.standardized import Standardized

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
    return region_statistics(image, weight, RANGE)[0, 0, 0]


def test_both_sides_of_the_batch_mean_the_same_classes() -> None:
    assert ANATOMY == TARGET_ANATOMY
    assert len(PHASE_NAMES) == PHASES
    assert PHASE_NAMES[0] == "non_contrast"


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


def test_statistics_do_not_depend_on_what_else_is_measured() -> None:
    rng = np.random.default_rng(0)
    hu = torch.from_numpy(rng.normal(40, 30, size=(3, 2, 9, 10, 11))).float()
    weight = torch.from_numpy(rng.random((3, 4, 9, 10, 11)) * (rng.random((3, 1, 9, 10, 11)) < 0.2)).float()
    weight[2] = 0
    together = region_statistics(hu, weight, RANGE)
    for sample in range(3):
        for phase in range(2):
            for region in range(4):
                alone = region_statistics(
                    hu[sample : sample + 1, phase : phase + 1], weight[sample : sample + 1, region : region + 1], RANGE
                )
                torch.testing.assert_close(together[sample, phase, region], alone[0, 0, 0], atol=1e-4, rtol=1e-4)


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


def _visits(count: int, absent: tuple[tuple[int, int], ...] = (), size: tuple[int, ...] = (12, 16, 20)) -> torch.Tensor:
    images = torch.rand(count, PHASES, *size)
    for sample, phase in absent:
        images[sample, phase] = ABSENT
    return images


@pytest.mark.parametrize("training", [False, True])
def test_a_sample_does_not_depend_on_its_batch_nor_on_phases_that_others_lack(training: bool) -> None:
    encoder = _encoder(replace(TINY, phase_dropout=0.0)).train(training)
    encoder.trunk[2].p = 0.0
    images = _visits(3, absent=((0, 0), (0, 3), (2, 1)))
    before = copy.deepcopy(encoder.state_dict())
    together = encoder.see(images)
    for sample in range(3):
        encoder.load_state_dict(before)
        alone = encoder.eval().see(images[sample : sample + 1])
        for name in ("tokens", "statistics", "geometry", "shape", "anatomy", *(() if training else ("feature",))):
            torch.testing.assert_close(
                getattr(together, name)[sample : sample + 1], getattr(alone, name), atol=1e-4, rtol=1e-4
            )


def test_an_absent_phase_is_seen_as_absent_and_not_as_an_image() -> None:
    encoder, images = _encoder(), _visits(1, absent=((0, 3),))
    seen = encoder.see(images)
    assert float(seen.statistics[0, 3].abs().max()) == 0
    filled = images.clone()
    filled[0, 3] = 0.0
    assert not torch.allclose(encoder.see(filled).feature, seen.feature)
    with pytest.raises(ModelError, match="without any contrast phase"):
        encoder(torch.full_like(images, ABSENT))
    with pytest.raises(ModelError, match=r"data\.init_args\.phases to joined"):
        encoder(images[:, :1])


def test_training_takes_phases_away_and_evaluation_does_not() -> None:
    encoder, images = _encoder(replace(TINY, phase_dropout=0.5)), _visits(40)
    encoder.train()
    torch.manual_seed(0)
    there = encoder._phases(images)[1]
    assert 0.4 < float(there.float().mean()) < 0.75
    assert bool(there.any(dim=1).all())
    assert bool(encoder.eval()._phases(images)[1].all())


def test_phases_are_summed_up_over_those_there_are() -> None:
    statistics = torch.randn(3, PHASES, 2, len(STATISTICS))
    available = torch.tensor([[True, True, False, True], [True, False, False, False], [False, False, True, False]])
    own, volume = statistics[..., :-1], statistics[..., -1]
    result = phase_summary(statistics, available)
    mean, highest, rise, largest, there = result.split([24, 24, 24, 2, PHASES], dim=1)
    torch.testing.assert_close(mean[0], own[0, [0, 1, 3]].mean(dim=0).flatten())
    torch.testing.assert_close(highest[0], own[0, [1, 3]].amax(dim=0).flatten())
    torch.testing.assert_close(rise[0], (own[0, [1, 3]].mean(dim=0) - own[0, 0]).flatten())
    torch.testing.assert_close(mean[1], own[1, 0].flatten())
    torch.testing.assert_close(highest[2], own[2, 2].flatten())
    assert float(rise[1:].abs().max()) == float(highest[1].abs().max()) == 0
    torch.testing.assert_close(largest[2], volume[2, 2].clamp_min(0))
    assert torch.equal(there, available.float())


def test_a_widened_share_is_that_of_max_pooling() -> None:
    share = torch.randn(2, 3, 5, 6, 7)
    for steps in (1, 2):
        pooled = torch.nn.functional.max_pool3d(share, 2 * steps + 1, stride=1, padding=steps)
        assert torch.equal(widened(share, steps), pooled)


def _shape_of(lesion: torch.Tensor, sinus: torch.Tensor, parenchyma: torch.Tensor) -> dict[str, float]:
    rim = (widened(widened(lesion)) - widened(lesion)).clamp_min(0)
    return dict(zip(SHAPE, lesion_shape(lesion, rim, parenchyma, sinus)[0].tolist(), strict=True))


def test_a_lesion_is_as_large_and_lies_as_drawn() -> None:
    place = np.mgrid[:40, :40, :40]
    ball = torch.from_numpy(np.linalg.norm(place - np.array([26, 20, 20])[:, None, None, None], axis=0) < 8)
    lesion = ball.float()[None, None]
    sinus = torch.zeros_like(lesion)
    sinus[..., 8:18, 18:22, 18:22] = 1.0
    parenchyma = torch.zeros_like(lesion)
    parenchyma[..., 5:30, 10:30, 10:30] = 1.0
    parenchyma = parenchyma * (1 - lesion) * (1 - sinus)
    found = _shape_of(lesion, sinus, parenchyma)
    volume, there = float(lesion.sum()), float(lesion.sum()) / (float(lesion.sum()) + 20)
    assert found["diameter"] == pytest.approx(volume ** (1 / 3) / 10 * there, rel=1e-4)
    assert found["axial diameter"] == pytest.approx(float(lesion.sum(dim=(3, 4)).max()) ** 0.5 / 10 * there, rel=1e-4)
    assert found["extent d"] == pytest.approx(1.5 * there, rel=1e-4)  # 19 to 33
    assert found["above the sinus"] == pytest.approx(there, rel=1e-4)  # the sinus ends at 17, the ball begins at 19
    assert found["beside the sinus"] == found["below the sinus"] == pytest.approx(0, abs=1e-5)
    nearer = _shape_of(lesion, torch.roll(sinus, 1, dims=2), parenchyma)
    farther = _shape_of(lesion, torch.roll(sinus, -4, dims=2), parenchyma)
    assert nearer["steps to sinus"] < found["steps to sinus"] < farther["steps to sinus"]
    assert found["rim in parenchyma"] + found["rim in sinus"] + found["rim outside"] == pytest.approx(there, rel=1e-4)
    turned = _shape_of(lesion.flip(2), sinus.flip(2), parenchyma.flip(2))
    assert turned["below the sinus"] == pytest.approx(found["above the sinus"], rel=1e-4)
    assert turned["offset d"] == pytest.approx(-found["offset d"], rel=1e-3)
    assert max(map(abs, _shape_of(torch.zeros_like(lesion), sinus, parenchyma).values())) == 0


def test_measurements_are_standardised_by_all_that_training_saw() -> None:
    torch.manual_seed(0)
    values = 40 + 5 * torch.randn(600, 3)
    scaler = Standardized(3)
    for part in values.split(4):
        scaler(part)
    expected = (values[:5] - values.mean(dim=0)) / values.std(dim=0, unbiased=False)
    torch.testing.assert_close(scaler.eval()(values[:5]), expected, atol=1e-3, rtol=1e-3)
    seen = scaler.seen.clone()
    scaler(values[:5])
    assert torch.equal(scaler.seen, seen)


def test_a_given_mask_and_an_equal_predicted_one_give_the_same_tokens() -> None:
    encoder, images = _encoder(), _visits(2)
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
    seen = encoder.see(_visits(1, size=size))
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


def test_a_small_lesion_weighs_as_much_as_a_large_one() -> None:
    codes = torch.zeros(2, 8, 8, 8, dtype=torch.int64)
    codes[0, :6], codes[1, :1, :2, :2] = 2, 2
    share, known = _shares(codes), torch.tensor([True, True])
    painted = 20 * share
    missed = []
    for sample in range(2):
        logits = painted.clone()
        logits[sample] = 20 * _shares(torch.zeros(1, 8, 8, 8, dtype=torch.int64))[0]
        missed.append(logits)
    large, small = (_overlap_loss(logits, share, known) for logits in missed)
    assert small > 0.3 * large  # a Dice of the batch alone has .02


def _overlap_loss(logits: torch.Tensor, share: torch.Tensor, known: torch.Tensor) -> float:
    return float(anatomy_loss(logits, share, known, known, weights=(0.0,) * len(ANATOMY)))


def test_lesion_dice_counts_tumour_and_cyst_together() -> None:
    codes = torch.zeros(2, 4, 4, 4, dtype=torch.int64)
    codes[0, 0], codes[0, 1] = 2, 3
    painted = torch.zeros_like(codes)
    painted[0, 0], painted[0, 2] = 3, 2
    value, lesion = lesion_dice(10 * _shares(painted), _shares(codes))
    assert lesion.tolist() == [True, False]
    assert float(value[0]) == pytest.approx(0.5)
