"""The models of an assessment: one encoder, and what finished runs of a cohort have made of its features."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from callbacks.predictions import PREDICTIONS
from datamodules.augmentation import AugmentationConfig, VolumeAugmentation
from datamodules.base import SINGLE_PHASE_ORDER
from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.files import read_parquet
from datamodules.importers.one_scan import ScanKidney
from datamodules.volumes.contract import PreprocessingContract
from experiments.doubt.task_doubt import Validated
from experiments.encoders.exported import BEST, exported_encoder
from experiments.encoders.scan_encoder import network_input
from experiments.finetuning.point import Point
from experiments.registry import ENCODERS, TASKS, choose
from experiments.runs.console import say
from experiments.runs.launch import DONE
from experiments.runs.pretrained import pretrained_from
from experiments.scores.outcomes import RISK, score_columns
from experiments.scores.results_table import groups
from experiments.statistics.horizons import HORIZONS_MONTHS
from experiments.statistics.kaplan_meier import survival_at
from lightning_modules.core.errors import ModelError
from lightning_modules.export.image import load_exported
from lightning_modules.export.task_head import HEAD_FOLDER, TaskHead, load_task_head

RISK_GROUPS = {1: ("",), 2: ("low", "high"), 3: ("low", "intermediate", "high")}


@dataclass(frozen=True)
class Models:
    """One encoder with the heads that were fitted on its features.

    Args:
        name: Name of the encoder in the registry.
        folder: Its export.
        encoder: Maps images to features, in evaluation mode.
        sha256: Hash of its weights.
        contract: Its preprocessing contract.
        heads: By task.
        held_out: By task, how well the run did on patients that it had not seen.
        certainty: By task, how sure its scores are, where validation patients tell.
        absent: By task, why it has no head, in words.
        courses: By survival task and risk group, how held-out patients of that group fared.
    """

    name: str
    folder: Path
    encoder: nn.Module
    sha256: str
    contract: PreprocessingContract
    heads: Mapping[str, TaskHead]
    held_out: Mapping[str, Mapping[str, Any]]
    certainty: Mapping[str, Validated]
    absent: Mapping[str, str]
    courses: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def crop(self) -> tuple[int, int, int]:
        """The crop that most heads were fitted with."""
        crops = [head.crop for head in self.heads.values()]
        return max(set(crops), key=crops.count)

    @property
    def augmentation(self) -> VolumeAugmentation:
        """What makes the network's input of a region."""
        return VolumeAugmentation(self.contract, AugmentationConfig(crop=self.crop))

    @property
    def fingerprint(self) -> str:
        """Hash of all weights, from which results are told apart."""
        digest = hashlib.sha256(self.sha256.encode())
        for task, head in sorted(self.heads.items()):
            digest.update(task.encode())
            for tensor in (head.mean, head.scale, head.weight, head.bias, head.hazard):
                digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.inference_mode()
    def feature(self, kidney: ScanKidney, phases: str, crop: tuple[int, int, int]) -> torch.Tensor:
        """The feature of a kidney as the cohort's path averages it over its views, float64 [1, F].

        Args:
            kidney: The kidney.
            phases: How the task takes the phases of a visit.
            crop: Voxels that the network sees.
        """
        views = kidney.views
        if phases == "single" and all(view.phase is not None for view in views):
            views = (min(views, key=lambda view: SINGLE_PHASE_ORDER.index(str(view.phase))),)
        chosen = ScanKidney(kidney.side, views, kidney.labels, kidney.measures)
        augmentation = VolumeAugmentation(self.contract, AugmentationConfig(crop=crop))
        image, _ = network_input(chosen, augmentation, self.encoder)
        return self.encoder(image).double().mean(dim=0, keepdim=True)

    def scores(self, kidney: ScanKidney) -> dict[str, dict[str, Any]]:
        """What every head says of a kidney, by task: scores, and where they are calibrated probabilities and a set."""
        features: dict[tuple[str, tuple[int, int, int]], torch.Tensor] = {}
        found = {}
        for task, head in self.heads.items():
            key = (head.phases, head.crop)
            if key not in features:
                features[key] = self.feature(kidney, *key)
            if head.outcome == "survival":
                own = _survival(head, features[key])
                if own["risk_group"] in self.courses.get(task, {}):
                    own["group_course"] = dict(self.courses[task][own["risk_group"]])
            else:
                own = _classes(head, features[key], self.certainty.get(task))
            found[task] = {"title": TASKS[task].title, **own, "held_out": dict(self.held_out.get(task, {}))}
        return found


