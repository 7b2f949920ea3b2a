"""A picture of one demo patient: the phases in a row, the lesion outlined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from datamodules.anatomy.tissues import LESION
from datamodules.cohort.columns import PHASES
from datamodules.files import replacing
from datamodules.importers.records import PatientRecord
from datamodules.phantoms.phantom_source import DemoSource
from datamodules.volumes.contract import PreprocessingContract

DRAWN = PreprocessingContract(grid=(80, 70, 70))
"""The region at the 2 mm at which phantoms are drawn."""

_WINDOW = (-160.0, 280.0)  # a soft-tissue window wide enough for the cortex in the arterial phase


def draw_patient(source: DemoSource, patient_id: str, path: Path) -> None:
    """Draw the index kidney of a patient, axial and coronal through its lesion, in every phase.

    Views follow the radiological convention: the patient's right is on the left of the picture.

    Args:
        source: The demo cohort.
        patient_id: Patient.
        path: PNG to write.

    Raises:
        DataError: if there is no such patient.
    """
    record = source.load(patient_id, DRAWN)
    kidney = next(row for row in record.rows["kidneys"] if row["is_index"])
    volumes = {volume.phase: volume.image for volume in record.volumes if volume.side == kidney["side"]}
    labels = next(mask.labels for mask in record.masks if mask.side == kidney["side"])
    lesion = np.isin(labels, LESION)
    planes = [(0, int(lesion.sum(axis=(1, 2)).argmax())), (1, int(lesion.sum(axis=(0, 2)).argmax()))]
    figure = Figure(figsize=(12.0, 6.9), facecolor="black")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(PHASES), gridspec_kw={"height_ratios": [140, 160]})
    for column, phase in enumerate(PHASES):
        for axes, (axis, index) in zip(grid[:, column], planes, strict=True):
            _panel(axes, volumes.get(phase), lesion, axis, index)
        grid[0, column].set_title(phase.replace("_", "-"), color="white", fontsize=13)
    figure.suptitle(_caption(record, kidney["side"]), color="white", fontsize=11, y=0.035)
    figure.subplots_adjust(left=0.005, right=0.995, top=0.94, bottom=0.065, wspace=0.02, hspace=0.02)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, facecolor="black")


def _panel(axes: Axes, image: np.ndarray | None, lesion: np.ndarray, axis: int, index: int) -> None:
    axes.set_axis_off()
    if image is None:
        axes.text(0.5, 0.5, "not acquired", color="gray", ha="center", va="center", transform=axes.transAxes)
        return
    # Rows run towards anterior or superior and columns towards the patient's right: both are turned for display.
    view = (slice(None),) * axis + (index,)
    axes.imshow(image[view][::-1, ::-1], cmap="gray", vmin=_WINDOW[0], vmax=_WINDOW[1], interpolation="bicubic")
    axes.contour(lesion[view][::-1, ::-1].astype(float), levels=[0.5], colors="#ffb000", linewidths=1.1)


def _caption(record: PatientRecord, side: str) -> str:
    size = record.rows["patients"][0]["tumor_size_mm"]
    return (
        f"Phantom, rendered intensities: patient {record.patient_id}, {side} kidney, lesion of {size / 10:.1f} cm "
        "outlined. Axial above, coronal below."
    )
