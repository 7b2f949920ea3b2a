"""Networks of the published encoders, by name.

encoder = build_published("merlin")
report = load_published(encoder, Path("merlin.pt"), RELEASES["merlin"].layout)
feature = encoder.eval()(image)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from lightning_modules.core.errors import ModelError
from lightning_modules.networks.image.published.ctvit import CTViT
from lightning_modules.networks.image.published.published_encoder import PublishedEncoder
from lightning_modules.networks.image.published.releases import RELEASES
from lightning_modules.networks.image.published.resnets import PublishedResNet
from lightning_modules.networks.image.published.segres import PublishedSegRes


def build_published(name: str, *, small: bool = False, checkpointing: bool = False) -> PublishedEncoder:
    """A published encoder with random weights.

    `forward` maps float32 [B, 1, D, H, W], in the axes and intensity scale of the release, to [B, feature_dim];
    `layer_groups()` are the parameters from the stem to the last block; `checkpointing` may be switched.

    Args:
        name: A key of `RELEASES`.
        small: A narrow and shallow variant of the same architecture, for tests; no published weights fit it.
        checkpointing: Recompute activations in the backward pass instead of keeping them.

    Raises:
        ModelError: if the name is unknown, with the names there are.
    """
    if name not in RELEASES:
        raise ModelError(f"Published encoder {name!r} was asked for; choose one of {', '.join(RELEASES)}.")
    size, small_size = _SIZES[name]
    return _NETWORKS[name](**(small_size if small else size), checkpointing=checkpointing)


_MERLIN = partial(PublishedResNet, bottleneck=True, inflated=True, projected=True)
_NETWORKS: dict[str, Callable[..., PublishedEncoder]] = {
    "ct_fm": PublishedSegRes,
    "merlin": _MERLIN,
    "merlin_astra": _MERLIN,
    "ct_clip": CTViT,
    "renalclip": partial(PublishedResNet, bottleneck=False, inflated=False, projected=False),
}
_MERLIN_SIZES = ({"layers": (3, 8, 36, 3), "width": 64}, {"layers": (1, 2, 1, 1), "width": 4})
_SIZES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ct_fm": ({"levels": (1, 2, 2, 4, 4), "width": 32}, {"levels": (1, 2, 1), "width": 8}),
    "merlin": _MERLIN_SIZES,
    "merlin_astra": _MERLIN_SIZES,
    "ct_clip": (
        {},
        {
            "image_size": 24,
            "patch": 8,
            "temporal_patch": 4,
            "dim": 24,
            "layers": 2,
            "heads": 2,
            "head_dim": 8,
            "codes": 32,
            "latent_dim": 16,
        },
    ),
    "renalclip": ({"layers": (2, 2, 2, 2), "width": 64}, {"layers": (1, 1, 1, 2), "width": 4}),
}
"""Size of the release, and of the small variant."""
