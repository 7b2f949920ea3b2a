"""Some kidneys with their maps, for a look."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from experiments.maps.map_trials import MapExample
from experiments.scores.plots.style import COLORS, new_figure, save


def maps_figure(path: Path, examples: Sequence[MapExample], title: str, note: str) -> None:
    """Draw every map in the axial slice with most of the lesion, whose outline is drawn.

    Args:
        path: PNG file.
        examples: Kidneys with equally many maps or fewer.
        title: What is shown.
        note: What must be said of the cohort.
    """
    columns = max(len(example.maps) for example in examples)
    figure = new_figure(
        2.2 * columns, 2.5 * len(examples) + 0.7, title, f"Warm: speaks for the answer; cold: against it. {note}"
    )
    FigureCanvasAgg(figure)
    for row, example in zip(figure.subplots(len(examples), columns, squeeze=False), examples, strict=True):
        level = int(example.lesion.sum(axis=(1, 2)).argmax())
        for cell in row:
            cell.set(xticks=[], yticks=[])
        for cell, (question, answer, method, values) in zip(row, example.maps, strict=False):
            cell.imshow(example.image[level][::-1, ::-1], cmap="gray", vmin=0.2, vmax=0.9)
            reach = float(np.abs(values).max()) or 1.0
            shown = np.ma.masked_less(np.abs(values[level]), 0.15 * reach) * np.sign(values[level])
            cell.imshow(shown[::-1, ::-1], cmap="RdYlBu_r", vmin=-reach, vmax=reach, alpha=0.55)
            outline = example.lesion[level][::-1, ::-1].astype(float)
            cell.contour(outline, levels=[0.5], colors=[COLORS[2]], linewidths=1.2)
            cell.set_title(f"{question}: {answer},\n{method}", fontsize=7)
    save(figure, path)
