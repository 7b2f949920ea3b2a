"""The picture of a retrieval: query and top five, hits framed in green, others in red."""

from __future__ import annotations

import textwrap
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from datamodules.anatomy.tissues import LESION
from datamodules.base import SINGLE_PHASE_ORDER
from datamodules.volumes.shards import VolumeSet
from experiments.scores.plots.style import save
from experiments.statistics.retrieval import nearest

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

TOP = 5
_HIT, _MISS, _QUERY = "tab:green", "tab:red", "0.3"
_WINDOW_HU = (-160.0, 240.0)
_WIDTH, _LINES = 46, 15


def retrieval_figure(
    path: Path,
    table: pd.DataFrame,
    scans: np.ndarray,
    reports: np.ndarray,
    volumes: VolumeSet,
    note: str,
    seed: int,
    queries: int = 2,
) -> None:
    """Draw some queries in both directions, among the kidneys of one set of centres.

    Queries are drawn at random among kidneys with a lesion, not chosen for their result.

    Args:
        path: PNG to write.
        table: Kidneys as in `experiments.aligned.retrieval.search.Kidneys`.
        scans: float [N, d], unit vectors of the scans.
        reports: float [N, d], unit vectors of the reports.
        volumes: The volume set that the scans are of.
        note: What must be said beside it.
        seed: Seed of the queries.
        queries: Queries in each direction.
    """
    pool = _pool(table)
    own = table.loc[pool].reset_index(drop=True)
    scans, reports = scans[pool], reports[pool]
    lesions = np.flatnonzero(own["lesion"].to_numpy(dtype=bool))
    candidates = lesions if len(lesions) else np.arange(len(own))
    chosen = np.random.default_rng(seed).choice(candidates, size=min(2 * queries, len(candidates)), replace=False)
    first = np.unique(own["text_id"].to_numpy(dtype=int), return_index=True)[1]
    figure, axes = plt.subplots(
        len(chosen), TOP + 1, figsize=(17, 2.9 * len(chosen)), layout="constrained", squeeze=False
    )
    where = "external centres" if (own["role"] == "external").all() else "tested centres"
    title = f"Retrieval among {len(own)} kidneys of the {where}; hits in green"
    figure.suptitle("\n".join([title, *textwrap.wrap(note, 150)]), fontsize=10)
    for row, query in enumerate(chosen):
        group = int(own.loc[query, "group"])
        if row < (len(chosen) + 1) // 2:
            found, similarity = nearest(reports[[query]], scans, TOP)
            _text(axes[row, 0], own.loc[query, "text"], "query: report", _QUERY)
            shown = found[0]
        else:
            found, similarity = nearest(scans[[query]], reports[first], TOP)
            _scan(axes[row, 0], own.loc[query], volumes, "query: scan", _QUERY)
            shown = first[found[0]]
        for column, (place, value) in enumerate(zip(shown, similarity[0], strict=True), start=1):
            hit = int(own.loc[place, "group"]) == group
            title, color = f"{column}. cosine {value:.2f}{', hit' if hit else ''}", _HIT if hit else _MISS
            if row < (len(chosen) + 1) // 2:
                own_scan = ", its own scan" if place == query else ""
                _scan(axes[row, column], own.loc[place], volumes, title + own_scan, color)
            else:
                _text(axes[row, column], own.loc[place, "text"], title, color)
        for axis in axes[row, len(shown) + 1 :]:
            axis.axis("off")
    save(figure, path, dpi=110)
    plt.close(figure)


def _pool(table: pd.DataFrame) -> np.ndarray:
    """The kidneys of the external centres where there are any, else all."""
    external = (table["role"] == "external").to_numpy(dtype=bool)
    return np.flatnonzero(external if external.any() else np.ones(len(table), dtype=bool))


def _frame(axis: Axes, title: str, color: str) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(title, fontsize=8, color=color)
    for spine in axis.spines.values():
        spine.set(color=color, linewidth=2.5)


def _text(axis: Axes, text: str, title: str, color: str) -> None:
    lines = textwrap.wrap(str(text), _WIDTH)
    cut = [*lines[: _LINES - 1], lines[_LINES - 1] + " ..."] if len(lines) > _LINES else lines
    axis.text(0.02, 0.97, "\n".join(cut), va="top", ha="left", fontsize=6.5, transform=axis.transAxes)
    _frame(axis, title, color)


def _scan(axis: Axes, kidney: pd.Series, volumes: VolumeSet, title: str, color: str) -> None:
    image, phase, level = kidney_slice(kidney, volumes)
    depth, height, width = volumes.contract.spacing_mm
    # As radiologists look at it: the patient's right on the left, anterior at the top.
    axis.imshow(
        image[::-1, ::-1], cmap="gray", vmin=_WINDOW_HU[0], vmax=_WINDOW_HU[1], aspect=height / width,
        interpolation="bilinear",
    )  # fmt: skip
    label = f"{kidney['side']}, {phase.replace('_', '-')}, level {depth * level:.0f} mm"
    axis.set_xlabel(label, fontsize=7)
    _frame(axis, title, color)


def kidney_slice(kidney: pd.Series, volumes: VolumeSet) -> tuple[np.ndarray, str, int]:
    """One axial slice of a kidney: where the largest part of its lesion is, or the middle.

    Args:
        kidney: patient_id, study_id, side.
        volumes: The volume set.

    Returns:
        int16 [H, W] in HU, the phase (arterial where there is one, else venous, delayed, non-contrast), and the level.
    """
    index = volumes.index
    same = np.logical_and.reduce([index[key] == kidney[key] for key in ("patient_id", "study_id", "side")])
    rows = index[same]
    order = [SINGLE_PHASE_ORDER.index(phase) for phase in rows["phase"]]
    row = rows.iloc[int(np.argmin(order))]
    image = volumes.read(int(row["position"]))
    labels = volumes.masks(kidney["patient_id"]).get((kidney["study_id"], kidney["side"]))
    level = len(image) // 2
    if labels is not None:
        area = np.isin(labels, LESION).sum(axis=(1, 2))
        level = int(area.argmax()) if area.any() else level
    return image[level], str(row["phase"]), level
