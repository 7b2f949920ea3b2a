"""The maps of an assessment: what an answer about a kidney rests on, of those kinds alone that passed their test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from datamodules.anatomy.tissues import LESION
from datamodules.augmentation import AugmentationConfig, VolumeAugmentation
from datamodules.importers.one_scan import ScanKidney
from experiments.assessment.task_models import Models, views_read
from experiments.attribution.network_questions import of_attributes, of_head
from experiments.attribution.shown_maps import ShownMap, shown_maps
from experiments.attribution.tested_maps import attribute_weights, read_tested
from experiments.encoders.attribute_reader import AttributeReader
from experiments.registry import TASKS


def tested_maps(models: Models, reader: AttributeReader | None) -> dict[str, Mapping[str, Any]]:
    """What became of the test of maps, by question: of the heads of tasks, and of the attribute heads.

    Args:
        models: The models of the tasks.
        reader: Stage 1 with its heads.

    Raises:
        DataError: if the result of the test is damaged, or of another format.
    """
    own = None
    if reader is not None and reader.folder is not None:
        own = read_tested(reader.folder, attribute_weights(reader.folder))
    return {**models.tested_maps, **({} if own is None else own["questions"])}


def kidney_maps(
    kidney: ScanKidney,
    models: Models,
    reader: AttributeReader | None,
    tested: Mapping[str, Mapping[str, Any]],
    said: Mapping[str, str | None],
) -> list[ShownMap]:
    """The maps of a kidney that may be shown.

    Args:
        kidney: The kidney.
        models: The models of the tasks.
        reader: Stage 1 with its heads.
        tested: As of `tested_maps`.
        said: By question the answer that is said of the kidney; None where any is.
    """
    result, content = [], {"questions": tested}
    if reader is not None:
        questions = of_attributes(reader.heads)
        result += shown_maps(kidney, reader.encoder, models.augmentation, questions, content, said)
    for task, head in models.heads.items():
        augmentation = VolumeAugmentation(models.contract, AugmentationConfig(crop=head.crop))
        question = of_head(head, TASKS[task].title)
        seen = views_read(kidney, head.phases)
        result += shown_maps(seen, models.encoder, augmentation, [question], content, said)
    return result


def map_entry(kidney: ScanKidney, shown: ShownMap) -> dict[str, Any]:
    """A map as JSON tells it.

    Args:
        kidney: The kidney.
        shown: Its map.

    Returns:
        As of `ShownMap.to_dict`, with `largest_in` (lesion, kidney or elsewhere; None where no mask tells) and `file`,
        which is None where it is not known where the kidney lies in the scan.
    """
    where = None
    if kidney.labels is not None:
        tissues = kidney.labels[shown.values == shown.values.max()]
        where = "lesion" if np.isin(tissues, LESION).all() else "kidney" if (tissues > 0).all() else "elsewhere"
    file = None if kidney.located is None else map_file(kidney.side, shown)
    return {**shown.to_dict(), "largest_in": where, "file": file}


def map_file(side: str, shown: ShownMap) -> str:
    """Name of the NIfTI file of a map."""
    return f"map_{side}_{shown.stem}.nii.gz"
