"""Maps of networks whose answer is known to rest on one place, and what making them must not change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from datamodules.volumes.contract import ABSENT
from experiments.attribution.kidney_views import KidneyViews, features
from experiments.attribution.map_methods import (
    GRADIENT,
    METHODS,
    OCCLUSION,
    REGIONS,
    available,
    contributions,
    maps_of,
)
from experiments.attribution.network_questions import NetworkQuestion
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder
from lightning_modules.networks.image.regions import REGIONS as NAMES
from lightning_modules.networks.image.regions import RegionEncoder

SPACING = (4.0, 4.0, 4.0)
PLACE = (slice(4, 10), slice(12, 18), slice(2, 8))


class BoxMean(nn.Module):
    """Its feature is the mean of one box of the image."""

    feature_dim = 1

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[(slice(None), slice(None), *PLACE)].mean(dim=(2, 3, 4)).sum(dim=1, keepdim=True)


SIGN = NetworkQuestion("box", "Box", ("dark", "bright"), lambda feature: (feature - 0.6) * torch.tensor([-5.0, 5.0]))


def views(channels: int = 1, absent: int | None = None) -> KidneyViews:
    generator = torch.Generator().manual_seed(0)
    image = 0.2 + 0.1 * torch.rand(1, channels, 16, 20, 20, generator=generator)
    image[(slice(None), slice(None), *PLACE)] = 0.9
    if absent is not None:
        image[:, absent] = ABSENT
    return KidneyViews.of(image, SPACING)


@pytest.mark.parametrize("method", [GRADIENT, OCCLUSION])
def test_the_map_of_a_network_that_sees_a_box_names_the_box(method: str) -> None:
    (found,) = maps_of(BoxMean(), views(), [(SIGN, 1)], SPACING, method)
    inside = torch.zeros(16, 20, 20, dtype=torch.bool)
    inside[PLACE] = True
    assert inside[found == found.max()].any()
    assert found[inside].mean() > 5 * found[~inside].abs().mean()


def test_occlusion_is_the_mean_fall_of_the_blocks_that_cover_a_voxel() -> None:
    kidney = views()
    (found,) = maps_of(
        BoxMean(), kidney, [(SIGN, 1)], (30.0, 30.0, 30.0), OCCLUSION
    )  # blocks of one voxel, all of them
    whole = SIGN.evidence(features(BoxMean(), kidney.image[None]), 1)
    for voxel in ((5, 13, 3), (0, 0, 0), (9, 17, 7)):
        kept = torch.ones(1, 16, 20, 20)
        kept[(0, *voxel)] = 0
        alone = SIGN.evidence(features(BoxMean(), kidney.shown(kept)), 1)
        assert float(found[voxel]) == pytest.approx(float(whole - alone), abs=1e-4)


@pytest.mark.parametrize("spacing", [(20.0, 17.5, 17.5), (4.0, 2.9, 2.9), (100.0, 1.0, 9.0)])
def test_blocks_leave_no_voxel_out(spacing: tuple[float, float, float]) -> None:
    (found,) = maps_of(BoxMean(), views(), [(SIGN, 1)], spacing, OCCLUSION)
    assert torch.isfinite(found).all()


def test_an_absent_phase_stays_absent_whatever_is_taken_away() -> None:
    kidney = views(channels=4, absent=2)
    shown = kidney.shown(torch.rand(3, 16, 20, 20))
    assert (shown[:, :, 2] == ABSENT).all()
    assert (shown[:, :, [0, 1, 3]] >= 0).all()


def test_what_is_taken_away_within_the_organ_gives_way_to_parenchyma_of_the_same_phase() -> None:
    image = torch.full((1, 2, 8, 8, 8), 0.1)
    image[:, 0, 2:6, 2:6, 2:6], image[:, 1, 2:6, 2:6, 2:6] = 0.6, 0.8
    image[:, :, 4:6, 4:6, 4:6] = 0.3  # the lesion
    anatomy = torch.zeros(5, 8, 8, 8)
    anatomy[1, 2:6, 2:6, 2:6] = 1
    anatomy[1, 4:6, 4:6, 4:6], anatomy[2, 4:6, 4:6, 4:6] = 0, 1
    fill = KidneyViews.of(image, SPACING, anatomy).fill
    assert (fill[0, 0, 2:6, 2:6, 2:6] == 0.6).all()
    assert (fill[0, 1, 2:6, 2:6, 2:6] == 0.8).all()


def region_encoder() -> RegionEncoder:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(network="regions", region_width=4, token_dim=6, region_dim=8))
    assert isinstance(encoder, RegionEncoder)
    return encoder.eval()


def test_contributions_of_regions_add_up_to_the_difference_from_the_mean_kidney() -> None:
    encoder = region_encoder()
    weight = torch.randn(2, encoder.feature_dim, generator=torch.Generator().manual_seed(1))
    question = NetworkQuestion("any", "Any", ("no", "yes"), lambda feature: feature @ weight.T)
    image = views(channels=4, absent=0).image
    readings = encoder.see(image).readings
    given = contributions(encoder, readings, question, 1)
    assert given.shape == (1, len(NAMES) + 1)
    with torch.no_grad():
        here = question.evidence(encoder.described(readings)[None], 1)
        mean = question.evidence(encoder.described(encoder.mean_readings()[None])[None], 1)
    assert float(given.sum()) == pytest.approx(float(here - mean), rel=0.02, abs=0.02)


@pytest.mark.slow
def test_a_map_changes_neither_the_network_nor_its_mode() -> None:
    encoder = region_encoder()
    assert available(encoder) == METHODS
    assert REGIONS not in available(BoxMean())
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    weight = torch.randn(2, encoder.feature_dim, generator=torch.Generator().manual_seed(1))
    question = NetworkQuestion("any", "Any", ("no", "yes"), lambda feature: feature @ weight.T)
    kidney = views(channels=4, absent=0)
    first = [maps_of(encoder, kidney, [(question, 1)], (12.0, 12.0, 12.0), method)[0] for method in METHODS]
    assert not any(module.training for module in encoder.modules())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    again = [maps_of(encoder, kidney, [(question, 1)], (12.0, 12.0, 12.0), method)[0] for method in METHODS]
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert all(one.shape == (16, 20, 20) and torch.isfinite(one).all() for one in first)
