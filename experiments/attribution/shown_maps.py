"""Maps of one patient's kidney, those alone that passed their test: what `embed` and `assess` call."""

from __future__ import annotations

import gzip
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import nn

from datamodules.anatomy.targets import ANATOMY, anatomy_codes
from datamodules.augmentation import VolumeAugmentation
from datamodules.augmentation.sampling_map import crop_start
from datamodules.errors import DataError
from datamodules.files import replacing
from datamodules.importers.one_scan import ScanKidney
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.crop import roi_affine
from experiments.attribution.kidney_views import KidneyViews, features
from experiments.attribution.map_methods import maps_of
from experiments.attribution.network_questions import NetworkQuestion
from experiments.attribution.tested_maps import POINTING, method_shown
from experiments.encoders.scan_encoder import network_input
from lightning_modules.networks.image.regions import RegionEncoder


@dataclass(frozen=True)
class ShownMap:
    """What an answer about a kidney rests on.

    Args:
        question: Key of the question.
        title: What it is called.
        answer: What the network answers.
        method: How the map was made.
        values: float32 [D, H, W] on the contract's grid: above 0 where a voxel speaks for the answer, 0 outside of what
            the network sees.
        tested: What became of the test: `figures` with n and interval.
        seconds: What it cost.
    """

    question: str
    title: str
    answer: str
    method: str
    values: np.ndarray
    tested: Mapping[str, Any]
    seconds: float

    @property
    def stem(self) -> str:
        """The question as a part of a file's name."""
        return re.sub(r"[^a-z0-9]+", "-", self.question.lower())

    def to_dict(self) -> dict[str, Any]:
        """As JSON tells it: question, answer, method, and how often such maps point at the lesion."""
        return {
            "question": self.question,
            "title": self.title,
            "answer": self.answer,
            "method": self.method,
            "points_at_lesions": dict(self.tested["figures"][POINTING]),
        }


def shown_maps(
    kidney: ScanKidney,
    encoder: nn.Module,
    augmentation: VolumeAugmentation,
    questions: Sequence[NetworkQuestion],
    tested: Mapping[str, Any] | None,
    said: Mapping[str, str | None],
) -> list[ShownMap]:
    """The maps of one kidney that may be shown.

    Args:
        kidney: The kidney, with a mask or without.
        encoder: The network, in evaluation mode.
        augmentation: How regions become its input.
        questions: What it is asked.
        tested: As of `read_tested`; where that is None nothing is shown.
        said: By name of the question the answer that is said of the kidney, None where any is. Maps of right answers
            were tested: of one that is not said, or contradicts the mask, nothing is shown.

    Returns:
        A map for each question that has one that passed; none of the others.
    """
    chosen = [(question, method_shown(tested, question.name)) for question in questions if question.name in said]
    wanted = [(question, method) for question, method in chosen if method is not None]
    if not wanted or tested is None:
        return []
    image, _ = network_input(kidney, augmentation, encoder)
    spacing = presented_spacing(augmentation.contract)
    views = KidneyViews.of(image, spacing, anatomy_of(kidney.labels, image, augmentation, encoder))
    feature = features(encoder, views.image[None])
    result = []
    for method in dict.fromkeys(method for _, method in wanted):
        own = [(question, question.answer(feature)) for question, kept in wanted if kept == method]
        own = [
            (question, answer) for question, answer in own if said[question.name] in (None, question.answers[answer])
        ]
        if not own:
            continue
        started = time.monotonic()
        found = maps_of(encoder, views, own, spacing, method)
        seconds = (time.monotonic() - started) / len(own)
        for (question, answer), values in zip(own, found, strict=True):
            result.append(
                ShownMap(
                    question.name,
                    question.title,
                    question.answers[answer],
                    method,
                    on_grid(values, augmentation),
                    tested["questions"][question.name][method],
                    seconds,
                )
            )
    return result


def anatomy_of(
    labels: np.ndarray | None, image: torch.Tensor, augmentation: VolumeAugmentation, encoder: nn.Module
) -> torch.Tensor | None:
    """Where parenchyma and lesions are, by the mask, else as the encoder paints: float [5, D, H, W] as the input lies.

    Args:
        labels: uint8 [D, H, W] of `Tissue` codes on the contract's grid; None where there is no mask.
        image: float [V, C, D, H, W], the network's input.
        augmentation: How regions become its input.
        encoder: The network.

    Returns:
        None where there is no mask and the encoder paints none.
    """
    if labels is not None:
        return augmentation.follow(torch.from_numpy(anatomy_codes(labels))[None, None], len(ANATOMY))[0]
    if not isinstance(encoder, RegionEncoder):
        return None
    with torch.no_grad():
        return encoder.see(image).anatomy.softmax(dim=1).mean(dim=0)


def presented_spacing(contract: PreprocessingContract) -> tuple[float, float, float]:
    """Distance of voxels along the axes of the network's input."""
    first, second, third = (contract.spacing_mm[axis] for axis in contract.turn[0])
    return first, second, third


def on_grid(values: torch.Tensor, augmentation: VolumeAugmentation) -> np.ndarray:
    """A map of the input on the contract's grid, float32 [D, H, W] as volumes are stored; 0 outside the crop."""
    order, reversed_axes = augmentation.contract.turn
    stored = values.flip(list(reversed_axes)).permute(*np.argsort(order).tolist())
    grid, crop = augmentation.contract.grid, augmentation.config.crop
    whole = np.zeros(grid, dtype=np.float32)
    start = crop_start(grid, crop)
    whole[tuple(slice(low, low + size) for low, size in zip(start, crop, strict=True))] = stored.numpy()
    return whole


def write_map(path: Path, shown: ShownMap, kidney: ScanKidney, contract: PreprocessingContract) -> None:
    """Write a map as NIfTI in the scan's own frame, RAS millimetres, at the resolution of the volume.

    Args:
        path: File that ends in `.nii.gz`.
        shown: The map.
        kidney: The kidney that it is of.
        contract: Contract of the volume.

    Raises:
        DataError: if it is not known where the kidney lies in the scan.
    """
    if kidney.located is None:
        raise DataError(f"The {kidney.side} kidney has no place in a scan, so that its map has none.")
    affine = roi_affine(kidney.located.center(contract.region), contract)
    image = nib.Nifti1Image(np.ascontiguousarray(shown.values.transpose(2, 1, 0)), affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), mtime=0))
