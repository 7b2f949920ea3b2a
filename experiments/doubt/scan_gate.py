"""The gate for whatever speaks of a single scan: is this kidney like those that the model learned from?

A network answers on any array. Measured are Hounsfield units, noise and sharpness by contrast phase, and the network's
own feature; the stated phase is held against the Hounsfield units. Rules ask for the rest: the edge of the scan, the
thickness of slices, very dense bodies, and whether model and scan are of one kind, rendered or acquired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax
from torch import nn

from datamodules.augmentation import VolumeAugmentation
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.columns import PHASES
from datamodules.cohort.trained_on import TrainedOn
from datamodules.errors import DataError
from datamodules.importers.one_scan import ScanKidney
from datamodules.volumes.shards import VolumeSet
from experiments.doubt.findings import measured, rules
from experiments.doubt.fitted_reference import fit_reference
from experiments.doubt.readings import Readings
from experiments.doubt.reference import Reference, read_reference
from experiments.doubt.region_measures import region_measures
from experiments.doubt.verdict import GateFinding, Verdict
from experiments.runs.console import say
from lightning_modules.core.errors import ModelError

ACQUIRED = "acquired"
KINDS = (ACQUIRED, "rendered")
"""How intensities come about: by a scanner, or computed from masks."""


def check_kind(intensity: str) -> None:
    """Refuse an unknown kind of intensities.

    Raises:
        DataError: if it is neither `acquired` nor `rendered`.
    """
    if intensity not in KINDS:
        raise DataError(f"intensity={intensity} was given; expected {' or '.join(KINDS)}.")


@dataclass(frozen=True)
class Gate:
    """Judges kidneys of single scans.

    Args:
        encoder: The network that speaks, or whose feature is read.
        augmentation: How regions become its input.
        reference: What it learned from; None where that is not known, and then every scan is outside.
    """

    encoder: nn.Module
    augmentation: VolumeAugmentation
    reference: Reference | None

    def judge(self, kidney: ScanKidney, intensity: str = ACQUIRED) -> Verdict:
        """The verdict on one kidney.

        Args:
            kidney: The kidney with its views, as `read_scan` cuts it by the gate's contract.
            intensity: Whether the scan was `acquired` by a scanner, or `rendered`.
        """
        if self.reference is None:
            text = "It is not known what the model learned from, so that nothing can be held against it."
            return Verdict(kidney.side, (GateFinding("reference", True, text),))
        found = rules(kidney, self.reference.facts, self.augmentation.contract, intensity)
        seen = Readings.of(kidney, self.encoder.eval(), self.augmentation)
        return Verdict(kidney.side, (*found, *measured(kidney, seen, self.reference)))

    def phase_of(self, kidneys: Sequence[ScanKidney], number: int) -> dict[str, Any] | None:
        """The contrast phase of a series by the Hounsfield units of its kidneys, where nobody stated it.

        Args:
            kidneys: The kidneys of a scan.
            number: Number of the series among their views.

        Returns:
            `phase`, the likeliest, and `certainty`, its share of the likelihood of the four by all kidneys, all of them
            as likely before; both None where the kidneys are unlike those of any phase in training. None where the
            phase is stated.
        """
        if self.reference is None or kidneys[0].views[number].phase is not None:
            return None
        images = [kidney.views[number].image for kidney in kidneys]
        measures = np.stack([region_measures(image, self.augmentation.contract) for image in images])
        if not self.reference.near_a_phase(measures).all():
            return {"phase": None, "certainty": None, "read_from": "hounsfield units"}
        share = softmax(self.reference.trained.phase_likelihood(measures).sum(axis=0))
        best = int(share.argmax())
        return {"phase": PHASES[best], "certainty": float(share[best]), "read_from": "hounsfield units"}


def open_gate(
    folder: Path,
    encoder: nn.Module,
    augmentation: VolumeAugmentation,
    cohort: Cohort | None = None,
    trained_on: TrainedOn | None = None,
    fold: int | None = None,
    volumes: VolumeSet | None = None,
) -> Gate:
    """The gate of an exported encoder: its reference is read, or computed from the cohort and kept beside it.

    Args:
        folder: Folder of the exported encoder.
        encoder: The same encoder, loaded.
        augmentation: How regions become its input.
        cohort: Cohort with its training patients, from which a missing reference is computed.
        trained_on: Whom its weights have seen.
        fold: Fold that is tested, for a cohort with folds.
        volumes: The cohort's volume set, where it is open already.

    Raises:
        ModelError: if the reference is damaged, and there is no cohort to compute it from.
    """
    try:
        reference = read_reference(folder)
    except ModelError as error:
        if cohort is None or trained_on is None:
            raise
        say(f"{error} They are computed anew.")
        reference = None
    if reference is None and cohort is not None and trained_on is not None:
        try:
            reference = fit_reference(cohort, encoder, augmentation, trained_on, fold, volumes)
        except DataError as error:
            say(f"Scans cannot be held against the training data. {error}")
        else:
            _keep(reference, folder)
    return Gate(encoder, augmentation, reference)


def _keep(reference: Reference, folder: Path) -> None:
    try:
        reference.write(folder)
    except PermissionError:
        say(f"Folder {folder.name} cannot be written to; the training scans are measured again the next time.")
