"""Whose each reading of the region encoder is, against the functions that make the readings."""

from __future__ import annotations

import torch

from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder
from lightning_modules.networks.image.hounsfield import GEOMETRY, STATISTICS, phase_summary
from lightning_modules.networks.image.lesion_shape import SHAPE
from lightning_modules.networks.image.region_readings import owners
from lightning_modules.networks.image.regions import PHASES, REGIONS, RegionEncoder

TINY = EncoderConfig(network="regions", region_width=4, token_dim=6, region_dim=8)


def test_readings_belong_to_the_region_that_they_are_of() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(TINY)
    assert isinstance(encoder, RegionEncoder)
    seen = encoder.eval().see(torch.rand(1, PHASES, 12, 16, 16))
    owner = owners(encoder)
    assert owner.shape == seen.readings.shape[1:]
    # Statistics that hold the number of their region come out of the very functions in the order of the readings; the
    # rise above a phase without contrast, which is the same, is 0.
    number = torch.arange(1.0, len(REGIONS) + 1)
    statistics = number[None, None, :, None].expand(1, PHASES, -1, len(STATISTICS)).clone()
    statistics[:, 0] = 0
    marked = torch.cat(
        [
            torch.ones(1, len(SHAPE)),
            number[None, :, None].expand(1, -1, len(GEOMETRY)).flatten(1),
            phase_summary(statistics, torch.tensor([[False, True, True, True]])),
            statistics[:, 1:].flatten(1),
        ],
        dim=1,
    )[0]
    skipped = len(REGIONS) * len(STATISTICS)  # of the phase without contrast, by phase
    summary = len(SHAPE) + len(REGIONS) * (len(GEOMETRY) + 3 * len(STATISTICS) - 2) + PHASES
    own = torch.cat([owner[:summary], owner[summary + skipped : summary + PHASES * skipped]])
    known = (own < len(REGIONS)) & (marked != 0)
    assert known.sum() > 0.7 * len(own)
    assert torch.equal(own[known] + 1, marked[known].long())


def test_tokens_are_their_regions_and_the_context_is_nobodys() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(TINY)
    assert isinstance(encoder, RegionEncoder)
    tail = owners(encoder)[-(len(REGIONS) + 2) * TINY.token_dim :].unflatten(0, (-1, TINY.token_dim))
    assert tail[:, 0].tolist() == [*range(len(REGIONS)), len(REGIONS), len(REGIONS)]
    assert (tail == tail[:, :1]).all()
