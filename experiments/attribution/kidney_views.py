"""A kidney as a network is shown it, whole or with parts of it taken away, and how sure it then is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from monai.networks.layers import GaussianFilter
from torch import nn

from datamodules.volumes.contract import ABSENT
from experiments.attribution.network_questions import Asked

BLUR_MM = 12.0
"""Standard deviation of the blur that stands for what is taken away outside of the organ."""
_VOXELS = 1 << 22


@dataclass(frozen=True)
class KidneyViews:
    """The images of one kidney, and what stands in the place of voxels that are taken away.

    Args:
        image: float [V, C, D, H, W] as the network reads them, `ABSENT` in a channel whose phase is not there.
        fill: The same shape; the image blurred, or what else tells nothing.
    """

    image: torch.Tensor
    fill: torch.Tensor

    @classmethod
    def of(
        cls, image: torch.Tensor, spacing_mm: tuple[float, float, float], anatomy: torch.Tensor | None = None
    ) -> KidneyViews:
        """Views whose voxels give way to healthy tissue: parenchyma within the organ, the blurred image outside of it.

        A constant or a blur in the place of a lesion looks like another lesion. Parenchyma is drawn voxel by voxel from
        that of the same kidney and phase, with a fixed seed, so that its spread is kept.

        Args:
            image: float [V, C, D, H, W].
            spacing_mm: Distance of voxels D x H x W.
            anatomy: float [5, D, H, W], shares of other, parenchyma, tumour, cyst and sinus, from a mask or painted;
                where left out, or where it holds no parenchyma, all is blurred.
        """
        with torch.no_grad():
            fill = _blurred(image, spacing_mm)
            if anatomy is not None:
                _, parenchyma, tumour, cyst, _ = anatomy
                healthy, organ = parenchyma > 0.5, parenchyma + tumour + cyst > 0.5
                if bool(healthy.any()):
                    own = image[:, :, healthy]
                    drawn = torch.randint(own.shape[2], (int(organ.sum()),), generator=torch.Generator().manual_seed(0))
                    fill[:, :, organ] = own[:, :, drawn]
            return cls(image, torch.where(_there(image), fill, image))

    def there(self) -> torch.Tensor:
        """Which channels hold a phase, bool [V, C, 1, 1, 1]."""
        return _there(self.image)

    def shown(self, kept: torch.Tensor) -> torch.Tensor:
        """Images float [N, V, C, D, H, W] that keep shares [N, D, H, W] in [0, 1] of every voxel."""
        share = kept[:, None, None].to(self.image.dtype)
        return share * self.image + (1 - share) * self.fill


def _there(image: torch.Tensor) -> torch.Tensor:
    return ~(image == ABSENT).flatten(2).all(dim=2)[:, :, None, None, None]


def _blurred(image: torch.Tensor, spacing_mm: tuple[float, float, float]) -> torch.Tensor:
    smooth = GaussianFilter(3, [BLUR_MM / step for step in spacing_mm])
    # Voxels beyond the edge count as the last ones before it: a filter that takes them for 0 would darken the edge.
    reach = [min(size - 1, round(3 * BLUR_MM / step)) for size, step in zip(image.shape[2:], spacing_mm, strict=True)]
    pad = [margin for axis in (2, 1, 0) for margin in (reach[axis], reach[axis])]
    wide = smooth(nn.functional.pad(image, pad, mode="replicate"))
    inner = tuple(slice(margin, margin + size) for margin, size in zip(reach, image.shape[2:], strict=True))
    return wide[(slice(None), slice(None), *inner)].clone()


@torch.no_grad()
def features(encoder: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Features float [N, V, F] of images [N, V, C, D, H, W], of so many at a time as memory bears."""
    flat = images.flatten(0, 1)
    at_once = max(1, _VOXELS // flat[0].numel())
    found = torch.cat([encoder(part) for part in flat.split(at_once)])
    return found.unflatten(0, images.shape[:2])


@torch.no_grad()
def evidence_shown(encoder: nn.Module, views: KidneyViews, asked: Asked, kept: torch.Tensor) -> torch.Tensor:
    """Evidence of answers float64 [Q, N] where shares float [N, D, H, W] of every voxel are kept."""
    feature = features(encoder, views.shown(kept))
    return torch.stack([question.evidence(feature, answer).double() for question, answer in asked])
