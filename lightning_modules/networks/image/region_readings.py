"""Which region of a kidney each reading of the region encoder belongs to, for maps of what an answer rests on."""

from __future__ import annotations

import torch

from lightning_modules.networks.image.hounsfield import GEOMETRY, STATISTICS
from lightning_modules.networks.image.lesion_shape import SHAPE
from lightning_modules.networks.image.regions import PHASES, REGIONS, RegionEncoder


def owners(encoder: RegionEncoder) -> torch.Tensor:
    """The region of every reading, int64 [K]: its place in `REGIONS`, or their number where it belongs to none.

    Size and place are the lesion's; which phases there are, and the context of the whole box, are nobody's.
    """
    regions, nobody = range(len(REGIONS)), len(REGIONS)
    values = len(STATISTICS) - 1
    token = encoder.context.out_features // 2
    parts = [
        [REGIONS.index("lesion")] * len(SHAPE),
        [region for region in regions for _ in GEOMETRY],
        *[[region for region in regions for _ in range(values)]] * 3,
        list(regions),
        [nobody] * PHASES,
        [region for _ in range(PHASES) for region in regions for _ in STATISTICS],
        [region for region in regions for _ in range(token)],
        [nobody] * (2 * token),
    ]
    return torch.tensor([owner for part in parts for owner in part])