def _classes(head: TaskHead, feature: torch.Tensor, certainty: Validated | None) -> dict[str, Any]:
    scores = head.scores(feature)
    score = scores[0].tolist()
    found = {"scores": dict(zip(head.classes, score, strict=True)), "highest": head.classes[score.index(max(score))]}
    return found | ({} if certainty is None else certainty.said_of(scores.numpy(), head.classes))


def _survival(head: TaskHead, feature: torch.Tensor) -> dict[str, Any]:
    log_risk = head.log_risk(feature)
    curve, months = head.survival(log_risk)[0].tolist(), head.months.tolist()
    at = dict(zip(months, curve, strict=True))
    groups = RISK_GROUPS.get(len(head.risk_cuts) + 1, ())
    number = int(head.risk_group(log_risk)[0])
    return {
        "endpoint": head.endpoint,
        "variables": "image alone",
        "log_risk": float(log_risk[0]),
        "risk_group": groups[number] if len(groups) > 1 else None,
        "survival_estimate": {f"{month:g}_months": at.get(month) for month in HORIZONS_MONTHS},
        "curve": {"months": months, "survival_estimate": curve},
    }


def load_models(
    cohort: Cohort, runs: Path, encoder: str, pretrained: str, fold: int | None, mode: str, seed: int, tag: str
) -> Models:
    """The encoder, and the heads of all tasks for which a finished run is here.

    Args:
        cohort: Cohort whose runs are taken.
        runs: Folder of all runs.
        encoder: Name in the registry; `best` for the one of `BEST` that has most heads.
        pretrained: The pretraining, as `s42`.
        fold: Fold of a cohort with folds.
        mode: `probe`, whose runs leave heads.
        seed: Seed of the runs.
        tag: TAG of the runs.

    Raises:
        DataError: if there is no encoder, or no head for any task.
        ModelError: if weights are damaged or do not belong together.
    """
    if cohort.info.evaluation == "folds" and fold is None:
        raise DataError(f"Cohort {cohort.info.name} has a model for each of its folds; name one with FOLD=.")
    names = [name for name in BEST if ENCODERS[name].stage] if encoder == "best" else [_imaging(encoder)]
    point = Point("", 1.0, names[0], data=cohort.root, seed=seed, runs=runs, tag=tag, pretrained=pretrained, mode=mode)
    found = {name: _runs_of(cohort, point, name, fold) for name in names}
    name = max(names, key=lambda one: len(found[one]))
    origin = pretrained_from(pretrained)
    folder = exported_encoder(runs, cohort, name, origin.seed, fold, origin.tag)
    if folder is None or not folder.is_dir():
        raise DataError(f"ENCODER={name} exports no weights of its own; choose one that a stage trains.")
    network, exported = load_exported(folder)
    heads, absent = {}, {}
    for task in TASKS:
        run = found[name].get(task)
        if run is None:
            absent[task] = f"no finished run; `make finetune TASK={task} MODE={mode} ENCODER={name}` makes one"
            continue
        try:
            heads[task] = load_task_head(run / HEAD_FOLDER, exported.sha256)
        except ModelError as error:
            absent[task] = str(error)
            say(f"WARNING: task {task} is left out. {error}")
    if not heads:
        raise DataError(
            f"No task of cohort {cohort.info.name} has a model on ENCODER={name}: {next(iter(absent.values()))}. Run "
            f"`make finetune TASK=all MODE={mode} ENCODER={name}` first."
        )
    held_out = {task: _held_out(found[name][task].parent if fold is not None else found[name][task]) for task in heads}
    classified = [task for task, head in heads.items() if head.outcome != "survival"]
    sure = {task: _certainty(found[name][task], heads[task]) for task in classified}
    certainty = {task: one for task, one in sure.items() if one is not None}
    courses = {task: _courses(found[name][task], head) for task, head in heads.items() if head.outcome == "survival"}
    contract = PreprocessingContract.from_dict(exported.contract)
    say(f"ENCODER={name} with {len(heads)} tasks of cohort {cohort.info.name}.")
    return Models(name, folder, network, exported.sha256, contract, heads, held_out, certainty, absent, courses)


def _imaging(encoder: str) -> str:
    entry = ENCODERS[choose("ENCODER", encoder, dict(ENCODERS))]
    if (entry.tabular and not entry.prompts) or entry.stage is None:
        raise DataError(f"ENCODER={encoder} reads no new scan with weights of its own; choose one that a stage trains.")
    return encoder


