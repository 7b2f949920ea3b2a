"""One patient's scan, read by all models at once: three lines of Python, or `make assess`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.cohort.cohort import Cohort
from datamodules.importers.locate import draws_lesions
from datamodules.importers.one_scan import Place, ScanKidney, read_scan
from experiments.aligned.one_scan.scan import USE
from experiments.assessment.answers import answers, consistent
from experiments.assessment.draft import Draft
from experiments.assessment.kidney_maps import kidney_maps, map_entry, tested_maps
from experiments.assessment.kidney_measures import Lesions, drawn_lesions, index_side, lesions_of
from experiments.assessment.lesion_outlines import LesionOutline, grid_affine
from experiments.assessment.like_cases import Cases, cases_of
from experiments.assessment.own_outlines import painted_tissues, paints
from experiments.assessment.task_models import Models, load_models
from experiments.attribution.shown_maps import ShownMap
from experiments.doubt.scan_gate import ACQUIRED, Gate, check_kind, open_gate
from experiments.doubt.verdict import headline, silenced, speaks
from experiments.encoders.attribute_reader import AttributeReader, attribute_reader, attribute_scores
from experiments.encoders.scan_encoder import network_input
from experiments.runs.folders import ENCODER_FOLDER, own_tag, stage_folder
from experiments.runs.pretrained import pretrained_from
from experiments.runs.run_data import read_trained_on
from experiments.scores.results_table import caption
from lightning_modules.export.image import WEIGHTS

SCHEMA = "renal-assessment/1"
SCORES = (
    "Scores are not calibrated: 0.8 is not 80 %. Probabilities and sets are calibrated on validation patients of the "
    "cohort's internal centres, and hold for patients like those."
)
NOT_DRAWN = (
    "No lesion is drawn, and a mask of kidneys alone, or a box, cannot say that there is none. Lesions are those that "
    "the encoder paints, where it may speak."
)
CASES = 5
PHASE_CERTAINTY = 0.9
"""Share of the likelihood from which a contrast phase that nobody stated is taken from the Hounsfield units."""


@dataclass(frozen=True)
class Assessed:
    """What was found of one patient.

    Args:
        content: As it is written to `assessment.json`.
        kidneys: The kidneys with their images, for pictures and objects.
        outlines: By side, the outline of every lesion in the order of the content.
        maps: By side, the maps that may be shown, in the order of the content.
    """

    content: dict[str, Any]
    kidneys: Sequence[ScanKidney]
    outlines: Mapping[str, Sequence[LesionOutline]] = field(default_factory=dict)
    maps: Mapping[str, Sequence[ShownMap]] = field(default_factory=dict)


@dataclass(frozen=True)
class Assessor:
    """The models of a cohort, ready for new patients.

    Args:
        models: Encoder and heads.
        reader: Encoder of stage 1 with its attribute heads; None where it has none.
        gate: Says whether a kidney is like those that the models learned from.
        cases: Patients to compare with; None where none are asked for.
        intensity: Whether scans were acquired by a scanner, or rendered from masks.
        outside_training: Whether the models are asked of kidneys that are outside of the training data.
        origin: What the models were trained on, in words.
        facts: What is said of the models in every assessment.
        draft: Words findings.
    """

    models: Models
    reader: AttributeReader | None
    gate: Gate
    cases: Cases | None = None
    intensity: str = ACQUIRED
    outside_training: bool = False
    origin: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    draft: Draft = field(default_factory=lambda: Draft({}, {}))

    @classmethod
    def of_runs(
        cls,
        data: Path = Path("data/demo"),
        runs: Path = Path("runs"),
        encoder: str = "best",
        pretrained: str = "s42",
        fold: int | None = None,
        mode: str = "probe",
        seed: int = 42,
        tag: str = "",
        cases: bool = True,
        intensity: str = ACQUIRED,
        outside_training: bool = False,
    ) -> Assessor:
        """The models that finished runs of a cohort left.

        Args:
            data: Folder of the cohort.
            runs: Folder of all runs.
            encoder: Name in the registry; `best` for the aligned one or that of stage 1, whichever more tasks have.
            pretrained: The pretraining, as `s42`.
            fold: Fold of a cohort with folds.
            mode: How the tasks were trained; `probe` leaves what can be applied.
            seed: Seed of the tasks' runs.
            tag: TAG of the tasks' runs.
            cases: Whether cases of the pretraining centres are compared with, whose features are computed once.
            intensity: Whether scans were `acquired` by a scanner, or `rendered` from masks.
            outside_training: Whether the models are asked of kidneys that are outside of the training data.

        Raises:
            DataError: if the intensity is unknown, or the cohort, the encoder or every task's run is absent.
        """
        check_kind(intensity)
        data, runs = Path(data), Path(runs)
        cohort = Cohort.load(data)
        models = load_models(cohort, runs, encoder, pretrained, fold, mode, seed, tag)
        origin = pretrained_from(pretrained)
        reader = attribute_reader(cohort, None, runs, origin, fold, models.contract)
        tag = own_tag(runs, cohort, "image", origin.seed, fold, origin.tag, Path(ENCODER_FOLDER, WEIGHTS))
        draft = Draft.of_run(stage_folder(runs, cohort, "image", origin.seed, fold, tag))
        seen = read_trained_on(models.folder)
        gate = open_gate(models.folder, models.encoder, models.augmentation, cohort, seen, fold)
        near = cases_of(cohort, models, runs, fold) if cases else None
        facts = {
            "encoder": models.name,
            "encoder_sha256": models.sha256,
            "pretrained": pretrained,
            "mode": mode,
            "cohort": cohort.info.name,
            "phantom": cohort.info.phantom,
            "intensity": cohort.info.intensity,
            "contract": models.contract.to_dict(),
            "tasks_without_a_model": dict(models.absent),
        }
        return cls(models, reader, gate, near, intensity, outside_training, caption(cohort.info), facts, draft)

    @cached_property
    def tested_maps(self) -> dict[str, Mapping[str, Any]]:
        """What became of the test of maps, by question."""
        return tested_maps(self.models, self.reader)

    @property
    def fingerprint(self) -> str:
        """Hash of all that an assessment follows from beside the scan, from which results are told apart."""
        known = [dict(self.facts), dict(self.models.held_out), dict(self.models.courses), self.draft.to_dict()]
        known.append(self.tested_maps)
        digest = hashlib.sha256(json.dumps([self.models.fingerprint, *known], default=str).encode())
        arrays: list[np.ndarray] = []
        if self.gate.reference is not None:
            digest.update(repr(self.gate.reference.facts).encode())
            arrays += self.gate.reference.arrays().values()
        if self.reader is not None:
            arrays += [value.cpu().numpy() for value in self.reader.heads.state_dict().values()]
        if self.cases is not None:
            digest.update(self.cases.facts.to_json().encode())
            arrays.append(self.cases.vectors)
        for value in arrays:
            digest.update(np.ascontiguousarray(value).tobytes())
        for task, sure in sorted(self.models.certainty.items()):
            digest.update(json.dumps([task, sure.chosen.n, sure.chosen.calibrator.to_dict()], default=str).encode())
        return digest.hexdigest()[:16]

    def __call__(
        self,
        image: Path | Mapping[str, Path],
        masks: Sequence[Path] = (),
        box: Mapping[str, str] | None = None,
        labels: str | Mapping[int, str] = "kits",
        phase: str | None = None,
    ) -> Assessed:
        """Assess one patient.

        Args:
            image: NIfTI file in HU, several by contrast phase, or the folder of one examination's DICOM files.
            masks: Label map, folder of binary masks, or several; none where the DICOM files hold their own.
            box: `x y z x y z` in RAS millimetres by side, where there is no mask.
            labels: Codes of a label map: kits, totalsegmentator, or code: name.
            phase: Contrast phase of a NIfTI file, or of all series of a DICOM folder.

        Raises:
            DataError: in one sentence, if the scan cannot be assessed.
        """
        place = Place(tuple(Path(mask) for mask in masks), labels, box)
        kidneys, notes = read_scan(
            image if isinstance(image, Mapping) else Path(image), self.models.contract, place, phase
        )
        kidneys, phase_reading = self._with_phases(kidneys)
        located = [kidney.located for kidney in kidneys if kidney.located is not None]
        drawn = draws_lesions(located)
        verdicts = [self.gate.judge(kidney, self.intensity) for kidney in kidneys]
        described: list[dict[str, Any]] = []
        outlines = {}
        for kidney, verdict in zip(kidneys, verdicts, strict=True):
            own, by = self._lesions(kidney, drawn, speaks(verdict, self.outside_training))
            lesions = None if own is None else own.found
            outlines[kidney.side] = [] if own is None else own.outlines
            notes += [] if own is None else own.notes
            volume = kidney.measures.get("kidney_volume_ml")
            entry = {"side": kidney.side, "kidney_volume_ml": volume, "outlined_by": by, "lesions": lesions}
            described.append(entry)
        if not drawn:
            notes.append(NOT_DRAWN)
        index, maps = index_side(described), {}
        for kidney, entry, verdict in zip(kidneys, described, verdicts, strict=True):
            entry |= {"index": entry["side"] == index, "training_data": verdict.to_dict()}
            if entry["lesions"] == []:
                continue  # tasks speak of a kidney with a lesion
            if speaks(verdict, self.outside_training):
                entry |= self._read(kidney)
                measures = kidney.measures if entry["outlined_by"] == "mask" else {}
                entry["draft"] = self.draft.sentences(kidney.side, measures, entry["attributes"])
                maps[kidney.side] = kidney_maps(kidney, self.models, self.reader, self.tested_maps, answers(entry))
                entry["maps"] = [map_entry(kidney, one) for one in maps[kidney.side]]
            else:
                entry["silenced"] = silenced(verdict)
        seen = sorted({view.phase or "unknown" for kidney in kidneys for view in kidney.views})
        if "unknown" in seen:
            notes.append("The contrast phase is not known; the models were asked for every phase that it may be.")
        elif phase_reading is not None:
            notes.append(
                f"Nobody stated the contrast phase; by the Hounsfield units it is {phase_reading['phase']}, with "
                f"{phase_reading['certainty']:.0%} of the likelihood of the four."
            )
        content = {
            "schema": SCHEMA,
            "use": USE,
            "headline": headline(verdicts),
            "scores": SCORES,
            "trained_on": self.origin,
            "models": dict(self.facts),
            "located_by": "box" if all(kidney.labels is None for kidney in kidneys) else "mask",
            "phases": seen,
            "phase_reading": phase_reading,
            "index_side": index,
            "kidneys": described,
            "notes": notes,
        }
        return Assessed(rounded(content), kidneys, outlines, maps)

    def _with_phases(self, kidneys: list[ScanKidney]) -> tuple[list[ScanKidney], dict[str, Any] | None]:
        """The kidneys with a phase that was not stated read from their Hounsfield units, where these tell; and how."""
        readings = [self.gate.phase_of(kidneys, number) for number in range(len(kidneys[0].views))]
        for number, found in enumerate(readings):
            if found is not None and (found["certainty"] or 0.0) >= PHASE_CERTAINTY:
                kidneys = [kidney.with_phase(number, found["phase"]) for kidney in kidneys]
        return kidneys, next((found for found in readings if found is not None), None)

    def _lesions(self, kidney: ScanKidney, drawn: bool, spoken: bool) -> tuple[Lesions | None, str | None]:
        """Lesions, and who outlined them; None where no mask draws them and no model may."""
        contract = self.models.contract
        if drawn and kidney.labels is not None:
            return drawn_lesions(kidney, contract), "mask"
        if not spoken or not paints(self.models):
            return None, None
        affine = grid_affine(kidney, contract)
        return lesions_of(kidney, painted_tissues(kidney, self.models), affine, contract), "encoder"

    def _read(self, kidney: ScanKidney) -> dict[str, Any]:
        """What the models say of a kidney."""
        tasks = self.models.scores(kidney)
        attributes: dict[str, dict[str, Any]] = {}
        if self.reader is not None:
            image, phases = network_input(kidney, self.models.augmentation, self.reader.encoder)
            attributes = attribute_scores(self.reader, image, phases)
        found = consistent(kidney, tasks, attributes)
        if self.cases is not None:
            found["like_cases"] = self.cases.nearest(self.models.feature(kidney, "joined", self.models.crop), CASES)
        return found


def rounded(value: Any, digits: int = 6) -> Any:
    """Plain data with its numbers rounded, so that a file holds what is known of them."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, Mapping):
        return {key: rounded(one, digits) for key, one in value.items()}
    return [rounded(one, digits) for one in value] if isinstance(value, list | tuple) else value
