"""One page on one scan: what was looked at, zero-shot classes, attributes, nearest reports."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from datamodules.anatomy.tissues import LESION
from datamodules.files import replacing
from datamodules.importers.one_scan import ScanKidney
from datamodules.volumes.contract import PreprocessingContract
from experiments.doubt.statements import lesion_words
from experiments.doubt.verdict import OUTSIDE_TRAINING
from experiments.registry import class_words

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

_WINDOW_HU = (-160.0, 240.0)
PLANES = (("axial", 0), ("coronal", 1), ("sagittal", 2))
_ALARM = {True: "#b2182b", False: "#1a1a1a"}
_COLORS = ("#9ecae1", "#fdae6b", "#a1d99b", "#bcbddc")
_REPORTS, _LINES, _WIDTH = 5, 2, 175


def embed_figure(
    path: Path, kidneys: Sequence[ScanKidney], results: Sequence[Mapping[str, Any]], contract: PreprocessingContract,
    notes: tuple[str, str],
) -> None:  # fmt: skip
    """Draw the page.

    Args:
        path: PNG to write.
        kidneys: The kidneys of the scan.
        results: What was found of each, as in the JSON.
        contract: Preprocessing contract of the regions.
        notes: What is said first, and what must be said beside it.
    """
    head, note = notes
    heights = [0.9, *(7.4 if "lesion" in result else 4.6 for result in results), 0.6]
    figure = plt.figure(figsize=(11.0, sum(heights)), layout="constrained")
    parts = np.ravel(np.asarray(figure.subfigures(len(heights), 1, height_ratios=heights)))
    outside = any(result["training_data"]["outside_training"] for result in results)
    shown = "\n".join(textwrap.wrap(head, 125, max_lines=4))
    parts[0].text(0.5, 0.5, shown, ha="center", va="center", fontsize=10, fontweight="bold", color=_ALARM[outside])
    for part, kidney, result in zip(parts[1:], kidneys, results, strict=False):
        _kidney(part, kidney, result, contract)
    parts[-1].text(0.5, 0.5, "\n".join(textwrap.wrap(note, 170)), ha="center", va="center", fontsize=7, color="0.35")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)


def _kidney(part: SubFigure, kidney: ScanKidney, result: Mapping[str, Any], contract: PreprocessingContract) -> None:
    view = kidney.views[0]
    phase = "phase unknown" if view.phase is None else view.phase.replace("_", "-")
    more = f", first of {len(kidney.views)} series" if len(kidney.views) > 1 else ""
    lesion = f": {lesion_words(**result['lesion']).lower()}" if "lesion" in result else ""
    part.suptitle(f"{kidney.side.capitalize()} kidney ({phase}{more}){lesion}", fontsize=11, fontweight="bold")
    spoken = "lesion" in result
    grid = part.add_gridspec(4, 6, height_ratios=[2.6, 2.7, 0.8, 1.3] if spoken else [2.6, 0.6, 0.6, 0.6])
    for column, (name, axis) in enumerate(PLANES):
        draw_plane(part.add_subplot(grid[0, 2 * column : 2 * column + 2]), kidney, name, axis, contract)
    if not spoken:
        _unspoken(part.add_subplot(grid[1:, :]), result["training_data"])
        return
    _zero_shot(part.add_subplot(grid[1, :3]), result["zero_shot"])
    _attributes(part.add_subplot(grid[1, 3:]), result["attributes"])
    _withheld(part.add_subplot(grid[2, :]), result["withheld"])
    _nearest(part.add_subplot(grid[3, :]), result["nearest_reports"])


def best(entry: Mapping[str, Any]) -> str:
    """The class that scores highest."""
    scores: Mapping[str, float] = entry["scores"]
    return max(scores, key=lambda name: scores[name])


def _unspoken(axis: Axes, verdict: Mapping[str, Any]) -> None:
    """What the gate found, in the place of classes."""
    axis.axis("off")
    lines = [f"No class is shown ({OUTSIDE_TRAINING} shows them). What was looked at:", ""]
    for finding in verdict["findings"]:
        lines += textwrap.wrap(f"{'OUTSIDE' if finding['outside'] else 'within'}: {finding['sentence']}", 150)
    axis.text(0.02, 0.98, "\n".join(lines), fontsize=8, va="top", transform=axis.transAxes)


def _withheld(axis: Axes, entries: Sequence[Mapping[str, Any]]) -> None:
    axis.set_title("Withheld", fontsize=8)
    if not entries:
        _empty(axis, "nothing")
        return
    axis.axis("off")
    text = textwrap.wrap(" ".join(entry["reason"] for entry in entries), _WIDTH, max_lines=5)
    axis.text(0.0, 1.0, "\n".join(text), fontsize=6.5, va="top", transform=axis.transAxes)


def draw_plane(
    axis: Axes, kidney: ScanKidney, name: str, plane: int, contract: PreprocessingContract, view: int = 0,
    warm: np.ndarray | None = None,
) -> None:  # fmt: skip
    """A slice through the middle of the lesion, or of the region; radiological convention.

    Args:
        axis: Where it is drawn.
        kidney: The kidney, with the outlines of its map.
        name: What stands above it.
        plane: Axis that it is a slice of: 0 axial, 1 coronal, 2 sagittal.
        contract: Preprocessing contract of the region.
        view: Which of the kidney's views.
        warm: float [D, H, W], a map that is laid over the slice where it is above a twentieth of its largest value.
    """
    image = kidney.views[view].image
    level = image.shape[plane] // 2
    outlines = {}
    if kidney.labels is not None:
        lesion = np.isin(kidney.labels, LESION)
        outlines = {"#4daf4a": kidney.labels > 0, "#ffb000": lesion}
        if lesion.any():
            level = int(lesion.sum(axis=tuple(a for a in range(3) if a != plane)).argmax())
    cut = (slice(None),) * plane + (level,)
    spacing = [value for place, value in enumerate(contract.spacing_mm) if place != plane]
    # Rows run towards anterior or superior, columns towards the patient's right or front: both are turned.
    axis.imshow(
        image[cut][::-1, ::-1], cmap="gray", vmin=_WINDOW_HU[0], vmax=_WINDOW_HU[1], aspect=spacing[0] / spacing[1],
        interpolation="bilinear",
    )  # fmt: skip
    if warm is not None and warm.max() > 0:
        shown = np.ma.masked_less(warm[cut][::-1, ::-1], 0.05 * float(warm.max()))
        axis.imshow(
            shown, cmap="autumn", vmin=0.0, vmax=float(warm.max()), alpha=0.5, aspect=spacing[0] / spacing[1]
        )  # fmt: skip
    for color, mask in outlines.items():
        flat = mask[cut][::-1, ::-1]
        if flat.any() and not flat.all():
            axis.contour(flat.astype(float), levels=[0.5], colors=color, linewidths=0.9)
    axis.set_title(name, fontsize=8)
    axis.set_xticks([])
    axis.set_yticks([])


def _zero_shot(axis: Axes, tasks: Mapping[str, Mapping[str, Any]]) -> None:
    axis.set_title("Zero-shot scores of the largest lesion, which are no probabilities", fontsize=8)
    if not tasks:
        _empty(axis, "nothing is said")
        return
    for row, (task, entry) in enumerate(tasks.items()):
        start = 0.0
        for number, (answer, value) in enumerate(entry["scores"].items()):
            name = class_words(task, answer)
            axis.barh(row, value, left=start, color=_COLORS[number % len(_COLORS)], edgecolor="white")
            if value > 0.08:
                label = f"{name}\n{value:.2f}" if len(name) < 46 * value else f"{value:.2f}"
                axis.text(start + value / 2, row, label, ha="center", va="center", fontsize=6)
            start += value
    axis.set_yticks(range(len(tasks)), [entry["title"] for entry in tasks.values()], fontsize=7)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.tick_params(axis="x", labelsize=6)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)


def _attributes(axis: Axes, attributes: Mapping[str, Mapping[str, Any]]) -> None:
    axis.set_title("Attributes of stage 1: what scores highest; not calibrated", fontsize=8)
    if not attributes:
        _empty(axis, "nothing is said")
        return
    axis.axis("off")
    rows = -(-len(attributes) // 2)
    for number, (name, entry) in enumerate(attributes.items()):
        column, row = divmod(number, rows)
        value = entry["scores"][entry["value"]]
        text = f"{name.replace('_', ' ')}: {str(entry['value']).replace('_', ' ')}"
        weight = "bold" if value >= 0.7 else "normal"
        place: dict[str, Any] = {"fontsize": 6.2, "transform": axis.transAxes, "va": "top"}
        axis.text(0.51 * column, 1 - (row + 0.3) / rows, text, weight=weight, **place)
        axis.text(0.51 * column + 0.48, 1 - (row + 0.3) / rows, f"{value:.2f}", ha="right", weight=weight, **place)


def _nearest(axis: Axes, reports: Sequence[Mapping[str, Any]]) -> None:
    axis.set_title("Nearest reports of the pretraining centres, of other patients", fontsize=8)
    if not reports:
        _empty(axis, "no cohort with reports was named")
        return
    axis.axis("off")
    lines = []
    for number, entry in enumerate(reports[:_REPORTS], start=1):
        text = textwrap.wrap(f"{number}. cosine {entry['cosine']:.2f}: {entry['text']}", _WIDTH)
        lines += [*text[: _LINES - 1], text[_LINES - 1] + " ..."] if len(text) > _LINES else text
    axis.text(0.0, 1.0, "\n".join(lines), fontsize=6.5, va="top", transform=axis.transAxes)


def _empty(axis: Axes, text: str) -> None:
    axis.axis("off")
    axis.text(0.5, 0.5, text, ha="center", va="center", fontsize=7, color="0.5", transform=axis.transAxes)
