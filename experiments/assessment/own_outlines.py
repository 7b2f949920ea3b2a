"""What the encoder's own decoder paints of a kidney, where no mask draws its lesions."""

from __future__ import annotations

import numpy as np
import torch

from datamodules.anatomy.tissues import Tissue
from datamodules.augmentation.sampling_map import crop_start
from datamodules.importers.one_scan import ScanKidney
from experiments.assessment.task_models import Models
from experiments.encoders.scan_encoder import network_input
from lightning_modules.networks.image.regions import ANATOMY, RegionEncoder

_TISSUES = {"parenchyma": Tissue.KIDNEY, "tumour": Tissue.TUMOR, "cyst": Tissue.CYST, "sinus": Tissue.RENAL_SINUS}


def paints(models: Models) -> bool:
    """Whether the encoder has a decoder of regions."""
    return isinstance(models.encoder, RegionEncoder)


@torch.inference_mode()
def painted(kidney: ScanKidney, models: Models) -> np.ndarray:
    """The likeliest class of every voxel of a kidney's region.

    Args:
        kidney: The kidney.
        models: An encoder that paints.

    Returns:
        uint8 [D, H, W] of places in `ANATOMY` on the contract's grid; 0 outside of the network's crop.
    """
    assert isinstance(models.encoder, RegionEncoder)
    image, _ = network_input(kidney, models.augmentation, models.encoder)
    share = models.encoder.see(image).anatomy.softmax(dim=1).mean(dim=0)
    labels = np.zeros(models.contract.grid, dtype=np.uint8)
    start = crop_start(models.contract.grid, models.crop)
    inside = tuple(slice(low, low + size) for low, size in zip(start, models.crop, strict=True))
    labels[inside] = share.argmax(dim=0).numpy()
    return labels


def painted_tissues(kidney: ScanKidney, models: Models) -> np.ndarray:
    """The same as codes of `Tissue`, for nephrometry."""
    table = np.array([_TISSUES.get(name, Tissue.UNLABELED) for name in ANATOMY], dtype=np.uint8)
    return np.asarray(table[painted(kidney, models)])
