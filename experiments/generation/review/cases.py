"""The kidneys that are rated, and in which order and under which letters a reviewer meets them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

import numpy as np
import pandas as pd

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.keyed_order import keyed_choice
from datamodules.errors import DataError
from datamodules.reports.sides import KIDNEY
from experiments.generation.generate import SETTINGS
from experiments.generation.records import GENERATED, read_generated
from experiments.generation.systems import SYSTEMS, references
from experiments.registry import choose
from experiments.runs.console import say
from experiments.runs.folders import system_folder


@dataclass(frozen=True)
class Case:
    """One kidney with its reports.

    Args:
        patient_id: Pseudonym of the patient.
        study_id: Study.
        side: left or right.
        reference: The report of the cohort.
        reports: Generated report by system.
    """

    patient_id: str
    study_id: str
    side: str
    reference: str
    reports: Mapping[str, str]

    @property
    def key(self) -> tuple[str, str, str]:
        """Patient, study and side."""
        return self.patient_id, self.study_id, self.side


def read_cases(
    cohort: Cohort, runs: Path, systems: Sequence[str] | None, seed: int, tag: str, patients: int | None, draw: int
) -> list[Case]:
    """The kidneys that all systems wrote a report of, sorted by their key.

    Args:
        cohort: The cohort.
        runs: Folder of all runs.
        systems: Systems to rate; all that have reports when left out.
        seed: Seed of the pretraining.
        tag: Suffix of the folders of `make generate`.
        patients: Largest number of patients, drawn by `draw`; all when left out.
        draw: Seed of that draw.

    Raises:
        DataError: if there are no reports, no kidney has one by every system, a reference is gone, or there are more
            systems than letters.
    """
    names = [choose("SYSTEM", name, dict(SYSTEMS)) for name in systems or ()]
    if not names:
        names = [name for name in SYSTEMS if (system_folder(runs, cohort, name, seed, tag) / SETTINGS).is_file()]
    if not names:
        raise DataError(f"Cohort {cohort.info.name} has no generated reports; run `make generate` first.")
    if len(set(names)) < len(names) or len(names) > len(ascii_uppercase):
        raise DataError(f"SYSTEMS={','.join(names)} was asked for; expected each system once, and 26 at most.")
    folders = [system_folder(runs, cohort, name, seed, tag) for name in names]
    table = pd.concat([read_generated(folder / GENERATED) for folder in folders], ignore_index=True)
    wide = table.set_index([*KIDNEY, "system"])["text"].unstack()  # noqa: PD010
    absent = int(wide.isna().any(axis=1).sum())
    wide = wide.dropna()
    if wide.empty:
        raise DataError(f"No kidney has a report by each of {', '.join(names)}; generate them of the same kidneys.")
    if absent:
        say(f"{absent} kidneys are left out, of which not every system wrote a report.")
    wide = wide.loc[_drawn(wide.index.get_level_values("patient_id"), patients, draw)]
    real = references(cohort, wide.reset_index()).set_index(KIDNEY)["text"].to_dict()
    cases = []
    for row in wide.sort_index().reset_index().to_dict("records"):
        patient, study, side = (str(row[name]) for name in KIDNEY)
        if (patient, study, side) not in real:
            raise DataError(
                f"Patient {patient}, {side}: the cohort has no report of this kidney any more; run `make generate` "
                "again."
            )
        reports = {name: str(row[name]) for name in names}
        cases.append(Case(patient, study, side, str(real[patient, study, side]), reports))
    return cases


def _drawn(owners: pd.Index, patients: int | None, draw: int) -> np.ndarray:
    """Which rows belong to the patients drawn, bool [N]."""
    if patients is not None and patients < 1:
        raise DataError(f"patients={patients} was found; expected at least 1, or nothing for all.")
    people = sorted(set(owners))
    drawn = keyed_choice(people, len(people) if patients is None else patients, draw, "rated reports")
    return owners.isin(drawn)


def _seeded(*parts: object) -> np.random.Generator:
    """A generator that depends on every part, on no other, and not on the process."""
    digest = hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).digest()
    return np.random.default_rng(list(digest))


def case_order(cases: Sequence[Case], seed: int, reviewer: str) -> list[Case]:
    """The cases in the order in which a reviewer meets them, which is each reviewer's own."""
    return [cases[place] for place in _seeded("cases", seed, reviewer).permutation(len(cases))]


def lettered(case: Case, seed: int, reviewer: str) -> dict[str, str]:
    """The systems of a case by the letter under which a reviewer reads them: A stands first.

    The order is drawn anew for every case and reviewer.
    """
    systems = sorted(case.reports)
    order = _seeded("systems", seed, reviewer, *case.key).permutation(len(systems))
    return {ascii_uppercase[position]: systems[place] for position, place in enumerate(order)}


def cases_hash(cases: Sequence[Case]) -> str:
    """Hash of everything that is rated: kidneys, references, systems and their texts."""
    content = [[*case.key, case.reference, sorted(case.reports.items())] for case in cases]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
