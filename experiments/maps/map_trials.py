"""The trials of maps over the tested kidneys of a cohort."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from datamodules.anatomy.targets import ANATOMY
from datamodules.cohort.keyed_order import keyed_order
from datamodules.errors import DataError
from datamodules.loading.joined_phases import VolumeReader
from experiments.attribution.kidney_views import KidneyViews, features
from experiments.attribution.map_methods import available, maps_of
from experiments.attribution.network_questions import NetworkQuestion
from experiments.attribution.shown_maps import anatomy_of, presented_spacing
from experiments.attribution.truth_trials import (
    alike,
    centred_blob,
    curves,
    erased,
    parts_to_erase,
    pointing,
    randomised,
)
from experiments.maps.asked_models import AskedModel
from lightning_modules.networks.image.encoders import joins_phases

LEAST_MM = 20.0
"""Least diameter of a lesion that maps must point at."""
_KEYS = ["patient_id", "study_id", "side"]


@dataclass(frozen=True)
class MapExample:
    """A kidney with its maps, for a picture.

    Args:
        image: float [D, H, W], one phase of what the network saw.
        lesion: bool [D, H, W].
        maps: NetworkQuestion, answer, method and map.
    """

    image: np.ndarray
    lesion: np.ndarray
    maps: list[tuple[str, str, str, np.ndarray]]


@dataclass(frozen=True)
class MapTrials:
    """What the trials gave.

    Args:
        maps: As `map_table` takes them.
        erased: As `erased_table` takes them.
        eligible: Kidneys with a lesion of at least `LEAST_MM`.
        chosen: Those that were asked.
        right: By question, how many answers were right.
        examples: The first kidneys.
        memory_mb: Most memory of the process.
    """

    maps: pd.DataFrame
    erased: pd.DataFrame
    eligible: int
    chosen: int
    right: dict[str, int]
    examples: list[MapExample]
    memory_mb: float


def run_trials(
    asked: Sequence[AskedModel],
    kidneys: int,
    random_kidneys: int,
    seed: int,
    methods: Sequence[str],
    show: Callable[[int, int], None],
    shown: int = 4,
) -> MapTrials:
    """Test the maps of networks that share an encoder, on kidneys whose answers are right.

    Of test kidneys those of external centres are taken, where the cohort has some, with a mask that draws a lesion of
    at least `LEAST_MM`.

    Args:
        asked: The models; encoder and kidneys are those of the first.
        kidneys: Most kidneys, chosen by a keyed hash.
        random_kidneys: How many of them are mapped with random weights as well.
        seed: Seed of choice and random weights.
        methods: Kinds of maps that are made.
        show: Told how many kidneys of how many are done.
        shown: Kidneys that are kept for a picture.

    Raises:
        DataError: if there is no such kidney, or the encoder allows no such map.
    """
    first = asked[0]
    encoder, module = first.encoder, first.module
    unknown = [method for method in methods if method not in available(encoder)]
    if unknown:
        raise DataError(f"METHODS={','.join(unknown)} is no map of this encoder: {', '.join(available(encoder))}.")
    methods = methods or available(encoder)
    numbers, eligible = _chosen(module, kidneys, seed)
    questions = [question for model in asked for question in model.questions]
    truth = {question.name: model.truth(question, numbers) for model in asked for question in model.questions}
    strange = randomised(encoder, seed)
    spacing = presented_spacing(module.augmentation.contract)
    joined, visits = joins_phases(encoder), module.visits("test")
    read = VolumeReader(module.plan.volumes, joined)
    volumes = dict(zip(visits.kidney, (found[:1] if joined else found for found in visits.volumes), strict=True))
    rows: list[dict[str, Any]] = []
    lost: list[dict[str, Any]] = []
    right = {question.name: 0 for question in questions}
    examples: list[MapExample] = []
    for place, number in enumerate(numbers):
        image, labels = _kidney(module, read, volumes[number], number)
        anatomy = anatomy_of(labels, image, module.augmentation, encoder)
        assert anatomy is not None
        views = KidneyViews.of(image, spacing, anatomy)
        lesion = anatomy[[ANATOMY.index("tumour"), ANATOMY.index("cyst")]].sum(dim=0) > 0.5
        organ = lesion | (anatomy[ANATOMY.index("parenchyma")] > 0.5)
        feature = features(encoder, views.image[None])
        own = [(question, question.answer(feature)) for question in questions]
        own = [(question, answer) for question, answer in own if truth[question.name][place] in (None, answer)]
        patient = int(module.plan.kidneys["row"].iloc[number])
        if lesion.any() and own:
            chance = strange if place < random_kidneys else None
            tried, kept = _one(encoder, chance, views, own, methods, spacing, lesion)
            rows += [{"patient": patient, **row} for row in tried]
            parts = parts_to_erase(lesion, organ)
            for question, _ in own:
                right[question.name] += 1
            if parts is not None:
                fallen = zip(own, erased(encoder, views, own, parts), strict=True)
                lost += [{"patient": patient, "question": question.name, **cost} for (question, _), cost in fallen]
            if len(examples) < shown:
                phase = int(views.there()[0].flatten().nonzero()[-1])
                examples.append(MapExample(image[0, phase].numpy(), lesion.numpy(), kept))
        show(place + 1, len(numbers))
    if not rows:
        raise DataError("No answer about the chosen kidneys was right, so that no map can be tested.")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return MapTrials(pd.DataFrame(rows), pd.DataFrame(lost), eligible, len(numbers), right, examples, peak)


def _one(
    encoder: torch.nn.Module,
    strange: torch.nn.Module | None,
    views: KidneyViews,
    own: list[tuple[NetworkQuestion, int]],
    methods: Sequence[str],
    spacing: tuple[float, float, float],
    lesion: torch.Tensor,
) -> tuple[list[dict[str, Any]], list[tuple[str, str, str, np.ndarray]]]:
    """The rows of one kidney, without its patient, and its maps."""
    blob, rows, kept = centred_blob(tuple(lesion.shape)), [], []  # type: ignore[arg-type]
    floors = curves(encoder, views, own, blob)
    for method in methods:
        started = time.monotonic()
        found = maps_of(encoder, views, own, spacing, method)
        seconds = time.monotonic() - started
        other = [None] * len(own) if strange is None else maps_of(strange, views, own, spacing, method)
        for (question, answer), values, chance, floor in zip(own, found, other, floors, strict=True):
            (curve,) = curves(encoder, views, [(question, answer)], values)
            rows.append({
                "question": question.name, "method": method, "seconds": seconds / len(own),
                "pointing": pointing(values, lesion), "floor_pointing": pointing(blob, lesion),
                "deletion": curve.lost, "floor_deletion": floor.lost,
                "insertion": curve.won, "floor_insertion": floor.won,
                "random_pointing": np.nan if chance is None else pointing(chance, lesion),
                "alike": np.nan if chance is None else alike(values, chance),
            })  # fmt: skip
            kept.append((question.title, question.answers[answer], method, values.numpy()))
    return rows, kept


def _chosen(module: Any, kidneys: int, seed: int) -> tuple[list[int], int]:
    """Rows of the plan, and how many there would have been."""
    plan = module.plan
    rows = plan.kidneys[plan.kidneys["part"] == "test"]
    roles = plan.patients["role"].to_numpy()[rows["row"].to_numpy()]
    if (roles == "external").any():
        rows = rows[roles == "external"]
    large = {key for key, size in _by_text(plan.cohort["kidneys"]).items() if size >= LEAST_MM}
    keys = list(rows[_KEYS].astype(str).itertuples(index=False, name=None))
    wanted = [(key, int(number)) for key, number in zip(keys, rows.index, strict=True) if key in large]
    chosen: list[int] = []
    for place in keyed_order([key for key, _ in wanted], seed, "maps"):
        (patient, *own), number = wanted[place]
        if len(chosen) < kidneys and tuple(own) in plan.volumes.masks(patient):
            chosen.append(number)
    if not chosen:
        raise DataError(
            f"Cohort {plan.cohort.info.name} has no tested kidney with a mask and a lesion of {LEAST_MM:g} mm, by "
            "which maps could be tested."
        )
    return chosen, len(wanted)


def _by_text(kidneys: pd.DataFrame) -> dict[tuple[str, ...], float]:
    """Largest diameter of the lesions of each kidney in mm, where it is known."""
    known = kidneys[kidneys["lesion_diameter_mm"].notna()]
    keys = known[_KEYS].astype(str).itertuples(index=False, name=None)
    return dict(zip(keys, known["lesion_diameter_mm"].astype(float), strict=True))


def _kidney(module: Any, read: VolumeReader, positions: Sequence[int], number: int) -> tuple[torch.Tensor, np.ndarray]:
    """Views of a kidney as the network reads them, and its label map."""
    image = torch.cat([module.augmentation.evaluate(read(position)[None]) for position in positions])
    key = module.plan.kidneys.loc[number, _KEYS].astype(str).tolist()
    return image, module.plan.volumes.masks(key[0])[(key[1], key[2])]
