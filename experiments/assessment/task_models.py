"""The models of an assessment: one encoder, and what finished runs of a cohort have made of its features."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from datamodules.augmentation import AugmentationConfig, VolumeAugmentation
from datamodules.base import SINGLE_PHASE_ORDER
from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.importers.one_scan import ScanKidney
from datamodules.volumes.contract import PreprocessingContract
from experiments.assessment.held_out import RISK_GROUPS, certainty_of, courses_of, result_of
from experiments.attribution.tested_maps import head_weights, read_tested
from experiments.doubt.task_doubt import Validated
from experiments.encoders.exported import BEST, exported_encoder
from experiments.encoders.scan_encoder import network_input
from experiments.finetuning.point import Point
from experiments.registry import ENCODERS, TASKS, choose
from experiments.runs.console import say
from experiments.runs.launch import DONE
from experiments.runs.pretrained import pretrained_from
from experiments.statistics.horizons import HORIZONS_MONTHS
from lightning_modules.core.errors import ModelError
from lightning_modules.export.image import load_exported
from lightning_modules.export.task_head import HEAD_FOLDER, TaskHead, load_task_head


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
        tested_maps: By task what became of the test of its maps, where `make maps` made one.
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
    tested_maps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

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
        augmentation = VolumeAugmentation(self.contract, AugmentationConfig(crop=crop))
        image, _ = network_input(views_read(kidney, phases), augmentation, self.encoder)
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


def views_read(kidney: ScanKidney, phases: str) -> ScanKidney:
    """A kidney with the views that a task reads, by how it takes the phases of a visit."""
    if phases != "single" or any(view.phase is None for view in kidney.views):
        return kidney
    return replace(kidney, views=(min(kidney.views, key=lambda view: SINGLE_PHASE_ORDER.index(str(view.phase))),))


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
    held_out = {task: result_of(found[name][task].parent if fold is not None else found[name][task]) for task in heads}
    classified = [task for task, head in heads.items() if head.outcome != "survival"]
    sure = {task: certainty_of(found[name][task], heads[task]) for task in classified}
    certainty = {task: one for task, one in sure.items() if one is not None}
    courses = {task: courses_of(found[name][task], head) for task, head in heads.items() if head.outcome == "survival"}
    maps = {task: read_tested(found[name][task], head_weights(found[name][task], exported.sha256)) for task in heads}
    tested = {task: content["questions"][task] for task, content in maps.items() if content is not None}
    contract = PreprocessingContract.from_dict(exported.contract)
    say(f"ENCODER={name} with {len(heads)} tasks of cohort {cohort.info.name}.")
    return Models(name, folder, network, exported.sha256, contract, heads, held_out, certainty, absent, courses, tested)


def _imaging(encoder: str) -> str:
    entry = ENCODERS[choose("ENCODER", encoder, dict(ENCODERS))]
    if (entry.tabular and not entry.prompts) or entry.stage is None:
        raise DataError(f"ENCODER={encoder} reads no new scan with weights of its own; choose one that a stage trains.")
    return encoder


def _runs_of(cohort: Cohort, point: Point, encoder: str, fold: int | None) -> dict[str, Path]:
    """Folders of the finished runs of an encoder by task; those of one fold where there are folds."""
    found = {}
    for task in TASKS:
        folder = replace(point, task=task, encoder=encoder).folder(cohort, fold)
        if (folder / DONE).is_file():
            found[task] = folder
    return found
