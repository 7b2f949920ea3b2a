"""What `embed` shows of an answer's grounds: maps that passed their test, as NIfTI in the frame of the scan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datamodules.augmentation import VolumeAugmentation
from datamodules.importers.one_scan import ScanKidney
from experiments.aligned.one_scan.scan_figure import best
from experiments.aligned.shared_space import SharedSpace
from experiments.aligned.zero_shot.prompt_question import prompt_question
from experiments.attribution.network_questions import attribute_key, of_attributes, prompt_key
from experiments.attribution.shown_maps import ShownMap, shown_maps, write_map
from experiments.attribution.tested_maps import aligned_weights, attribute_weights, read_tested
from experiments.doubt.statements import PRESENT
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
    said: Mapping[str, Any],
    out: Path,
) -> list[dict[str, Any]]:
    """Make and write the maps of one kidney, of those that passed their test alone.

    Args:
        kidney: The kidney.
        space: The aligned model.
        reader: Stage 1 with its heads.
        augmentation: How regions become the network's input.
        said: What is said of the kidney, as of `stated`.
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
            name = f"{MAPS_FOLDER}/{kidney.side}-{shown.stem}.nii.gz"
            (out / MAPS_FOLDER).mkdir(parents=True, exist_ok=True)
            write_map(out / name, shown, kidney, augmentation.contract)
        rows.append({**shown.to_dict(), "seconds": round(shown.seconds, 2), "file": name})
    return rows


def said_attributes(said: Mapping[str, Any]) -> dict[str, str | None]:
    """By question what is said of attributes, and that there is a lesion, where that is said.

    Args:
        said: As of `stated`.
    """
    found: dict[str, str | None] = {attribute_key(name): one["value"] for name, one in said["attributes"].items()}
    return found | ({attribute_key(PRESENT): "yes"} if said["lesion"]["present"] else {})


def _of_attributes(
    kidney: ScanKidney, reader: AttributeReader | None, augmentation: VolumeAugmentation, said: Mapping[str, Any]
) -> list[ShownMap]:
    if reader is None or reader.folder is None:
        return []
    tested = read_tested(reader.folder, attribute_weights(reader.folder))
    questions = of_attributes(reader.heads)
    return shown_maps(kidney, reader.encoder, augmentation, questions, tested, said_attributes(said))


def _of_prompts(
    kidney: ScanKidney, space: SharedSpace, augmentation: VolumeAugmentation, said: Mapping[str, Any]
) -> list[ShownMap]:
    if space.folder is None or not isinstance(space.model, AlignedModel):
        return []
    tested = read_tested(space.folder, aligned_weights(space.folder))
    if tested is None:
        return []
    answers: dict[str, str | None] = {
        prompt_key(task): best(one)
        for task, one in said["zero_shot"].items()
        if prompt_key(task) in tested["questions"]
    }
    if not answers:
        return []
    model = load_aligned(space.folder)
    tasks = [task for task in TASKS if prompt_key(task) in answers]
    questions = [prompt_question(space, model, task, task_label(task)) for task in tasks]
    return shown_maps(kidney, model.image_encoder, augmentation, questions, tested, answers)
