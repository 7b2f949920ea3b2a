"""From the patients of the source to those of every analysis: the flow diagram and the table of each task."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from datamodules.batch import MISSING
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.columns import ROLES, SPLITS
from datamodules.cohort.labels import Label, targets
from datamodules.errors import DataError
from datamodules.files import read_parquet
from experiments.registry import TASKS, task_label
from experiments.scores.plots.style import new_figure
from experiments.studies.report.journal_words import capital, plural
from experiments.studies.report.report_page import PageTable, Picture, Row

_ROLE_TITLES = {"pretrain": "Pretraining centres", "internal": "Internal centres", "external": "External centres"}
_SPLIT_TITLES = {"train": "training", "val": "validation", "test": "test"}
_BOX = {"boxstyle": "square,pad=0.5", "facecolor": "white", "edgecolor": "0.25", "linewidth": 1}
_ARROW = {"arrowstyle": "-|>", "color": "0.25", "linewidth": 1, "shrinkA": 0, "shrinkB": 0}


@dataclass(frozen=True)
class Flow:
    """Numbers of the flow diagram.

    Args:
        source: Patients found in the source; None where the import left no record.
        excluded: Patients left out, by status and reason.
        remarks: Patients imported with a remark, by remark.
        parts: Patients of every part, by the role or fold that it belongs to.
        centers: Centres of every role or fold.
    """

    source: int | None
    excluded: dict[tuple[str, str], int]
    remarks: dict[str, int]
    parts: dict[str, dict[str, int]]
    centers: dict[str, int]

    @property
    def imported(self) -> int:
        """Patients of the cohort."""
        return sum(sum(part.values()) for part in self.parts.values())

    def frame(self) -> pd.DataFrame:
        """Columns step, part, patients, centers."""
        rows: list[dict[str, object]] = []
        if self.source is not None:
            rows.append({"step": "source", "part": "", "patients": self.source})
        rows += [{"step": key[0], "part": key[1], "patients": count} for key, count in self.excluded.items()]
        rows.append({"step": "cohort", "part": "", "patients": self.imported})
        for name, parts in self.parts.items():
            entry: dict[str, object] = {"step": name, "part": "", "patients": sum(parts.values())}
            rows.append(entry | {"centers": self.centers[name]})
            rows += [{"step": name, "part": part, "patients": count} for part, count in parts.items() if part]
        rows += [{"step": "remark", "part": text, "patients": count} for text, count in self.remarks.items()]
        return pd.DataFrame(rows, columns=["step", "part", "patients", "centers"]).astype({"centers": "Int64"})


def flow_of(cohort: Cohort) -> Flow:
    """Count the patients of a cohort from its source on."""
    path = cohort.root / "import.parquet"
    source, excluded, remarks = None, Counter[tuple[str, str]](), Counter[str]()
    if path.is_file():
        record = read_parquet(path)[0]
        source = len(record)
        for row in record.fillna("").to_dict("records"):
            text = without_names(str(row["reason"]), str(row["patient_id"]))
            if row["status"] != "imported":
                excluded[str(row["status"]), text or "no reason recorded"] += 1
            elif text:
                remarks[text] += 1
    patients = cohort.patients()
    parts: dict[str, dict[str, int]] = {}
    centers: dict[str, int] = {}
    if cohort.info.evaluation == "folds":
        for fold, rows in patients.groupby("fold"):
            name = f"Fold {int(str(fold)) + 1}"
            parts[name], centers[name] = {"": len(rows)}, rows["center"].nunique()
    else:
        for role in ROLES:
            rows = patients[patients["role"] == role]
            if len(rows):
                found = rows["split"].value_counts()
                parts[_ROLE_TITLES[role]] = {_SPLIT_TITLES[s]: int(found[s]) for s in SPLITS if s in found}
                centers[_ROLE_TITLES[role]] = rows["center"].nunique()
    return Flow(source, dict(excluded.most_common()), dict(remarks.most_common()), parts, centers)


def without_names(reason: str, patient_id: str) -> str:
    """A reason of the importer without the patient and without paths, so that equal reasons can be counted."""
    text = re.sub(rf"^{re.escape(patient_id)}\s*:\s*", "", reason.strip())
    words = ["a file" if re.search(r"[/\\]", word) else word for word in text.split()]
    words = ["the patient" if patient_id and patient_id in word else word for word in words]
    return capital(" ".join(words).rstrip("."))


def flow_picture(cohort: Cohort, flow: Flow, note: str) -> Picture:
    """The flow diagram of the cohort."""
    columns = len(flow.parts)
    lines = [f"{plural(count, 'patient')}: {key[1]}" for key, count in flow.excluded.items()]
    figure = new_figure(
        max(7.5, 1.9 * columns), 4.6 + 0.16 * len(lines), f"Patients of cohort {cohort.info.name}", note
    )
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")
    sources = "Patients in the source" if flow.source is not None else "The import left no record"
    top = f"{sources}\nn = {flow.source:,}" if flow.source is not None else sources
    _box(axes, 0.4, 0.92, top)
    sites = sum(flow.centers.values())
    _box(axes, 0.4, 0.5, f"Patients of the cohort\nn = {flow.imported:,}, {plural(sites, 'centre')}")
    axes.annotate("", (0.4, 0.57), (0.4, 0.85), arrowprops=_ARROW)
    left_out = sum(flow.excluded.values())
    text = "\n".join([f"Excluded: n = {left_out}", *lines[:8], *(["and others"] if len(lines) > 8 else [])])
    axes.annotate("", (0.6, 0.71), (0.4, 0.71), arrowprops=_ARROW)
    _box(axes, 0.62, 0.71, text if flow.source is not None else "Excluded: not recorded", "left")
    for place, (name, parts) in enumerate(flow.parts.items()):
        x = (place + 0.5) / columns
        axes.plot([0.4, 0.4, x, x], [0.43, 0.36, 0.36, 0.36], color="0.25", linewidth=1)
        axes.annotate("", (x, 0.27), (x, 0.36), arrowprops=_ARROW)
        _box(axes, x, 0.23, _part_text(name, parts, flow.centers[name]), top=True)
    caption = "Patients from the source to the parts of the evaluation."
    if flow.remarks:
        caption += (
            f" {plural(sum(flow.remarks.values()), 'patient')} of the cohort were imported with a remark; see CSV."
        )
    return Picture("flow", figure, caption, _alt(flow))


def _box(axes: Axes, x: float, y: float, text: str, align: str = "center", top: bool = False) -> None:
    vertical = "top" if top else "center"
    axes.text(x, y, text, ha=align, va=vertical, fontsize=9, bbox=_BOX, multialignment=align)


def _part_text(name: str, parts: dict[str, int], centers: int) -> str:
    text = f"{name}\nn = {sum(parts.values()):,}, {plural(centers, 'centre')}"
    return "\n".join([text, *(f"{part} {count}" for part, count in parts.items() if part)])


def _alt(flow: Flow) -> str:
    start = f"{flow.source:,} patients in the source, " if flow.source is not None else ""
    parts = "; ".join(
        _part_text(name, parts, flow.centers[name]).replace("\n", ", ") for name, parts in flow.parts.items()
    )
    return f"Flow diagram: {start}{sum(flow.excluded.values())} excluded, {flow.imported:,} in the cohort. {parts}."


def flow_table(flow: Flow) -> PageTable:
    """The numbers of the flow diagram as a table."""
    rows = [
        Row((_step(row), f"{row['patients']:,}")) for row in flow.frame().to_dict("records") if row["step"] != "remark"
    ]
    note = "; ".join(f"{text}: {count}" for text, count in flow.remarks.items())
    return PageTable(
        "flow",
        "Patients from the source to the parts of the evaluation.",
        ("Step", "Patients"),
        tuple(rows),
        flow.frame(),
        f"Imported with a remark: {note}." if note else "",
    )


def _step(row: dict[Hashable, Any]) -> str:
    names = {"source": "In the source", "cohort": "In the cohort", "skipped": "Excluded", "failed": "Could not be read"}
    name = names.get(row["step"], row["step"])
    return f"{name}, {row['part']}" if row["part"] else str(name)


def eligibility_table(cohort: Cohort, tasks: list[str]) -> PageTable:
    """Who is eligible for each task, and in which part of the evaluation, with outcomes."""
    folds = cohort.info.evaluation == "folds"
    places = ["Tested out of fold"] if folds else ["Training", "Validation", "Internal test", "External test"]
    rows, records = [], []
    for task in tasks:
        label, title = task_label(task), TASKS[task].title
        patients = cohort.patients()
        for column, values in label.eligible.items():
            patients = patients[patients[column].isin(values).fillna(False)]
        try:
            known = targets(cohort, label)
        except DataError:
            rows.append(Row((title, str(len(patients)), "0", *("\N{EN DASH}" for _ in places))))
            records.append({"task": task, "eligible": len(patients), "known": 0})
            continue
        known = known[known["target"] != MISSING]
        parts = [known] if folds else [
            *(known[(known["role"] == "internal") & (known["split"] == split)] for split in SPLITS),
            known[known["role"] == "external"],
        ]  # fmt: skip
        rows.append(Row((title, str(len(patients)), str(len(known)), *(_outcomes(part, label) for part in parts))))
        for place, part in zip(places, parts, strict=True):
            counts = part["target"].value_counts()
            names = label.class_names or ["censored", "event"]
            record = {"task": task, "eligible": len(patients), "known": len(known), "part": place, "n": len(part)}
            records.append(record | {f"{k}: {name}": int(counts.get(k, 0)) for k, name in enumerate(names)})
    note = "n (events) of survival tasks; n (positives) of two classes; n (patients by class) of three."
    if not folds:
        note += " Known outcomes include the pretraining centres, which no task is trained or tested on."
    return PageTable(
        "eligibility",
        "Patients of each task: eligible, with a known outcome, and by part of the evaluation.",
        ("Task", "Eligible", "Outcome known", *places),
        tuple(rows),
        pd.DataFrame(records),
        note,
    )


def _outcomes(part: pd.DataFrame, label: Label) -> str:
    counts = part["target"].value_counts()
    if len(label.classes) > 2:
        return f"{len(part)} ({' / '.join(str(int(counts.get(k, 0))) for k in range(len(label.classes)))})"
    return f"{len(part)} ({int(counts.get(1, 0))})"
