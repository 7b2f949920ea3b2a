"""The assessment as one HTML page that needs nothing else and prints on two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from datamodules.cohort.columns import PHASES
from datamodules.files import replacing
from datamodules.importers.one_scan import ScanKidney
from datamodules.volumes.contract import PreprocessingContract
from experiments.aligned.one_scan.scan_figure import PLANES, draw_plane
from experiments.assessment.assessor import Assessed
from experiments.attribution.map_methods import GRADIENT, OCCLUSION, REGIONS
from experiments.registry import TASKS, class_words
from experiments.studies.report.report_page import Picture

TEMPLATES = Path(__file__).parent / "templates"
_COLORS = {"rfs": "#0072b2", "dss": "#d55e00", "os": "#009e73"}
_SHOWN = ("venous", "arterial", "delayed", "non_contrast", None)
"""Contrast phase that is drawn: the first of these that there is."""
METHOD_WORDS = {GRADIENT: "gradients", OCCLUSION: "occlusion", REGIONS: "the encoder's regions"}
RENAL_TASKS = tuple(name for name in TASKS if name.startswith("renal_"))


def write_page(path: Path, assessed: Assessed, contract: PreprocessingContract) -> None:
    """Write the page.

    Args:
        path: HTML file.
        assessed: What was found.
        contract: Preprocessing contract of the regions.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "words": words,
        "phases": phase_list,
        "phase_order": phase_order,
        "held_out": held_out,
        "ranked": ranked,
        "class_words": class_words,
    }
    content = assessed.content
    pictures = {kidney.side: _scan(kidney, contract) for kidney in assessed.kidneys}
    maps = {kidney.side: _maps(kidney, assessed, contract) for kidney in assessed.kidneys}
    curves = {
        entry["side"]: _curves(entry)
        for entry in content["kidneys"]
        if entry.get("tasks") and _survival(entry["tasks"])
    }
    ordered = sorted(content["kidneys"], key=lambda entry: not entry["index"])
    text = environment.get_template("assessment.html").render(
        content=content, kidneys=ordered, pictures=pictures, maps=maps, curves=curves, renal_tasks=RENAL_TASKS,
        style=(TEMPLATES / "assessment.css").read_text(encoding="utf-8"),
    )  # fmt: skip
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def words(name: object) -> str:
    """A name of the data as a reader would write it."""
    return str(name).replace("non_contrast", "non-contrast").replace("_", " ")


def phase_list(phases: Sequence[str]) -> str:
    """Contrast phases in the order of an examination."""
    return ", ".join(words(phase) for phase in phase_order(phases))


def phase_order(phases: Iterable[str]) -> list[str]:
    """Contrast phases sorted as in an examination, `unknown` last."""
    return sorted(phases, key=[*PHASES, "unknown"].index)


def ranked(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Classes from the highest score down."""
    return sorted(scores.items(), key=lambda item: -item[1])


_NAMES = {"auroc": "AUROC", "c_index": "C-index", "positives": "positive", "minority": "outside the largest class"}


def held_out(found: Mapping[str, Any]) -> str:
    """How well a run did on patients it had not seen, with n, events and interval."""
    if not found or found.get("value") is None:
        return "not known"
    count = next(name for name in ("positives", "minority", "events") if name in found)
    interval = "" if found["low"] is None else f" ({found['low']:.2f} to {found['high']:.2f})"
    return (
        f"{_NAMES[found['metric']]} {found['value']:.2f}{interval}, n {found['n']}, "
        f"{found[count]} {_NAMES.get(count, count)}"
    )


def _survival(tasks: Mapping[str, Any]) -> dict[str, Any]:
    return {name: found for name, found in tasks.items() if "curve" in found}


def _scan(kidney: ScanKidney, contract: PreprocessingContract) -> Picture:
    """Three planes of a kidney in one phase, with the outlines of its map."""
    figure, phase = _planes(kidney, contract, 3.2)
    shown = "of unknown phase" if phase is None else f"in the {words(phase)} phase"
    outlined = "" if kidney.labels is None else " Green: kidney; orange: lesions, as the mask draws them."
    caption = f"{kidney.side.capitalize()} kidney {shown}, on the grid that the models read.{outlined}"
    return Picture(f"{kidney.side}_kidney", figure, caption, f"Axial, coronal and sagittal slice. {caption}")


def _planes(
    kidney: ScanKidney, contract: PreprocessingContract, height: float, warm: np.ndarray | None = None
) -> tuple[Figure, str | None]:
    """Three planes of a kidney side by side, with a map laid over, and the phase that is drawn."""
    phases = [view.phase for view in kidney.views]
    phase = next(phase for phase in _SHOWN if phase in phases)
    figure = Figure(figsize=(9.0, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for axis, (name, plane) in zip(figure.subplots(1, 3), PLANES, strict=True):
        draw_plane(axis, kidney, name, plane, contract, phases.index(phase), warm)
    return figure, phase


def _maps(kidney: ScanKidney, assessed: Assessed, contract: PreprocessingContract) -> list[Picture]:
    """The maps of a kidney over its planes."""
    entry = next(one for one in assessed.content["kidneys"] if one["side"] == kidney.side)
    found = []
    for shown, told in zip(assessed.maps.get(kidney.side, ()), entry.get("maps", ()), strict=True):
        figure, _ = _planes(kidney, contract, 2.4, shown.values)
        point = told["points_at_lesions"]
        here = "" if told["largest_in"] is None else f" Here its largest value lies in the {told['largest_in']}."
        caption = (
            f"What \u201c{words(shown.title)}: {words(shown.answer)}\u201d rests on ({METHOD_WORDS[shown.method]}); "
            f"the warmer, the more it speaks for the answer. Such maps point at the lesion in {point['value']:.0%} "
            f"({point['low']:.0%} to {point['high']:.0%}) of {point['n']} held-out patients.{here}"
        )
        found.append(Picture(f"{kidney.side}_{shown.stem}", figure, caption, f"Three slices with a map. {caption}"))
    return found


def _curves(entry: Mapping[str, Any]) -> Picture:
    """The survival curves of a kidney."""
    figure = Figure(figsize=(5.4, 2.7), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    said = []
    for name, found in _survival(entry["tasks"]).items():
        curve = found["curve"]
        axis.step(
            curve["months"], curve["survival_estimate"], where="post", color=_COLORS[name], lw=1.8, label=found["title"]
        )
        said.append(f"{found['title']} {curve['survival_estimate'][-1]:.2f} at {curve['months'][-1]:.0f} months")
    axis.set(ylim=(0, 1.02), xlabel="months", ylabel="estimate, not calibrated")
    axis.set_xlim(left=0)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, frameon=False, loc="lower left")
    axis.spines[["top", "right"]].set_visible(False)
    caption = "Survival as the Cox models of the cohort estimate it from the image alone."
    return Picture("survival", figure, caption, f"{caption} {'; '.join(said)}.")
