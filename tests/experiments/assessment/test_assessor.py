"""A new patient is scored as the cohort's own path scores it."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.phantoms.phantom_source import DemoSource
from experiments.assessment.assessor import SCHEMA, Assessed, Assessor
from experiments.assessment.patient_files import one_patient
from experiments.doubt.task_doubt import task_doubt
from lightning_modules.core.errors import ModelError
from lightning_modules.export.task_head import load_task_head
from tests.datamodules.importers.dicom_phantom import NAME, RAW_ID, SCANNED
from tests.datamodules.importers.phantom_study import write_study
from tests.experiments.assessment.place import CROP, STEP_MM, TASKS, Place
from tests.tiny import CONTRACT

pytestmark = pytest.mark.slow
TESTED = tuple(f"E1-{number:04d}" for number in range(1, 7))


@pytest.fixture(scope="module")
def assessor(place: Place) -> Assessor:
    return Assessor.of_runs(place.data, place.runs, intensity="acquired", outside_training=True)


@pytest.fixture(scope="module")
def assessed(place: Place, assessor: Assessor) -> dict[str, Assessed]:
    """The held-out patients of the external centre, from their files."""
    found = {}
    for name in TESTED:
        patient = one_patient(place.files / name)
        found[name] = assessor(patient.image, patient.masks)
    return found


def index_kidney(found: Assessed) -> dict:
    return next(kidney for kidney in found.content["kidneys"] if kidney["index"])


def predictions(place: Place, task: str) -> pd.DataFrame:
    folder = place.runs / f"renal/few/{task}/stage1-probe-f1-s42"
    table = pd.read_parquet(folder / "predictions.parquet")
    return table[table["part"] == "test"].set_index("patient_id")


def test_scores_are_those_of_the_cohorts_path(place: Place, assessed: dict[str, Assessed]) -> None:
    table = predictions(place, "malignancy")
    for name in TESTED:
        scores = index_kidney(assessed[name])["tasks"]["malignancy"]["scores"]
        expected = table.loc[name, ["score_benign", "score_malignant"]].to_numpy(dtype=float)
        assert [*scores] == ["benign", "malignant"]
        np.testing.assert_allclose([*scores.values()], expected, atol=1e-5)


def test_probabilities_and_sets_are_those_of_the_runs_own_doubt(place: Place, assessed: dict[str, Assessed]) -> None:
    table = pd.read_parquet(place.runs / "renal/few/malignancy/stage1-probe-f1-s42/predictions.parquet")
    doubt = task_doubt(table)
    tasks = {name: index_kidney(assessed[name])["tasks"]["malignancy"] for name in TESTED}
    if doubt is None:  # too few validation patients to tell
        assert not any("probabilities" in found for found in tasks.values())
        return
    answers = doubt.tested.of(pd.Series(TESTED))
    for number, found in enumerate(tasks.values()):
        np.testing.assert_allclose([*found["probabilities"].values()], answers.probability[number], atol=1e-4)
        expected = [name for name, kept in zip(found["scores"], answers.sets[number], strict=True) if kept]
        assert found["set"] == expected
        assert found["calibration"]["validation_patients"] >= 2


def test_risks_and_curves_are_those_of_the_cohorts_path(place: Place, assessed: dict[str, Assessed]) -> None:
    table = predictions(place, "os")
    cuts = [name for name in table if name.startswith("survival_")]
    tested = [name for name in TESTED if name in table.index]  # the malignant ones
    assert len(tested) == 3
    for name in tested:
        found = index_kidney(assessed[name])["tasks"]["os"]
        # Single precision: a head divides the seventh digit of a feature by its spread, which is small here.
        assert found["log_risk"] == pytest.approx(table.loc[name, "risk"], abs=5e-5)
        curve = dict(zip(found["curve"]["months"], found["curve"]["survival_estimate"], strict=True))
        for cut in cuts:
            month = min(curve, key=lambda at: abs(at - float(cut.removeprefix("survival_"))))
            assert curve[month] == pytest.approx(table.loc[name, cut], abs=1e-5)
        assert found["survival_estimate"]["12_months"] == curve[12.0]
        estimates = found["curve"]["survival_estimate"]
        assert estimates == sorted(estimates, reverse=True)


def test_risk_groups_part_the_training_patients_at_their_median(place: Place, assessed: dict[str, Assessed]) -> None:
    folder = place.runs / "renal/few/os/stage1-probe-f1-s42/head"
    head = load_task_head(folder, json.loads((folder / "head.json").read_text())["encoder_sha256"])
    for found in assessed.values():
        own = index_kidney(found)["tasks"]["os"]
        assert own["risk_group"] == ("high" if own["log_risk"] > float(head.risk_cuts[0]) else "low")


def test_nephrometry_is_that_of_the_cohorts_table(place: Place, assessed: dict[str, Assessed]) -> None:
    table = pd.read_parquet(place.data / "kidneys.parquet").set_index(["patient_id", "side"])
    scored = 0
    for name in TESTED:
        for kidney in assessed[name].content["kidneys"]:
            row = table.loc[(name, kidney["side"])]
            assert kidney["index"] == row["is_index"]
            if pd.isna(row["renal_r"]):
                continue
            scored += 1
            renal = kidney["lesions"][0]["renal"]
            assert [renal[letter] for letter in "renal"] == [row[f"renal_{letter}"] for letter in "renal"]
            assert renal["r_mm"] == pytest.approx(row["renal_r_mm"], abs=1e-3)
            assert renal["total"] == sum(row[f"renal_{letter}"] for letter in "renl")
    assert scored >= 4


def test_like_cases_are_of_the_pretraining_centres_and_without_names(assessed: dict[str, Assessed]) -> None:
    for found in assessed.values():
        cases = index_kidney(found)["like_cases"]
        assert len(cases) == 5
        assert [case["cosine"] for case in cases] == sorted((case["cosine"] for case in cases), reverse=True)
        assert not any("patient_id" in case or "center" in case for case in cases)
        assert {case["histology"] for case in cases} == {"clear_cell"}


def test_a_dicom_study_says_what_the_same_scans_as_nifti_say(
    place: Place, assessor: Assessor, assessed: dict[str, Assessed], tmp_path: Path
) -> None:
    name = TESTED[0]
    write_study(DemoSource().patient(name), tmp_path / "study", STEP_MM, phases=2)
    patient = one_patient(tmp_path / "study")
    found = assessor(patient.image, patient.masks).content
    expected = assessed[name].content
    assert found["phases"] == expected["phases"]
    ours, theirs = (index_kidney(Assessed(content, ()))["tasks"] for content in (found, expected))
    for task in TASKS:
        key = "scores" if task == "malignancy" else "survival_estimate"
        # Positions in DICOM are rounded to a ten-thousandth of a millimetre.
        np.testing.assert_allclose([*ours[task][key].values()], [*theirs[task][key].values()], atol=1e-3)
    text = json.dumps(found)
    assert not any(secret in text for secret in (NAME, RAW_ID, SCANNED, "study", str(tmp_path)))


def test_the_phases_of_a_scan_matter_and_an_unknown_one_is_said(place: Place, assessor: Assessor) -> None:
    patient = one_patient(place.files / TESTED[1])
    assert not isinstance(patient.image, Path)
    alone = next(iter(patient.image.values()))
    unknown = assessor(alone, patient.masks)
    stated = assessor(alone, patient.masks, phase="delayed")
    assert unknown.content["phases"] == ["unknown"]
    assert any("phase is not known" in note for note in unknown.content["notes"])
    assert not any("phase is not known" in note for note in stated.content["notes"])
    scores = [index_kidney(found)["tasks"]["malignancy"]["scores"] for found in (unknown, stated)]
    assert scores[0] != scores[1]


def test_a_mask_of_kidneys_alone_leaves_the_lesions_to_the_encoder(
    place: Place, assessor: Assessor, assessed: dict[str, Assessed], tmp_path: Path
) -> None:
    patient = one_patient(place.files / TESTED[0])
    mask = nibabel.load(patient.masks[0])
    whole = (np.asarray(mask.dataobj) > 0).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(whole, mask.affine), tmp_path / "mask.nii.gz")
    found = assessor(patient.image, [tmp_path / "mask.nii.gz"])
    assert {kidney["outlined_by"] for kidney in found.content["kidneys"]} == {"encoder"}
    assert any("cannot say that there is none" in note for note in found.content["notes"])
    # Outside of what it knows it paints nothing: a healthy kidney would be given a tumour and a score.
    silent = dataclasses.replace(assessor, outside_training=False)(patient.image, [tmp_path / "mask.nii.gz"]).content
    for kidney in silent["kidneys"]:
        assert kidney["lesions"] is None
        assert kidney["outlined_by"] is None
        assert "No class is shown" in kidney["silenced"]
    # A network that paints a tumour everywhere has a lesion of the volume of its crop.
    models = dataclasses.replace(assessor.models, encoder=copy.deepcopy(assessor.models.encoder))
    with torch.no_grad():
        models.encoder.paint.weight.zero_()
        models.encoder.paint.bias.copy_(torch.tensor([0.0, 0.0, 9.0, 0.0, 0.0]))
    everywhere = dataclasses.replace(assessor, models=models)(patient.image, [tmp_path / "mask.nii.gz"]).content
    crop_ml = np.prod(CROP) * np.prod(CONTRACT.spacing_mm) / 1000
    for kidney in everywhere["kidneys"]:
        assert [lesion["volume_ml"] for lesion in kidney["lesions"]] == [pytest.approx(crop_ml)]
        assert "renal" not in kidney["lesions"][0]  # there is no kidney to refer it to
    assert any("not scored" in note for note in everywhere["notes"])


def test_no_class_is_said_of_a_kidney_outside_the_training_data(place: Place, assessor: Assessor) -> None:
    """What the random encoder learned from is not known."""
    patient = one_patient(place.files / TESTED[0])
    content = dataclasses.replace(assessor, outside_training=False)(patient.image, patient.masks).content
    index = index_kidney(Assessed(content, ()))
    assert content["headline"].startswith("OUTSIDE THE TRAINING DATA")
    assert index["training_data"]["outside_training"]
    assert "No class is shown" in index["silenced"]
    assert not {"tasks", "attributes", "like_cases"} & set(index)
    assert index["lesions"][0]["renal"]["total"] >= 4  # a mask is measured all the same


def test_the_content_says_what_it_is(assessed: dict[str, Assessed]) -> None:
    content = assessed[TESTED[0]].content
    assert content["schema"] == SCHEMA
    assert "not calibrated" in content["scores"]
    assert "research only" in content["use"]
    assert set(content["models"]["tasks_without_a_model"]) >= {"rfs", "dss", "renal_r"}
    assert json.loads(json.dumps(content)) == content


def test_a_head_of_another_encoder_is_refused(place: Place) -> None:
    folder = place.runs / "renal/few/malignancy/stage1-probe-f1-s42/head"
    with pytest.raises(ModelError, match="belongs to encoder"):
        load_task_head(folder, "0" * 64)
    head = load_task_head(folder, json.loads((folder / "head.json").read_text())["encoder_sha256"])
    with pytest.raises(ModelError, match="was given 3 features"):
        head.scores(torch.zeros(1, 3))
