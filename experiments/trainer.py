"""The Trainer with a precision that suits the device."""

from __future__ import annotations

from typing import Any

import lightning
import torch


def auto_precision(accelerator: str = "auto") -> str:
    """Mixed precision where the hardware has units for it, else single precision.

    bf16 on a CPU without bf16 units is ten to forty times slower than fp32, so a CPU always computes in fp32.

    Args:
        accelerator: Lightning's name of the accelerator.

    Returns:
        A value of the Trainer's `precision`.
    """
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"


class SuiteTrainer(lightning.Trainer):
    """Lightning's Trainer that also takes `precision: auto`.

    Args:
        precision: One of Lightning's, or `auto` for `auto_precision`.
        kwargs: As Lightning's Trainer.
    """

    def __init__(self, *, precision: str = "auto", **kwargs: Any) -> None:
        if precision == "auto":
            precision = auto_precision(str(kwargs.get("accelerator", "auto")))
        super().__init__(precision=precision, **kwargs)  # type: ignore[arg-type]
