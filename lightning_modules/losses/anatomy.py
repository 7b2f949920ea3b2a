"""How far a painted anatomy is from the masks, where there are masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lightning_modules.networks.image.regions import ANATOMY

CLASS_WEIGHTS = (0.5, 1.0, 2.0, 2.0, 1.0)
"""Weight of the classes in the cross-entropy: most of a region is neither kidney nor lesion."""
_SINUS = ANATOMY.index("sinus")
_LESION = (ANATOMY.index("tumour"), ANATOMY.index("cyst"))
_SMOOTH = 1.0


def anatomy_loss(
    logits: torch.Tensor,
    share: torch.Tensor,
    mask_known: torch.Tensor,
    sinus_known: torch.Tensor,
    weights: Sequence[float] = CLASS_WEIGHTS,
) -> torch.Tensor:
    """Cross-entropy and soft Dice of the classes, summed (Isensee et al., Nature Methods 2021).

    A kidney without a mask adds nothing. Where nobody drew the sinus, its probability counts for what lies around: the
    marginal loss of Shi et al., Medical Image Analysis 2021.

    Args:
        logits: float [B, 5, D, H, W].
        share: float [B, 5, D, H, W], share of each class in every voxel.
        mask_known: bool [B].
        sinus_known: bool [B].
        weights: Weight of each class in the cross-entropy.

    Returns:
        A scalar, 0 with a gradient of 0 where no kidney has a mask.
    """
    probability = logits.float().softmax(dim=1)
    drawn = sinus_known.view(-1, 1, 1, 1).to(probability.dtype)
    sinus = probability[:, _SINUS]
    hidden = sinus * (1 - drawn)
    probability = torch.cat(
        [probability[:, :1] + hidden[:, None], probability[:, 1:_SINUS], (sinus - hidden)[:, None]], dim=1
    )
    known = mask_known.to(probability.dtype)
    rate = probability.new_tensor(weights).view(1, -1, 1, 1, 1) * share
    entropy = -(rate * probability.clamp_min(1e-6).log()).sum(dim=1)
    voxels = rate.sum(dim=1)
    shown = known.view(-1, 1, 1, 1)
    cross_entropy = (entropy * shown).sum() / (voxels * shown).sum().clamp_min(1e-6)
    scale = known.view(-1, 1, 1, 1, 1)
    overlap = (probability * share * scale).sum(dim=(0, 2, 3, 4))
    total = ((probability + share) * scale).sum(dim=(0, 2, 3, 4))
    dice = 1 - (2 * overlap + _SMOOTH) / (total + _SMOOTH)
    # Without a drawn sinus both sums are 0, and so is the distance.
    return cross_entropy + dice[1:].mean()


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
