"""How far a painted anatomy is from the masks, where there are masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_modules.core.distributed import shared_sum, times_ranks
from lightning_modules.networks.image.regions import ANATOMY

CLASS_WEIGHTS = (0.5, 1.0, 2.0, 2.0, 1.0)
"""Weight of the classes in the cross-entropy: most of a region is neither kidney nor lesion."""
_SINUS = ANATOMY.index("sinus")
_LESION = (ANATOMY.index("tumour"), ANATOMY.index("cyst"))
_SMOOTH = 1.0
_ADDED, _MISSED = 0.4, 0.6
"""Weight of voxels that are painted and not drawn, and of those that are drawn and not painted."""


def anatomy_loss(
    logits: torch.Tensor,
    share: torch.Tensor,
    mask_known: torch.Tensor,
    sinus_known: torch.Tensor,
    weights: Sequence[float] = CLASS_WEIGHTS,
) -> torch.Tensor:
    """Cross-entropy and soft overlap of the classes of the global batch, summed (Isensee et al., Nature Methods 2021).

    Half of the overlap's distance is the Dice of the batch, which counts what is painted where nothing is; half is the
    Tversky distance (Salehi et al., MLMI 2017) of every kidney for itself, in which a small lesion weighs as much as a
    large one and missed voxels more than added ones.

    A kidney without a mask adds nothing. Where nobody drew the sinus, its probability counts for what lies around: the
    marginal loss of Shi et al., Medical Image Analysis 2021.

    Args:
        logits: float [B, 5, D, H, W].
        share: float [B, 5, D, H, W], share of each class in every voxel.
        mask_known: bool [B].
        sinus_known: bool [B].
        weights: Weight of each class in the cross-entropy.

    Returns:
        A scalar, 0 with a gradient of 0 where no kidney has a mask. Every rank has the whole loss, and the mean that
        DistributedDataParallel takes of gradients is its gradient.
    """
    probability = logits.float().softmax(dim=1)
    drawn = sinus_known.view(-1, 1, 1, 1).to(probability.dtype)
    sinus = probability[:, _SINUS]
    hidden = sinus * (1 - drawn)
    probability = torch.cat(
        [probability[:, :1] + hidden[:, None], probability[:, 1:_SINUS], (sinus - hidden)[:, None]], dim=1
    )
    known = mask_known.to(probability.dtype)
    rate = torch.stack([share[:, number] * weight for number, weight in enumerate(weights)], dim=1)
    entropy = -(rate * probability.clamp_min(1e-6).log()).sum(dim=1)
    voxels = rate.sum(dim=1)
    shown = known.view(-1, 1, 1, 1)
    cross_entropy = shared_sum((entropy * shown).sum()) / shared_sum((voxels * shown).sum()).clamp_min(1e-6)
    hit, painted, drawn_sum = (
        values.sum(dim=(2, 3, 4)) * known[:, None] for values in (probability * share, probability, share)
    )
    overlap, both = shared_sum(hit.sum(dim=0)), shared_sum(painted.sum(dim=0)) + shared_sum(drawn_sum.sum(dim=0))
    dice = 1 - (2 * overlap + _SMOOTH) / (both + _SMOOTH)
    tversky = _tversky(hit, painted, drawn_sum, _lesion_hit(probability, share) * known)
    # Without a drawn sinus both sums are 0, and so is the distance.
    return times_ranks(cross_entropy + (dice[1:].mean() + tversky) / 2)


def _lesion_hit(probability: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Overlap of tumour and cyst together, [B]."""
    first, second = _LESION
    return ((probability[:, first] + probability[:, second]) * (share[:, first] + share[:, second])).sum(dim=(1, 2, 3))


def _tversky(hit: torch.Tensor, painted: torch.Tensor, drawn: torch.Tensor, lesion_hit: torch.Tensor) -> torch.Tensor:
    """Mean Tversky distance of the classes and the lesion over the kidneys of all ranks that have them; 0 where none
    has.

    Args:
        hit: Overlap by kidney and class [B, 5]; 0 for a kidney without a mask, as the sums are.
        painted: Sum of what is painted [B, 5].
        drawn: Sum of what is drawn [B, 5].
        lesion_hit: Overlap of the lesion [B].
    """
    hit = torch.cat([hit[:, 1:], lesion_hit[:, None]], dim=1)
    painted, drawn = (
        torch.cat([sums[:, 1:], sums[:, _LESION].sum(dim=1, keepdim=True)], dim=1) for sums in (painted, drawn)
    )
    index = (hit + _SMOOTH) / (hit + _ADDED * (painted - hit) + _MISSED * (drawn - hit) + _SMOOTH)
    present = (drawn > 0).to(hit.dtype)
    return shared_sum(((1 - index) * present).sum()) / shared_sum(present.sum()).clamp_min(1)


def lesion_dice(logits: torch.Tensor, share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Dice coefficient of tumour and cyst together, voxel by voxel by the most likely class.

    Args:
        logits: float [B, 5, D, H, W].
        share: As of `anatomy_loss`; its largest class counts.

    Returns:
        float [B], and bool [B], whether the mask has a lesion; only there the coefficient means something.
    """
    painted, drawn = (_is_lesion(values.argmax(dim=1)) for values in (logits, share))
    overlap = (painted & drawn).flatten(1).sum(dim=1)
    sizes = painted.flatten(1).sum(dim=1) + drawn.flatten(1).sum(dim=1)
    return 2 * overlap / sizes.clamp_min(1), drawn.flatten(1).any(dim=1)


def _is_lesion(classes: torch.Tensor) -> torch.Tensor:
    first, second = _LESION
    found: torch.Tensor = (classes == first) | (classes == second)
    return found
