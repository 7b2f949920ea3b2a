"""From measurements and rules to sentences."""

from __future__ import annotations

import numpy as np

from datamodules.cohort.columns import PHASES
from datamodules.importers.one_scan import ScanKidney
from datamodules.volumes.contract import PreprocessingContract
from experiments.doubt.gaussians import FEWEST, Gaussians
from experiments.doubt.readings import CHECKS, Readings
from experiments.doubt.reference import Reference, ScanFacts
from experiments.doubt.region_measures import INTENSITIES, NOISE, dense_ml, in_words, outside, reaches
from experiments.doubt.verdict import GateFinding

_MORE_SLICES = 1.1
_MORE_DENSE_ML = 0.5


def rules(kidney: ScanKidney, facts: ScanFacts, contract: PreprocessingContract, intensity: str) -> list[GateFinding]:
    """What no measurement tells: kind of scan, its edge, its slices, very dense bodies.

    Args:
        kidney: The kidney.
        facts: The training scans.
        contract: Contract of the regions.
        intensity: Whether the scan was acquired or rendered.
    """
    found = [_edge(kidney, facts, contract), _dense(kidney, facts, contract)]
    if intensity != facts.intensity:
        learned = "phantoms" if facts.phantom else "patients"
        text = f"The model learned from {learned} with {facts.intensity} intensities, and this scan is {intensity}."
        found.insert(0, GateFinding("kind of scan", True, text))
    thickest = max((view.slice_mm for view in kidney.views if view.slice_mm is not None), default=None)
    if facts.slice_mm is not None and thickest is not None:
        text = f"Slices are {thickest:.1f} mm thick; those of the training scans were up to {facts.slice_mm:.1f} mm."
        found.append(GateFinding("slices", thickest > _MORE_SLICES * facts.slice_mm, text))
    return found


def measured(kidney: ScanKidney, seen: Readings, reference: Reference) -> list[GateFinding]:
    """The measured checks, in the order of `CHECKS`."""
    trained = reference.trained
    scores = dict(zip(CHECKS, reference.scaled(trained.scores(seen)).tolist(), strict=True))
    split, found = len(INTENSITIES), []
    for name, gaussians, values, names, title, which in (
        ("intensities", trained.intensities, seen.measures[:, :split], INTENSITIES, "Hounsfield units are", "those"),
        ("noise", trained.noise, seen.measures[:, split:], NOISE, "Noise or sharpness is", "that"),
    ):
        unlike = scores[name] > 1
        text = f"{title} {'unlike' if unlike else 'like'} {which} of the training scans"
        more = f": {_strangest(gaussians, values, seen.phases, names)}" if unlike else ""
        found.append(GateFinding(name, unlike, f"{text}{more}.", scores[name]))
    unlike = scores["features"] > 1
    text = f"What the network sees is {'unlike' if unlike else 'like'} what it saw in training."
    found.append(GateFinding("features", unlike, text, scores["features"]))
    return [*found, _phase(kidney, seen, reference, scores["phase"])]


def _edge(kidney: ScanKidney, facts: ScanFacts, contract: PreprocessingContract) -> GateFinding:
    beyond = np.any([outside(view.image, contract) for view in kidney.views], axis=0)
    share = float(beyond.mean())
    if not share:
        return GateFinding("edge", False, "The region lies within the scan.")
    if reaches(beyond, kidney.labels, contract):
        text = f"The edge of the scan cuts the kidney off: {share:.0%} of the region lie outside the scan."
        return GateFinding("edge", True, text)
    text = f"{share:.0%} of the region lie outside the scan; in training it was up to {facts.outside_share:.0%}."
    return GateFinding("edge", share > facts.outside_share, text)


def _dense(kidney: ScanKidney, facts: ScanFacts, contract: PreprocessingContract) -> GateFinding:
    found = max(dense_ml(view.image, contract) for view in kidney.views)
    text = f"{found:.1f} ml are denser than bone, as metal is; in training it was up to {facts.dense_ml:.1f} ml."
    return GateFinding("dense bodies", found > facts.dense_ml + _MORE_DENSE_ML, text)


def _strangest(gaussians: Gaussians, values: np.ndarray, phases: np.ndarray, names: tuple[str, ...]) -> str:
    """The measurement that is furthest outside of what is usual, over all views."""
    squares = gaussians.squares(values)
    groups = [
        phase if phase >= 0 and gaussians.known(phase) else int(np.argmin(row))
        for phase, row in zip(phases, squares, strict=True)
    ]
    view = int(np.argmax([row[group] for row, group in zip(squares, groups, strict=True)]))
    number = gaussians.strangest(values[view], groups[view])
    low, high = gaussians.usual[groups[view], :, number]
    name = names[number]
    usual = f"{in_words(name, low)} to {in_words(name, high)}"
    return f"{name} is {in_words(name, values[view, number])}, in training mostly {usual}"


def _phase(kidney: ScanKidney, seen: Readings, reference: Reference, score: float) -> GateFinding:
    likelihood = reference.trained.phase_likelihood(seen.measures)
    likely = [
        f"most like {PHASES[int(number)].replace('_', '-')}" if known else "like none of those in training"
        for number, known in zip(likelihood.argmax(axis=1), reference.near_a_phase(seen.measures), strict=True)
    ]
    unknown = [number for number, view in enumerate(kidney.views) if view.phase is None]
    if unknown:
        text = f"The contrast phase is not known; by its Hounsfield units it is {likely[unknown[0]]}."
        return GateFinding("phase", True, text)
    stated = [str(view.phase) for view in kidney.views]
    rare = sorted({name for name in stated if not reference.trained.intensities.known(PHASES.index(name))})
    if rare:
        names = " and ".join(rare).replace("_", "-")
        return GateFinding("phase", True, f"The model learned from fewer than {FEWEST} series of the phase {names}.")
    if score <= 1:
        return GateFinding("phase", False, "The contrast phase fits the Hounsfield units.", score)
    loss = likelihood.max(axis=1) - likelihood[np.arange(len(stated)), seen.phases]
    worst = int(np.argmax(loss))
    text = (
        f"The contrast phase is said to be {stated[worst].replace('_', '-')}; by its Hounsfield units the series is "
        f"{likely[worst]}."
    )
    return GateFinding("phase", True, text, score)
