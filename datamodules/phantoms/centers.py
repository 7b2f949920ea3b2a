"""The centres of the demo cohort: role, share of the patients, scanner and reporting habits."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from datamodules.anatomy.rendering import CenterProtocol
from datamodules.errors import DataError

SMALLEST_CENTER = 4
"""Fewest patients of a centre: an internal one needs train, validation and test."""


@dataclass(frozen=True)
class Habits:
    """How the radiologists of a centre write.

    Args:
        omission: Probability that a finding of a lesion is not mentioned.
        negatives: Probability that an absent finding is mentioned as absent.
        hedging: Probability that an uncertain finding is worded as uncertain.
        unit: Unit of lengths.
        dimensions: Number of diameters given.
        layout: `sections` with a heading per kidney, `list` with numbered findings, or `prose`.
        impression: Probability of an impression.
        priors: Probability that a prior examination is mentioned.
    """

    omission: float = 0.2
    negatives: float = 0.5
    hedging: float = 0.15
    unit: Literal["cm", "mm"] = "cm"
    dimensions: int = 2
    layout: Literal["sections", "list", "prose"] = "sections"
    impression: float = 0.8
    priors: float = 0.3


@dataclass(frozen=True)
class Center:
    """One centre.

    Args:
        name: Name.
        role: pretrain, internal or external.
        patients: Number of patients among 1,000.
        protocol: Usual scanner settings; a series varies around them.
        habits: Reporting habits.
        population: Whose patients it sees, `surgical` or `public`.
        bank: Phrase bank of its reports; external centres have one of their own.
        phase_rates: Probability of each phase in the order of `datamodules.cohort.columns.PHASES`.
    """

    name: str
    role: Literal["pretrain", "internal", "external"]
    patients: int
    protocol: CenterProtocol
    habits: Habits = field(default_factory=Habits)
    population: Literal["surgical", "public"] = "surgical"
    bank: Literal["development", "heldout"] = "development"
    phase_rates: tuple[float, float, float, float] = (0.8, 0.92, 0.9, 0.55)


def _protocol(noise: float, kernel: float, slices: float, shift: float, gain: float, offset: float) -> CenterProtocol:
    return CenterProtocol(noise, kernel, slices, shift, gain, offset)


CENTERS: tuple[Center, ...] = (
    Center("P1", "pretrain", 100, _protocol(9, 1.8, 2.5, 0, 1.0, 0), Habits(0.15, 0.6, 0.10, "cm", 2, "sections")),
    Center("P2", "pretrain", 90, _protocol(12, 1.4, 3.0, -4, 0.93, 2), Habits(0.25, 0.4, 0.20, "mm", 2, "prose")),
    Center("P3", "pretrain", 70, _protocol(7, 2.6, 5.0, 6, 1.05, -3), Habits(0.30, 0.3, 0.15, "cm", 1, "list")),
    Center("P4", "pretrain", 60, _protocol(14, 1.2, 2.0, 2, 1.1, 1), Habits(0.20, 0.5, 0.25, "cm", 3, "sections")),
    Center("I1", "internal", 230, _protocol(10, 1.8, 3.0, 1, 1.0, 0), Habits(0.20, 0.5, 0.15, "cm", 2, "sections")),
    Center("I2", "internal", 180, _protocol(12, 2.2, 2.5, -3, 0.96, 2), Habits(0.25, 0.4, 0.20, "mm", 2, "list")),
    Center("E1", "external", 52, _protocol(8, 2.4, 5.0, 8, 1.0, -4), Habits(0.25, 0.5, 0.2, "cm", 2), bank="heldout"),
    Center(
        "E2",
        "external",
        46,
        _protocol(15, 1.3, 1.5, -6, 0.9, 3),
        Habits(0.15, 0.4, 0.2, "mm", 3, "prose"),
        bank="heldout",
    ),
    Center(
        "E3",
        "external",
        42,
        _protocol(11, 2.0, 4.0, 4, 1.08, 0),
        Habits(0.35, 0.3, 0.1, "cm", 1, "list"),
        bank="heldout",
    ),
    Center("E4", "external", 38, _protocol(13, 1.6, 3.0, 0, 1.15, -2), Habits(0.2, 0.6, 0.3, "cm", 2), bank="heldout"),
    Center(
        "E5",
        "external",
        32,
        _protocol(9, 2.8, 5.0, -2, 0.94, 4),
        Habits(0.3, 0.3, 0.2, "mm", 2, "prose"),
        bank="heldout",
    ),
    Center(
        "PUB",
        "external",
        60,
        _protocol(16, 2.0, 5.0, 5, 0.95, 0),
        Habits(0.4, 0.3, 0.2, "cm", 1, "list", 0.6, 0.2),
        population="public",
        bank="heldout",
        phase_rates=(0.45, 0.7, 0.9, 0.35),
    ),
)


def center_of(patient_id: str) -> Center:
    """The centre named in a patient's pseudonym.

    Raises:
        DataError: if there is no such centre.
    """
    name = patient_id.rpartition("-")[0]
    for center in CENTERS:
        if center.name == name:
            return center
    known = ", ".join(center.name for center in CENTERS)
    raise DataError(f"Patient {patient_id!r} names no centre of the demo cohort; expected <centre>-<number>, {known}.")


def center_sizes(patients: int, pretraining: int = 0, external: int = 0) -> dict[str, int]:
    """Number of patients of every centre: in proportion, and never fewer than `SMALLEST_CENTER`.

    Args:
        patients: Patients over all centres.
        pretraining: Further patients of the pretraining centres alone, as in real archives, where scans with a report
            are many and followed patients are few.
        external: Further patients of the external centres alone: the more are tested, the smaller are the differences
            that can be told.

    Raises:
        DataError: if the number cannot serve every centre, or is negative.
    """
    for role, further in (("pretraining", pretraining), ("external", external)):
        if further < 0:
            raise DataError(f"{further} further {role} patients were asked for; expected 0 or more.")
    least = SMALLEST_CENTER * len(CENTERS)
    if patients < least:
        raise DataError(
            f"{patients} patients were asked for; expected at least {least}, {SMALLEST_CENTER} for each of "
            f"{len(CENTERS)} centres."
        )
    weights = np.array([center.patients for center in CENTERS], dtype=float)
    sizes = np.full(len(CENTERS), SMALLEST_CENTER)
    for further, roles in (
        (patients - least, ("pretrain", "internal", "external")),
        (pretraining, ("pretrain",)),
        (external, ("external",)),
    ):
        open_to = weights * np.array([center.role in roles for center in CENTERS])
        for _ in range(further):
            # Each further patient goes where the share is least fulfilled; no rounding has to be mended afterwards.
            sizes[np.argmax(open_to / (sizes + 0.5))] += 1
    return {center.name: int(size) for center, size in zip(CENTERS, sizes, strict=True)}


def series_protocol(center: Center, rng: np.random.Generator) -> CenterProtocol:
    """Settings of one series: those of the centre with the variation between patients and scanners."""
    usual = center.protocol
    return replace(
        usual,
        noise_hu=float(usual.noise_hu * np.exp(rng.normal(0.0, 0.15))),
        kernel_fwhm_mm=float(usual.kernel_fwhm_mm * np.exp(rng.normal(0.0, 0.08))),
        slice_thickness_mm=float(usual.slice_thickness_mm if rng.random() < 0.8 else rng.choice([1.0, 2.5, 5.0])),
        timing_shift_s=float(usual.timing_shift_s + rng.normal(0.0, 4.0)),
        contrast_gain=float(usual.contrast_gain * np.exp(rng.normal(0.0, 0.05))),
    )
