"""Batched augmentation of int16 volumes on the training device.

One resampling does crop, flip, rotation, translation and scale; window, intensity and gamma follow on its output.
Parameters are drawn per sample from a seed (`parameters`), so a sample looks the same in any batch, on any rank and
device. Resampling is trilinear along any map (`exact`) or plane by plane (`separable`). torchio's transforms with the
same parameters are the reference (`tests.benchmarks.torchio_reference`).
"""

from datamodules.augmentation.module import VolumeAugmentation
from datamodules.augmentation.parameters import AugmentationConfig, AugmentationParameters, sample_parameters

__all__ = ["AugmentationConfig", "AugmentationParameters", "VolumeAugmentation", "sample_parameters"]
