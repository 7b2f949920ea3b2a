"""How large a painted lesion is, and how it lies to kidney and sinus: what a nephrometry score is made of.

The lengths of R.E.N.A.L. (Kutikov and Uzzo, J Urol 2009) come from a drawn mask elsewhere; here they are smooth
functions of probabilities, in voxels, for a model that learns from them.
"""

from __future__ import annotations

import torch

SHAPE = (
    "diameter",
    "axial diameter",
    "extent d",
    "extent h",
    "extent w",
    "steps to sinus",
    "sinus within a step",
    "sinus within two steps",
    "above the sinus",
    "beside the sinus",
    "below the sinus",
    "rim in parenchyma",
    "rim in sinus",
    "rim outside",
    "offset d",
    "offset h",
    "offset w",
)
"""What is measured of a lesion, in order."""
_STEPS = 8
_FAINT_VOXELS = 20.0


def widened(share: torch.Tensor, steps: int = 1) -> torch.Tensor:
    """Largest value within `steps` voxels along every axis of [B, C, D, H, W], as max-pooling with a cube has it.

    Neighbours are compared as whole arrays, on a CPU thirty times as fast as max-pooling.
    """
    for axis in (2, 3, 4):
        for _ in range(steps):
            size = share.shape[axis] - 1
            wide = share.clone()
            before, after = wide.narrow(axis, 0, size), wide.narrow(axis, 1, size)
            torch.maximum(before, share.narrow(axis, 1, size), out=before)
            torch.maximum(after, share.narrow(axis, 0, size), out=after)
            share = wide
    return share


@torch.no_grad()
def lesion_shape(
    lesion: torch.Tensor, rim: torch.Tensor, parenchyma: torch.Tensor, sinus: torch.Tensor
) -> torch.Tensor:
    """Size and place of a lesion.

    Args:
        lesion: float [B, 1, D, H, W], probability of the lesion.
        rim: float [B, 1, D, H, W], what lies around it.
        parenchyma: float [B, 1, D, H, W].
        sinus: float [B, 1, D, H, W].

    Returns:
        float32 [B, 17] in the order of `SHAPE`. Lengths in voxels: of the ball of its volume, of the circle of its
        largest slice, of its extent along every axis, a tenth each; the distance to the sinus up to eight steps, an
        eighth. The shares of the lesion above, beside and below the sinus, and of its rim. The offset of its centre
        from that of kidney and lesion together, in half boxes. All fade to 0 as the lesion does.
    """
    lesion, rim, parenchyma, sinus = (part.float() for part in (lesion, rim, parenchyma, sinus))
    volume = lesion.sum(dim=(1, 2, 3, 4))
    slices = lesion.sum(dim=(1, 3, 4))
    extents = [_along(lesion, axis).sum(dim=1) / 10 for axis in (2, 3, 4)]
    near, contact = sinus, []
    for _ in range(_STEPS):
        near = widened(near)
        touched = (lesion * near).sum(dim=(1, 2, 3, 4))
        contact.append(touched / (touched + 2.0))
    rows = [
        volume.pow(1 / 3) / 10,
        slices.amax(dim=1).sqrt() / 10,
        *extents,
        (1 - torch.stack(contact)).mean(dim=0),
        contact[0],
        contact[1],
        *_levels(slices, _along(sinus, 2)),
        *_rim(rim, parenchyma, sinus),
        *(_centre(lesion) - _centre(lesion + parenchyma)).unbind(dim=1),
    ]
    return torch.stack(rows, dim=1) * (volume / (volume + _FAINT_VOXELS))[:, None]


def _along(share: torch.Tensor, axis: int) -> torch.Tensor:
    """Largest value of every plane across an axis, [B, N]."""
    return share.amax(dim=[other for other in (1, 2, 3, 4) if other != axis])


def _levels(slices: torch.Tensor, sinus: torch.Tensor) -> list[torch.Tensor]:
    """Shares of the lesion beyond the sinus's last slice, beside it, and before its first, in the order of `SHAPE`.

    Slices run from feet to head.
    """
    # The running maximum of shares, none of which is negative; ONNX has no operator for it.
    upto = sinus.new_ones(sinus.shape[1], sinus.shape[1]).tril()
    ends = (sinus[:, None] * upto).amax(dim=2)
    starts = (sinus[:, None] * upto.T).amax(dim=2)
    share = slices / slices.sum(dim=1, keepdim=True).clamp_min(1e-3)
    # Before its first slice nothing of the sinus has begun; beyond its last nothing is to come.
    beside = torch.minimum(ends, starts)
    return [(share * (ends - beside)).sum(1), (share * beside).sum(1), (share * (starts - beside)).sum(1)]


def _rim(rim: torch.Tensor, parenchyma: torch.Tensor, sinus: torch.Tensor) -> list[torch.Tensor]:
    total = rim.sum(dim=(1, 2, 3, 4)).clamp_min(1.0)
    inside = [(rim * part).sum(dim=(1, 2, 3, 4)) / total for part in (parenchyma, sinus)]
    return [*inside, 1 - inside[0] - inside[1]]


def _centre(share: torch.Tensor) -> torch.Tensor:
    """Centre of mass from -1 to 1 along D, H, W, [B, 3]."""
    total = share.sum(dim=(1, 2, 3, 4)).clamp_min(1e-3)
    places = []
    for axis in (2, 3, 4):
        line = torch.linspace(-1, 1, share.shape[axis], device=share.device)
        places.append((share.sum(dim=[other for other in (1, 2, 3, 4) if other != axis]) * line).sum(dim=1) / total)
    return torch.stack(places, dim=1)
