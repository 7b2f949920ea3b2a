"""Point operations: the HU window, and the variation of brightness and contrast within it."""

from __future__ import annotations

import torch

from datamodules.augmentation.parameters import AugmentationParameters


def window_(image: torch.Tensor, window_hu: tuple[float, float]) -> torch.Tensor:
    """Map HU to [0, 1] in place.

    It follows the resampling: HU mix linearly at the border of two tissues, as they do in the scanner (partial
    volume) and in preprocessing, whereas the clamp is a display transform; and the crop has fewer voxels.

    Args:
        image: float [...] in HU.
        window_hu: Lower and upper end.
    """
    low, high = window_hu
    return image.sub_(low).mul_(1 / (high - low)).clamp_(0, 1)


def vary_(image: torch.Tensor, parameters: AugmentationParameters) -> torch.Tensor:
    """Scale, shift and gamma in place: clamp(image * scale + shift, 0, 1) ** gamma.

    Args:
        image: float32 [B, ...] in [0, 1].
        parameters: Of these samples.

    Returns:
        The image, in [0, 1].
    """
    scale, shift, gamma = (
        value.view(-1, *[1] * (image.dim() - 1))
        for value in (parameters.intensity_scale, parameters.intensity_shift, parameters.gamma)
    )
    image.mul_(scale).add_(shift).clamp_(0, 1)
    if image.device.type == "cpu":
        # Half of the samples have no gamma; looking costs nothing here, and would stop the queue of a GPU.
        for sample, exponent in zip(image, parameters.gamma.tolist(), strict=True):
            if exponent != 1:
                _power_(sample, exponent)
        return image
    return torch.where(gamma == 1, image, _power_(image.clone(), gamma))


def _power_(image: torch.Tensor, exponent: torch.Tensor | float) -> torch.Tensor:
    """A power by logarithms, three times as fast as `pow` on a CPU.

    Logarithms of 0 take a path ten times as slow there, so black is lifted to 2^-100 and ends below 2^-50.
    """
    return image.clamp_(min=2.0**-100).log2_().mul_(exponent).exp2_()
