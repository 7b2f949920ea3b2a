"""The table of maps of a task: which passed their test, and which are not shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.attribution.tested_maps import ALIKE, DELETION, FLOOR, INSERTION, POINTING, RANDOM, read_of_run
from experiments.finetuning.point import Point
from experiments.registry import ENCODERS
from experiments.runs.folders import folds_of
from experiments.statistics.estimate import Estimate
from experiments.studies.report.finished_points import PointSeries
from experiments.studies.report.journal_words import interval
from experiments.studies.report.report_page import Block, PageTable, Row, Text

_SHOWN = {
    POINTING: "Points at the lesion",
    f"{POINTING} above {FLOOR}": "Above a blob",
    f"{DELETION} above {FLOOR}": "Deletion above a blob",
    f"{INSERTION} above {FLOOR}": "Insertion above a blob",
    f"{POINTING}, {RANDOM}": "Points, random weights",
    ALIKE: "Correlation with random weights",
}


def maps_blocks(series: PointSeries) -> list[Block]:
    """The maps of the index encoder's first run, in folds of the first; how to test them where they were not."""
    found: dict[str, Any] = {}
    for seed in series.seeds(series.fraction)[:1]:
        found = read_of_run(_folder(series, seed)) or {}
    command = f"make maps TASK={series.task} ENCODER={series.index}" + (
        "" if series.mode == "probe" else f" MODE={series.mode}"
    )
    if not found:
        return [
            Text(f"Maps of what answers rest on were not tested ({command}), so that none is shown.", kind="missing")
        ]
    rows, records = [], []
    for question, methods in found["questions"].items():
        for method, tested in methods.items():
            figures = tested["figures"]
            cells = [_cell(figures.get(name)) for name in _SHOWN]
            said = "yes" if tested["shown"] else f"no: {'; '.join(tested['failed'])}"
            rows.append(Row((method, str(figures[POINTING]["n"]), *cells, said)))
            records += [
                {"question": question, "method": method, "shown": tested["shown"], "statistic": name, **one}
                for name, one in figures.items()
            ]
    blocks: list[Block] = [
        PageTable(
            f"doubt-maps-{series.key}",
            f"Maps of what the answers of {ENCODERS[series.index].title} rest on, and their test.",
            ("Map", "n", *(f"{name} (95 % CI)" for name in _SHOWN.values()), "Shown"),
            tuple(rows),
            pd.DataFrame(records),
            f"Tested kidneys with a lesion of {found['least_mm']:g} mm and more about which the answer is right, of "
            "external centres where there are some. Deletion and insertion: mean change of the answer's sureness. A "
            "map that fails is not shown by any command.",
        )
    ]
    lost = [
        {"question": question, "statistic": name, **one}
        for question, own in found["erased"].items()
        for name, one in own.items()
    ]
    if lost:
        parts = tuple(Row((f"{one['statistic']}", str(one["n"]), _cell(one))) for one in lost)
        blocks.append(
            PageTable(
                f"doubt-erased-{series.key}",
                "How much surer the answer is with a part of the image than without.",
                ("Part", "n", "Fall of sureness (95 % CI)"),
                parts,
                pd.DataFrame(lost),
                "Parts give way to parenchyma of the same kidney.",
            )
        )
    return blocks


def _folder(series: PointSeries, seed: int) -> Path:
    point = Point(
        series.task, series.fraction, series.index, data=series.cohort.root, seed=seed, runs=series.runs,
        tag=series.tag, mode=series.mode,
    )  # fmt: skip
    return point.folder(series.cohort, folds_of(series.cohort)[0])


def _cell(figure: Mapping[str, Any] | None) -> str:
    if figure is None or figure["value"] is None:
        return "\N{EN DASH}"
    value, low, high = (
        float("nan") if figure[name] is None else float(figure[name]) for name in ("value", "low", "high")
    )
    return interval(Estimate(value, low, high))