def _runs_of(cohort: Cohort, point: Point, encoder: str, fold: int | None) -> dict[str, Path]:
    """Folders of the finished runs of an encoder by task; those of one fold where there are folds."""
    found = {}
    for task in TASKS:
        own = Point(**{**point.__dict__, "task": task, "encoder": encoder})
        folder = own.folder(cohort, fold)
        if (folder / DONE).is_file():
            found[task] = folder
    return found


def group_courses(predictions: pd.DataFrame, head: TaskHead) -> dict[str, dict[str, Any]]:
    """How held-out patients of every risk group fared: Kaplan-Meier with its 95 % interval, n and events.

    The curve of a Cox model has no interval for one patient; this one is that of patients whom the model put into the
    same group, and whom it had not learned from.

    Args:
        predictions: As `PredictionWriter` writes them.
        head: The model, whose cuts part the groups.

    Returns:
        By group: `patients` (who they are), `n`, `events`, and for each of `HORIZONS_MONTHS` value, low, high.
    """
    tested = {group.name: group for group in groups(predictions)}
    names = RISK_GROUPS.get(len(head.risk_cuts) + 1, ())
    chosen = next((tested[name] for name in _HELD_OUT if name in tested), None)
    if chosen is None or len(names) < 2:
        return {}
    rows = chosen.rows[chosen.rows[f"{head.endpoint}_event"].notna()]
    number = head.risk_group(torch.from_numpy(rows[RISK].to_numpy(dtype=np.float64))).numpy()
    found = {}
    for place, name in enumerate(names):
        own = rows[number == place]
        if own.empty:
            continue
        months = own[f"{head.endpoint}_months"].to_numpy(dtype=np.float64)
        event = own[f"{head.endpoint}_event"].to_numpy(dtype=bool)
        at = {f"{month:g}_months": survival_at(months, event, month) for month in HORIZONS_MONTHS}
        found[name] = {
            "patients": chosen.name,
            "n": len(own),
            "events": int(event.sum()),
            "survival": {
                month: {
                    key: None if np.isnan(getattr(one, key)) else getattr(one, key) for key in ("value", "low", "high")
                }
                for month, one in at.items()
            },
        }
    return found


_HELD_OUT = ("pooled external", "out-of-fold", "internal test")
_COUNTS = ("positives", "minority", "events")


def _certainty(folder: Path, head: TaskHead) -> Validated | None:
    """How sure the scores of a run are, by its validation patients."""
    predictions = read_parquet(folder / PREDICTIONS)[0]  # a damaged file is a DataError of its own
    try:
        found = Validated.of(predictions)
        columns = len(score_columns(predictions))
    except (ValueError, LookupError, TypeError) as error:
        raise _damaged(folder, PREDICTIONS) from error
    if columns != len(head.classes):
        raise _damaged(folder, PREDICTIONS)
    return found


def _courses(folder: Path, head: TaskHead) -> dict[str, dict[str, Any]]:
    """How the held-out patients of a run fared, by risk group."""
    try:
        return group_courses(read_parquet(folder / PREDICTIONS)[0], head)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise _damaged(folder, PREDICTIONS) from error


def _damaged(folder: Path, name: str) -> DataError:
    return DataError(
        f"{name} of run {folder.name} is damaged: it does not hold what the run wrote. Delete {DONE} there and run the "
        "same `make finetune` again."
    )


def _held_out(folder: Path) -> dict[str, Any]:
    """Metric, n, events and interval of the run on everyone that it was tested on outside of its training."""
    path = folder / "results.csv"
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        if not text.endswith("\n"):  # half a number is a number, too
            raise ValueError("the last line has no end")
        return _best_row(pd.read_csv(io.StringIO(text)))
    except (ValueError, LookupError, TypeError, StopIteration) as error:  # pandas raises ValueErrors of several kinds
        raise _damaged(folder, path.name) from error


def _best_row(table: pd.DataFrame) -> dict[str, Any]:
    if "endpoint" in table:
        table = table[table["endpoint"] == table["endpoint"].iloc[0]]
    for wanted in _HELD_OUT:
        rows: Sequence[dict[str, Any]] = table[table["group"] == wanted].to_dict("records")  # type: ignore[assignment]
        if rows:
            row = rows[0]
            metric = "c_index" if "c_index" in row else "auroc"
            count = next(name for name in _COUNTS if name in row)
            numbers = {"value": row[metric], "low": row["low"], "high": row["high"]}
            return {
                "group": wanted,
                "metric": metric,
                "n": int(row["n"]),
                count: int(row[count]),
                **{name: None if pd.isna(value) else float(value) for name, value in numbers.items()},
            }
    return {}
