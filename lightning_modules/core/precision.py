"""What a device computes in: its native half precision, and where single precision is kept under mixed precision."""

from __future__ import annotations

import torch

_NATIVE_BF16 = 8
"""Major compute capability from which a GPU has units for bfloat16 (Ampere); before, torch emulates it slowly."""


def has_native_bf16() -> bool:
    """Whether every GPU that is visible computes in bfloat16 itself.

    `torch.cuda.is_bf16_supported()` also says yes where it is emulated, as on a V100 or a T4.
    """
    devices = range(torch.cuda.device_count())
    return all(torch.cuda.get_device_capability(device)[0] >= _NATIVE_BF16 for device in devices)


def full_precision(device: torch.device) -> torch.autocast:
    """Leave mixed precision for what is small and must be told apart: heads, risks, measurements, poolings.

    bfloat16 has eight significant bits: two patients whose risks differ by less than a part in 256 get the same one.
    Inputs of the block are to be made float32 by whoever enters it.

    Args:
        device: Where the block computes.
    """
    return torch.autocast(device.type, enabled=False)
