"""A picture of painted outlines: of every size of lesion the worst, the best, and those between."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd
import torch

from callbacks.predictions import LESION_DICE
from datamodules.anatomy.targets import ANATOMY, anatomy_codes
from datamodules.attributes import AttributeDataModule
from datamodules.cohort.columns import PHASES
from datamodules.loading.joined_phases import VolumeReader
from experiments.scores.plots.style import COLORS, new_figure, save
from lightning_modules.networks.image.regions import RegionEncoder

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

SIZES_MM = {"up to 4 cm": (0.0, 40.0), "4 to 7 cm": (40.0, 70.0), "7 cm and more": (70.0, np.inf)}
SHOWN = 5
_KEYS = ["patient_id", "study_id", "side"]
_SHOWN_PHASES = ("arterial", "venous", "delayed", "non_contrast")
_LESION = (ANATOMY.index("tumour"), ANATOMY.index("cyst"))


class Outline(NamedTuple):
    """A lesion in the axial slice where the mask has most of it.

    image: float [H, W] in [0, 1].
    drawn: bool [H, W].
    painted: bool [H, W].
    """

    image: np.ndarray
    drawn: np.ndarray
    painted: np.ndarray


def chosen_lesions(predictions: pd.DataFrame, kidneys: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Tested kidneys of each size of lesion, from the least to the largest Dice coefficient, evenly over their ranks.

    Args:
        predictions: As `AttributePredictionWriter` leaves them, with `lesion_dice`; external centres are taken where
            there are some.
        kidneys: Table of the cohort with `lesion_diameter_mm`.

    Returns:
        By size at most `SHOWN` rows; sizes without a lesion are left out.
    """
    rows = predictions[predictions[LESION_DICE].notna()]
    if (rows["role"] == "external").any():
        rows = rows[rows["role"] == "external"]
    measured = kidneys[[*_KEYS, "lesion_diameter_mm"]].astype(dict.fromkeys(_KEYS, "string"))
    rows = rows.astype(dict.fromkeys(_KEYS, "string")).merge(measured, on=_KEYS)
    result = {}
    for name, (low, high) in SIZES_MM.items():
        size = rows["lesion_diameter_mm"].astype(float)
        part = rows[(size > low if low == 0 else size >= low) & (size < high)].sort_values(LESION_DICE)
        if len(part):
            places = np.unique(np.linspace(0, len(part) - 1, SHOWN).round().astype(int))
            result[name] = part.iloc[places].reset_index(drop=True)
    return result


@torch.inference_mode()
def outline(encoder: RegionEncoder, module: AttributeDataModule, key: tuple[str, str, str]) -> Outline:
    """What the encoder paints of a kidney beside its mask.

    Args:
        encoder: In evaluation mode.
        module: DataModule whose volumes and preprocessing are used.
        key: Patient, study and side.
    """
    volumes = module.plan.volumes
    of_kidney = (volumes.index[_KEYS].astype(str) == list(key)).all(axis=1)
    stored = VolumeReader(volumes, joined=True)(int(volumes.index.loc[of_kidney, "position"].min()))
    device = next(encoder.parameters()).device
    image = module.augmentation.evaluate(stored[None].to(device))
    codes = torch.from_numpy(anatomy_codes(volumes.masks(key[0])[key[1:]]))[None, None]
    drawn = _lesion(module.augmentation.follow(codes, len(ANATOMY)))
    painted = _lesion(encoder.see(image).anatomy.cpu())
    level = int(drawn.sum(axis=(1, 2)).argmax())
    shown = image[0].cpu().numpy()
    phase = next(number for number in map(PHASES.index, _SHOWN_PHASES) if shown[number].min() >= 0)
    return Outline(shown[phase, level], drawn[level], painted[level])


def _lesion(classes: torch.Tensor) -> np.ndarray:
    found = classes[0].argmax(dim=0)
    return ((found == _LESION[0]) | (found == _LESION[1])).numpy()


def outlines_figure(
    path: Path, encoder: RegionEncoder, module: AttributeDataModule, predictions: pd.DataFrame, note: str = ""
) -> None:
    """Draw the outlines of `chosen_lesions`; nothing where no lesion was painted beside a mask.

    Args:
        path: PNG file.
        encoder: The trained encoder.
        module: DataModule of the stage.
        predictions: As `chosen_lesions` takes them.
        note: What must be said of the cohort.
    """
    if LESION_DICE not in predictions:
        return
    chosen = chosen_lesions(predictions, module.plan.cohort["kidneys"])
    if not chosen:
        return
    order = "From the least Dice coefficient of a size to the largest, in the axial slice with most of the lesion."
    figure = new_figure(
        2.1 * SHOWN, 2.3 * len(chosen) + 0.6, "Lesions painted without a mask, and as drawn", f"{order} {note}"
    )
    axes = figure.subplots(len(chosen), SHOWN, squeeze=False)
    was_training = encoder.training
    encoder.eval()
    for row, (name, part) in zip(axes, chosen.items(), strict=True):
        row[0].set_ylabel(name)
        for place, cell in enumerate(row):
            cell.set(xticks=[], yticks=[])
            if place < len(part):
                entry = part.iloc[place]
                _draw(cell, outline(encoder, module, (entry["patient_id"], entry["study_id"], entry["side"])))
                cell.set_title(f"Dice {entry[LESION_DICE]:.2f}, {entry['lesion_diameter_mm']:.0f} mm", fontsize=8)
    encoder.train(was_training)
    handles = [plt.Line2D([], [], color=color, label=label) for color, label in zip(COLORS[3:5], _LINES, strict=True)]
    figure.legend(handles=handles, loc="outside upper right", fontsize=8, ncols=2)
    save(figure, path)
    plt.close(figure)


_LINES = ("drawn", "painted")


def _draw(axes: Axes, shown: Outline) -> None:
    """Anterior is up; the patient's right is on the left."""
    axes.imshow(shown.image[::-1, ::-1], cmap="gray", vmin=0.2, vmax=0.9)
    for mask, color in zip((shown.drawn, shown.painted), COLORS[3:5], strict=True):
        if mask.any() and not mask.all():
            axes.contour(mask[::-1, ::-1].astype(float), levels=[0.5], colors=[color], linewidths=1.0)
