"""What `embed` shows of an answer's grounds: maps that passed their test, as NIfTI in the frame of the scan."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from datamodules.augmentation import VolumeAugmentation
from datamodules.importers.one_scan import ScanKidney
from experiments.aligned.shared_space import SharedSpace
from experiments.aligned.zero_shot.prompt_question import prompt_question
from experiments.attribution.network_questions import of_attributes
from experiments.attribution.shown_maps import ShownMap, shown_maps, write_map
from experiments.attribution.tested_maps import POINTING, aligned_weights, attribute_weights, read_tested
from experiments.encoders.attribute_reader import AttributeReader
from experiments.registry import TASKS, task_label
from lightning_modules.export.aligned import load_aligned
from lightning_modules.networks.joint.aligned_model import AlignedModel

MAPS_FOLDER = "maps"


def scan_maps(
    kidney: ScanKidney,
    space: SharedSpace,
    reader: AttributeReader | None,
    augmentation: VolumeAugmentation,
    said: Collection[str],
    out: Path,
) -> list[dict[str, Any]]:
    """Make and write the maps of one kidney, of those that passed their test alone.

    Args:
        kidney: The kidney.
        space: The aligned model.
        reader: Stage 1 with its heads.
        augmentation: How regions become the network's input.
        said: Attributes and tasks of which something is said.
        out: Folder of the command; maps lie in a folder below it.

    Returns:
        What was written: question, answer, method, how often such a map points at the lesion, and the file, which is
        None where it is not known where the kidney lies.
    """
    found = [*_of_attributes(kidney, reader, augmentation, said), *_of_prompts(kidney, space, augmentation, said)]
    rows = []
    for shown in found:
        name = None
        if kidney.located is not None:
            name = f"{MAPS_FOLDER}/{kidney.side}-{re.sub(r'[^a-z0-9]+', '-', shown.question.lower())}.nii.gz"
            (out / MAPS_FOLDER).mkdir(parents=True, exist_ok=True)
            write_map(out / name, shown, kidney, augmentation.contract)
        rows.append({
            "question": shown.question, "title": shown.title, "answer": shown.answer, "method": shown.method,
            "points_at_lesions": shown.tested["figures"][POINTING], "seconds": round(shown.seconds, 2), "file": name,
        })  # fmt: skip
    return rows


def _of_attributes(
    kidney: ScanKidney, reader: AttributeReader | None, augmentation: VolumeAugmentation, said: Collection[str]
) -> list[ShownMap]:
    if reader is None or reader.folder is None:
        return []
    tested = read_tested(reader.folder, attribute_weights(reader.folder))
    questions = [one for one in of_attributes(reader.heads) if one.attribute in said]
    return shown_maps(kidney, reader.encoder, augmentation, questions, tested)


def _of_prompts(
    kidney: ScanKidney, space: SharedSpace, augmentation: VolumeAugmentation, said: Collection[str]
) -> list[ShownMap]:
    if space.folder is None or not isinstance(space.model, AlignedModel):
        return []
    tested = read_tested(space.folder, aligned_weights(space.folder))
    if tested is None:
        return []
    tasks = [task for task in TASKS if task in said and f"prompt {task}" in tested["questions"]]
    if not tasks:
        return []
    model = load_aligned(space.folder)
    questions = [prompt_question(space, model, task, task_label(task)) for task in tasks]
    return shown_maps(kidney, model.image_encoder, augmentation, questions, tested)
