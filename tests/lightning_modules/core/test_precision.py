"""Under mixed precision heads, measurements and poolings are computed in single precision."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder
from lightning_modules.networks.image.regions import RegionEncoder
from lightning_modules.networks.joint.aligned_model import AlignedConfig, AlignedModel
from tests.lightning_modules.downstream import test_survival as survival
from tests.lightning_modules.pretrain import test_attributes as attributes


class _Features(nn.Module):
    """An encoder whose image is its feature."""

    feature_dim = 32

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1)


def _near(rows: int = 200) -> torch.Tensor:
    """Features that differ by parts in a thousand, as those of like patients do."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.rand(1, 32, generator=generator)
    return centre * (1 + 2e-3 * torch.randn(rows, 32, generator=generator))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("hidden", [0, 16])
def test_risks_of_like_patients_stay_distinct(fused: bool, hidden: int) -> None:
    module = survival.make_module(hidden=hidden).eval()
    module.encoder = _Features()
    torch.manual_seed(0)
    sizes = [32, hidden, 1] if hidden else [32, 1]
    layers: list[nn.Module] = [nn.Linear(first, second) for first, second in pairwise(sizes)]
    module.head = nn.Sequential(*layers)
    image = _near()[:, None, None, None]
    available = torch.ones(len(image), 1, dtype=torch.bool) if fused else None
    if fused:
        image = image[:, None]
    with torch.no_grad():
        exact = module(image, available)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = module(image, available)
    assert found.dtype == torch.float32
    assert torch.equal(found, exact)
    assert len(found.unique()) > 0.95 * len(found)  # a few tie by chance in single precision, too


def test_attribute_logits_are_those_of_single_precision() -> None:
    module = attributes.make_module().eval()
    module.encoder = _Features()
    module.heads, module.phase = nn.Linear(32, 7), nn.Embedding(4, 32)
    image, phase = _near()[:, None, None, None], torch.arange(200) % 4
    with torch.no_grad():
        exact = module(image, phase)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(module(image, phase), exact)


def test_the_shared_space_is_reached_in_single_precision() -> None:
    torch.manual_seed(0)
    model = AlignedModel(EncoderConfig(width=4, depth=10), AlignedConfig(text_dim=24, embed_dim=8))
    features, text = torch.randn(50, model.image_head.in_features), torch.randn(50, 24)
    exact = model.embed_features(features), model.embed_text(text)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.embed_features(features), exact[0])
        assert torch.equal(model.embed_text(text), exact[1])


def test_hounsfield_units_are_measured_in_single_precision() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(network="regions", region_width=4, token_dim=6, region_dim=8)).eval()
    assert isinstance(encoder, RegionEncoder)
    image, anatomy = torch.rand(2, 4, 8, 12, 12), torch.rand(2, 5, 8, 12, 12).softmax(1)
    with torch.no_grad():
        exact = encoder.see(image, anatomy)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = encoder.see(image, anatomy)
    for name in ("statistics", "geometry", "shape"):
        assert torch.equal(getattr(found, name), getattr(exact, name)), name
    assert found.feature.dtype == found.tokens.dtype == torch.float32
