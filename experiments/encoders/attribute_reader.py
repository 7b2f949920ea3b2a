"""What stage 1 reads out of the image of a kidney: its exported encoder with the attribute heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.columns import PHASES
from datamodules.cohort.trained_on import TrainedOn
from datamodules.volumes.contract import PreprocessingContract
from experiments.runs.folders import ENCODER_FOLDER, own_tag, stage_folder
from experiments.runs.pretrained import Pretrained
from experiments.runs.run_data import read_trained_on
from experiments.runs.suite_cli import read_checkpoint
from lightning_modules.core.contracts import differing_fields
from lightning_modules.core.errors import ModelError
from lightning_modules.export.attribute_heads import HEADS, AttributeHeads, load_heads
from lightning_modules.export.image import WEIGHTS, load_exported


@dataclass(frozen=True)
class AttributeReader:
    """The stage-1 encoder with its heads.

    Args:
        encoder: Maps images [B, 1, D, H, W] to features, or [B, 4, D, H, W] where it joins phases.
        heads: Map features to attributes.
        contract: Preprocessing contract that it was trained with.
        trained_on: Whom the encoder has seen.
        folder: Folder of its export; None where the heads are those of a run.
    """

    encoder: nn.Module
    heads: AttributeHeads
    contract: Mapping[str, Any]
    trained_on: TrainedOn
    folder: Path | None = None


def attribute_reader(
    cohort: Cohort | None,
    folder: Path | None,
    runs: Path,
    origin: Pretrained,
    fold: int | None,
    contract: PreprocessingContract,
) -> AttributeReader | None:
    """The stage-1 encoder with its heads, from its export or, where that has none, from its run.

    Args:
        cohort: Cohort whose stage 1 is taken where no folder is named.
        folder: Folder of an exported encoder with its heads.
        runs: Folder of all runs.
        origin: The pretraining; one with a TAG that has no encoder of its own takes the one without.
        fold: Fold of the pretraining, for a cohort with folds.
        contract: Preprocessing contract of the images to read.

    Returns:
        The reader; None where there is no encoder, or none with heads.

    Raises:
        ModelError: if the named folder holds no encoder, or it expects another preprocessing.
    """
    run = None
    if cohort is not None:
        tag = own_tag(runs, cohort, "image", origin.seed, fold, origin.tag, Path(ENCODER_FOLDER, WEIGHTS))
        run = stage_folder(runs, cohort, "image", origin.seed, fold, tag)
    export = folder or (None if run is None else run / ENCODER_FOLDER)
    if export is None or not (export / WEIGHTS).is_file():
        if folder is not None:
            raise ModelError(f"Folder {folder.name} holds no exported encoder; expected what `make pretrain` exports.")
        return None
    if not (export / HEADS).is_file() and folder is None and run is not None:
        heads = _heads_of_run(run)
    else:
        heads = load_heads(export)
    if heads is None:
        return None
    encoder, exported = load_exported(export)
    differing = differing_fields(exported.contract, contract.to_dict())
    if differing:
        raise ModelError(
            f"The attribute encoder in {export.name} expects another preprocessing than the aligned model "
            f"({', '.join(name for name, _, _ in differing)}); name one of the same contract with --attributes."
        )
    beside = export if (export / HEADS).is_file() else None
    return AttributeReader(encoder, heads, exported.contract, read_trained_on(export), beside)


def _heads_of_run(run: Path) -> AttributeHeads | None:
    checkpoint = run / "checkpoints" / "best.ckpt"
    if not checkpoint.is_file():
        return None
    content = read_checkpoint(checkpoint)
    counts = content["hyper_parameters"]["class_counts"]
    return AttributeHeads.of_state(content["state_dict"], {name: list(own) for name, own in counts.items()}, PHASES)


@torch.inference_mode()
def attribute_scores(
    reader: AttributeReader, images: torch.Tensor, phases: Sequence[str | None]
) -> dict[str, dict[str, Any]]:
    """Scores of every attribute of one kidney, averaged over its views; they are not calibrated.

    Args:
        reader: Encoder and heads.
        images: float [V, 1, D, H, W] in [0, 1], or [V, 4, D, H, W].
        phases: Contrast phase of every view; None is averaged over the phases, where the heads were told them.

    Returns:
        By attribute: `value`, the class that scores highest, and `scores` by class, which sum to 1.
    """
    features = reader.encoder(images)
    views = [reader.heads.scores(feature[None], phase) for feature, phase in zip(features, phases, strict=True)]
    found = {}
    for name, classes in reader.heads.classes.items():
        mean = torch.cat([view[name] for view in views]).mean(dim=0).tolist()
        found[name] = {
            "value": classes[int(np.argmax(mean))],
            "scores": {value: round(share, 4) for value, share in zip(classes, mean, strict=True)},
        }
    return found
