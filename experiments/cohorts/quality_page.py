"""`make qc`: one picture and one table by which a person sees what a cohort's volumes are worth."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from rich.console import Console

from datamodules.anatomy.tissues import KIDNEY_WITH_LESION, LESION
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.columns import PHASES
from datamodules.cohort.keyed_order import keyed_units
from datamodules.cohort.study_times import index_kidneys
from datamodules.csv_files import write_csv
from datamodules.errors import DataError
from datamodules.files import replacing
from datamodules.quality.volume_figures import ALL_PHASES, Quality, joined, measure
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.shards import VolumeSet
from experiments.runs.console import progress_bar

DPI = 100
WIDTH_IN, ROW_IN, HEAD_IN, FOOT_IN = 17.0, 1.42, 0.95, 0.45
"""Size of the picture: a row per centre between head and foot."""
ROWS = 16
"""Most rows; further centres share the last one."""
THUMBNAILS = 8

_WINDOW_HU = (-160.0, 240.0)
_COLORS = {"non_contrast": "#6b7280", "arterial": "#dc2626", "venous": "#2563eb", "delayed": "#059669"}
_KIDNEY, _LESION, _FLAG = "#22d3ee", "#ffb000", "#b91c1c"
_COLUMNS = (1.75, 9.9, 2.9, 1.75)  # widths in inches: text, thumbnails, HU, slices
_BIN_HU, _BIN_MM = 10, 0.25
_SHOWN_FLAGS = 2


@dataclass(frozen=True)
class _Row:
    """One row of the picture: a centre, or the centres that found no row of their own."""

    title: str
    centers: tuple[str, ...]
    flags: tuple[str, ...]


def qc(data: Path = Path("data/demo"), out: Path | None = None, region: str = "kidney", profile: str = "") -> int:
    """Draw and describe the volumes of a cohort centre by centre, for a person to look at before training.

    Writes `qc.png` (sampled kidneys with their masks, HU histograms, slice distances) and `qc.csv` (one row per centre
    and phase, with what stands out as flags).

    Args:
        data: Folder of the cohort.
        out: Folder for both files; the cohort's by default.
        region: Region of the volume set.
        profile: Profile of the volume set; needed only where the cohort holds sets of several profiles.

    Returns:
        0; a flag asks for a look and does not refuse the cohort, which `data-check` may do.
    """
    console = Console()
    cohort = Cohort.load(data)
    volumes = VolumeSet.find(data, region, _contract(profile))
    with progress_bar(console) as bar:
        task = bar.add_task(f"{cohort.info.name}: volumes", total=None)
        quality = measure(cohort, volumes, progress=lambda done, total: bar.update(task, completed=done, total=total))
    folder = data if out is None else out
    write_csv(folder / "qc.csv", quality.table)
    draw(cohort, volumes, quality, folder / "qc.png")
    _print_flags(console, cohort, quality)
    return 0


def _contract(profile: str) -> PreprocessingContract | None:
    from experiments.cohorts.cohort_commands import profile_contract

    return profile_contract(profile) if profile else None


def _print_flags(console: Console, cohort: Cohort, quality: Quality) -> None:
    flagged = {center: flags for center in cohort["centers"]["center"] if (flags := quality.flags(center))}
    for center, flags in flagged.items():
        console.print(f"[yellow]LOOK[/] {center}: {'; '.join(flags)}.", highlight=False, soft_wrap=True)
    console.print(
        f"{len(flagged)} of {len(cohort['centers'])} centres stand out, from {quality.extent}; qc.png and qc.csv are "
        "written.",
        highlight=False,
    )


def draw(cohort: Cohort, volumes: VolumeSet, quality: Quality, path: Path, seed: int = 42) -> None:
    """Draw a cohort's quality sheet.

    Views follow the radiological convention: the patient's right is on the left of the picture.

    Args:
        cohort: The cohort.
        volumes: The volume set that was measured.
        quality: What was found.
        path: PNG to write.
        seed: Seed of the patients that are shown.
    """
    rows = _rows(cohort, quality)
    height = HEAD_IN + ROW_IN * len(rows) + FOOT_IN
    figure = Figure(figsize=(WIDTH_IN, height), facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), len(_COLUMNS), squeeze=False, gridspec_kw={"width_ratios": _COLUMNS})
    limits = _limits(quality)
    for axes, row in zip(grid, rows, strict=True):
        _text(axes[0], row, quality)
        _thumbnails(axes[1], list(_sample(cohort, volumes, row.centers, seed)), volumes)
        _histogram(axes[2], row, quality, limits)
        _slices(axes[3], row, cohort)
    for axes in grid[:-1, 2:].flat:
        axes.tick_params(labelbottom=False)
    grid[-1, 2].set_xlabel("HU, padding left out", fontsize=8)
    grid[-1, 3].set_xlabel("mm", fontsize=8)
    grid[0, 2].set_title("voxels by HU, root scale", fontsize=9)
    grid[0, 3].set_title("series by slices", fontsize=9)
    _head(figure, cohort, volumes, quality, height)
    figure.subplots_adjust(0.008, FOOT_IN / height, 0.992, 1 - HEAD_IN / height, wspace=0.03, hspace=0.1)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def _rows(cohort: Cohort, quality: Quality) -> list[_Row]:
    """Centres in the order of the table; where they are too many, flagged and large ones keep a row."""
    table = quality.table[quality.table["phase"] == ALL_PHASES].set_index("center")
    flags = {center: tuple(quality.flags(center)) for center in table.index}
    size = dict(zip(table.index, table["patients"], strict=True))
    ranked = sorted(table.index, key=lambda center: (not flags[center], -size[center], center))
    kept = set(ranked if len(ranked) <= ROWS else ranked[: ROWS - 1])
    role = cohort.info.evaluation == "roles"
    rows = [
        _Row(f"{center}, {table.loc[center, 'role']}" if role else center, (center,), flags[center])
        for center in (table.index if len(ranked) <= ROWS else ranked)
        if center in kept
    ]
    others = [center for center in ranked if center not in kept]
    if others:
        rows.append(_Row(f"{len(others)} other centres", tuple(others), tuple(f for c in others for f in flags[c])))
    return rows


def _limits(quality: Quality) -> tuple[int, int]:
    """HU that the histograms show: the soft tissues, and wherever a centre has its bulk."""
    known = [part for part in quality.intensities.values() if part.percentile(50) is not None]
    ends = [(part.percentile(5) or 0.0, part.percentile(98) or 0.0) for part in known]
    low = min([-200.0, *(max(end[0], -400.0) for end in ends)])
    high = max([350.0, *(end[1] for end in ends)])
    return int(low // 50) * 50, -int(-high // 50) * 50


def _head(figure: Figure, cohort: Cohort, volumes: VolumeSet, quality: Quality, height: float) -> None:
    info, grid = cohort.info, " x ".join(map(str, volumes.contract.grid))
    kind = f"{'phantoms, ' if info.phantom else ''}{info.intensity} intensities".capitalize()
    name = f"{info.name}: {len(cohort['patients']):,} patients, {len(cohort['centers'])} centres"
    what = f"{kind}; {volumes.contract.region} region of {grid} voxels; histograms from {quality.extent}."
    window = f"Thumbnails: axial, through the lesion where it is known, {_WINDOW_HU[0]:.0f} to {_WINDOW_HU[1]:.0f} HU."
    figure.text(0.008, 1 - 0.27 / height, name, fontsize=14, weight="bold", va="center")
    figure.text(0.008, 1 - 0.55 / height, f"{what} {window}", fontsize=9, va="center")
    lines = [Line2D([], [], color=_COLORS[phase], lw=2, label=phase.replace("_", "-")) for phase in _seen(quality)]
    masks = ((_KIDNEY, "kidney mask"), (_LESION, "lesion mask"))
    lines += [Line2D([], [], color=color, lw=2, ls="--", label=label) for color, label in masks]
    figure.legend(
        handles=lines, ncol=len(lines), fontsize=8.5, frameon=False, loc="upper right", bbox_to_anchor=(0.995, 1.0)
    )


def _seen(quality: Quality) -> list[str]:
    return [phase for phase in PHASES if any(key[1] == phase for key in quality.intensities)]


def _text(axes: Axes, row: _Row, quality: Quality) -> None:
    table = quality.table[quality.table["center"].isin(row.centers) & (quality.table["phase"] == ALL_PHASES)]
    counts = table[["patients", "kidneys", "volumes"]].sum()
    cut = joined([quality.intensities[key] for key in quality.intensities if key[0] in row.centers])
    share = f"{cut.padding / max(cut.voxels, 1):.1%} padding, {cut.cut / max(cut.volumes, 1):.0%} cut"
    lines = (f"{counts['patients']:,} patients", f"{counts['kidneys']:,} kidneys, {counts['volumes']:,} volumes", share)
    axes.set_axis_off()
    axes.text(0, 1, row.title, fontsize=10, weight="bold", va="top", transform=axes.transAxes)
    axes.text(0, 0.85, "\n".join(lines), fontsize=7.5, va="top", linespacing=1.2, transform=axes.transAxes)
    more = len(row.flags) - _SHOWN_FLAGS
    flags = [*row.flags[:_SHOWN_FLAGS], *([f"{more} more in qc.csv"] if more > 0 else [])]
    text = "\n".join(textwrap.fill(flag, 34) for flag in flags)
    axes.text(0, 0.0, text, fontsize=7, color=_FLAG, va="bottom", linespacing=1.05, transform=axes.transAxes)


def _sample(cohort: Cohort, volumes: VolumeSet, centers: Sequence[str], seed: int) -> Iterator[dict[str, Any]]:
    """A volume of the index kidney of some patients, drawn with the seed, phase by phase."""
    index = index_kidneys(cohort)[["patient_id", "study_id", "side"]]
    own = cohort["patients"].loc[cohort["patients"]["center"].isin(centers), ["patient_id"]]
    found = volumes.index.merge(own, on="patient_id").merge(index, on=["patient_id", "study_id", "side"])
    keys = found[["patient_id", "study_id", "series_id", "side"]].itertuples(index=False, name=None)
    found["drawn"] = keyed_units(keys, seed, "thumbnails")
    drawn = found.sort_values("drawn").drop_duplicates("patient_id").head(THUMBNAILS)
    order = pd.Categorical(drawn["phase"], PHASES)
    for _, row in drawn.assign(order=order).sort_values(["order", "patient_id"]).iterrows():
        try:
            image = volumes.read(int(row["position"]))
        except DataError:
            continue  # it is counted and flagged already
        yield {**row, "image": image, "labels": volumes.masks(row["patient_id"]).get((row["study_id"], row["side"]))}


def _thumbnails(axes: Axes, shown: Sequence[dict[str, Any]], volumes: VolumeSet) -> None:
    """Axial slices side by side; in units of thumbnails, so that one pair of axes holds them all."""
    axes.set_axis_off()
    for place, one in enumerate(shown):
        image, labels = one["image"], one["labels"]
        level = _level(image, labels)
        # Rows run towards anterior and columns towards the patient's right: both are turned for display.
        options: dict[str, Any] = {"extent": (place, place + 0.97, 0, 0.97), "origin": "upper"}
        view = image[level, ::-1, ::-1]
        axes.imshow(view, cmap="gray", vmin=_WINDOW_HU[0], vmax=_WINDOW_HU[1], interpolation="bilinear", **options)
        for codes, color in ((KIDNEY_WITH_LESION, _KIDNEY), (LESION, _LESION)):
            mask = np.zeros((2, 2), bool) if labels is None else np.isin(labels[level, ::-1, ::-1], codes)
            if mask.any() and not mask.all():
                axes.contour(mask.astype(float), levels=[0.5], colors=color, linewidths=0.8, **options)
        axes.add_patch(Rectangle((place, 0), 0.97, 0.97, fill=False, edgecolor="#9ca3af", linewidth=0.6))
        phase = one["phase"]
        box: dict[str, Any] = {"facecolor": _COLORS[phase], "edgecolor": "none", "pad": 1.2}
        axes.text(place + 0.03, 0.94, phase.replace("_", "-"), fontsize=6.5, color="white", va="top", bbox=box)
        shade: dict[str, Any] = {"facecolor": "black", "alpha": 0.45, "edgecolor": "none", "pad": 0.8}
        axes.text(place + 0.03, 0.03, one["patient_id"], fontsize=6, color="white", va="bottom", bbox=shade)
    if not shown:
        axes.text(0, 0.5, "no volume of an index kidney", fontsize=9, color="gray", va="center")
    axes.set(xlim=(-0.01, THUMBNAILS), ylim=(-0.01, 0.98), aspect="equal", anchor="W")


def _level(image: np.ndarray, labels: np.ndarray | None) -> int:
    """The slice with most of the lesion, or most of the kidney, or the middle one."""
    for codes in (LESION, KIDNEY_WITH_LESION):
        areas = np.zeros(1) if labels is None else np.isin(labels, codes).sum(axis=(1, 2))
        if areas.any():
            return int(areas.argmax())
    return len(image) // 2


def _histogram(axes: Axes, row: _Row, quality: Quality, limits: tuple[int, int]) -> None:
    """Shares of the voxels on a root scale, on which the kidney shows beside the fat around it."""
    edges = np.arange(limits[0], limits[1] + 1, _BIN_HU)
    for phase in PHASES:
        parts = [
            part for (center, each), part in quality.intensities.items() if each == phase and center in row.centers
        ]
        if parts:
            axes.stairs(np.sqrt(joined(parts).densities(edges)), edges, color=_COLORS[phase], lw=1.1)
    axes.set_xlim(*limits)
    axes.set_ylim(bottom=0)
    _plain(axes)


def _slices(axes: Axes, row: _Row, cohort: Cohort) -> None:
    """Distance of slices, filled, and their nominal thickness, as a line; in series of the row's centres."""
    series = cohort["series"].merge(cohort["patients"][["patient_id", "center"]], on="patient_id")
    columns = ("spacing_d_mm", "slice_thickness_mm")
    top = max(
        5.0, *(float(series[column].quantile(0.99) or 0) for column in columns if series[column].notna().any()), 0
    )
    edges = np.arange(0, top + 2 * _BIN_MM, _BIN_MM)
    own = series[series["center"].isin(row.centers)]
    styles: tuple[dict[str, Any], ...] = ({"fill": True, "color": "#a5b4fc"}, {"color": "#312e81", "lw": 1.1})
    lines = []
    for column, style, name in zip(columns, styles, ("distance", "thickness"), strict=True):
        known = own[column].dropna().to_numpy(dtype=float)
        if len(known):
            axes.stairs(np.histogram(known.clip(max=top), edges)[0] / len(known), edges, **style)
        lines.append(f"{name} {np.median(known):.2g} mm" if len(known) else f"{name} not known")
    axes.text(0.97, 0.93, "\n".join(lines), fontsize=6.5, ha="right", va="top", transform=axes.transAxes)
    axes.set(xlim=(0, top + 2 * _BIN_MM), ylim=(0, 1.55))
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.set_yticks([])
    axes.tick_params(labelsize=7, length=2)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
