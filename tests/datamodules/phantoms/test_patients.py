from __future__ import annotations

import ast
import inspect
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from datamodules.anatomy.nephrometry.points import e_points, l_points, n_points, r_points
from datamodules.anatomy.tissues import LESION, Tissue
from datamodules.errors import DataError
from datamodules.phantoms import drawing, imaging, shapes, surroundings
from datamodules.phantoms.centers import CENTERS, SMALLEST_CENTER, center_sizes
from datamodules.phantoms.facts import Clinical, Patient
from datamodules.phantoms.imaging import draw_region, image_kidney
from datamodules.phantoms.phantom_source import DemoSource
from datamodules.volumes.contract import PreprocessingContract


def test_centres_have_their_sizes() -> None:
    sizes = center_sizes(1000)
    roles = {
        role: sum(sizes[c.name] for c in CENTERS if c.role == role) for role in ("pretrain", "internal", "external")
    }
    assert sum(roles.values()) == 1000
    assert roles["internal"] >= 400
    assert roles["external"] >= 250
    assert min(center_sizes(60).values()) == SMALLEST_CENTER


@pytest.mark.parametrize(
    ("role", "count", "before", "further"),
    [
        ("pretrain", 680, {}, {"pretraining": 680}),
        ("external", 630, {"pretraining": 680}, {"pretraining": 680, "external": 630}),
    ],
)
def test_further_patients_change_no_other_centre_and_no_patient(
    role: str, count: int, before: dict[str, int], further: dict[str, int]
) -> None:
    few, more = DemoSource(1000, 42, **before), DemoSource(1000, 42, **further)
    grown = {name: more.sizes[name] - few.sizes[name] for name in few.sizes if more.sizes[name] != few.sizes[name]}
    assert sum(grown.values()) == count
    assert set(grown) == {center.name for center in CENTERS if center.role == role}
    assert set(few.patient_ids()) < set(more.patient_ids())
    assert few.fingerprint != more.fingerprint


def test_further_pretraining_patients_leave_all_other_splits_as_they_were() -> None:
    few, more = DemoSource(60, 42).tables()["splits"], DemoSource(60, 42, pretraining=40).tables()["splits"]
    one, other = (table[~table["patient_id"].str.startswith("P")].reset_index(drop=True) for table in (few, more))
    assert len(more) == len(few) + 40
    pd.testing.assert_frame_equal(one, other)


@pytest.mark.slow
def test_further_external_patients_leave_every_table_of_the_others_as_it_was() -> None:
    few, more = DemoSource(60, 42, pretraining=20), DemoSource(60, 42, pretraining=20, external=40)
    before, after = few.tables(), more.tables()
    assert len(after["patients"]) == len(before["patients"]) + 40
    known = set(few.patient_ids())
    for name, table in before.items():
        kept = after[name]
        kept = kept[kept["patient_id"].isin(known)] if "patient_id" in kept else kept
        pd.testing.assert_frame_equal(kept.reset_index(drop=True), table.reset_index(drop=True))
    new = after["splits"][~after["splits"]["patient_id"].isin(known)]
    assert set(new["split"]) == {"test"}


@pytest.mark.parametrize("role", ["pretraining", "external"])
def test_a_negative_number_of_further_patients_is_refused(role: str) -> None:
    with pytest.raises(DataError, match=f"-1 further {role} patients were asked for; expected 0 or more"):
        DemoSource(60, **{role: -1})


@pytest.mark.parametrize("number", [0, -5, 47])
def test_a_cohort_too_small_is_refused(number: int) -> None:
    with pytest.raises(DataError, match="expected at least 48"):
        DemoSource(number)


def test_an_unknown_centre_is_refused(source: DemoSource) -> None:
    with pytest.raises(DataError, match="names no centre"):
        source.patient("X9-0001")


def test_a_patient_depends_on_seed_and_pseudonym_alone(contract: PreprocessingContract) -> None:
    first = DemoSource(1000, 42).load("E2-0003", contract)
    small = DemoSource(60, 42)
    small.load("P1-0001", contract)  # another patient before changes nothing
    second = small.load("E2-0003", contract)
    assert first.rows == second.rows
    for one, other in zip(first.volumes, second.volumes, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
    assert DemoSource(1000, 43).load("E2-0003", contract).rows != first.rows


def test_histology_stage_and_outcome_leave_every_voxel_and_word_unchanged(
    source: DemoSource, contract: PreprocessingContract
) -> None:
    patient = source.patient("I2-0005")
    other = Clinical(
        "oncocytoma", False, 33.0, "female", 20.0, None, None, None, None, None, None, None, None, None, {}
    )
    changed = replace(patient, clinical=other)
    for side in ("left", "right"):
        one, _ = image_kidney(patient.anatomy, side, patient.series, contract)
        two, _ = image_kidney(changed.anatomy, side, changed.series, contract)
        for image, same in zip(one, two, strict=True):
            np.testing.assert_array_equal(image, same)


@pytest.mark.parametrize("module", [drawing, imaging, shapes, surroundings])
def test_the_code_that_makes_images_cannot_name_a_clinical_fact(module: object) -> None:
    tree = ast.parse(inspect.getsource(module))  # type: ignore[arg-type]
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    forbidden = {
        "Clinical",
        "Patient",
        "clinical",
        "subtype",
        "malignant",
        "isup_grade",
        "stage_pt",
        "risk",
        "endpoints",
    }
    modules = {"datamodules.phantoms.pathology", "datamodules.phantoms.subtypes", "datamodules.phantoms.patients"}
    assert not names & (forbidden | modules)


def test_a_record_holds_every_series_of_both_kidneys(source: DemoSource, contract: PreprocessingContract) -> None:
    record = source.load("P3-0002", contract)
    series = record.rows["series"]
    assert len(record.volumes) == 2 * len(series)
    assert {mask.side for mask in record.masks} == {"left", "right"}
    for volume in record.volumes:
        assert volume.image.shape == contract.grid
        assert volume.image.dtype == np.int16
        assert volume.image.std() > 20
    for mask in record.masks:
        assert mask.labels.dtype == np.uint8
        assert not (mask.labels == Tissue.UNLABELED).any()


def test_a_region_may_be_centred_on_the_lesion(source: DemoSource) -> None:
    patient = source.patient("I1-0014")
    contract = PreprocessingContract(grid=(40, 48, 48), region="lesion")
    _, labels = image_kidney(patient.anatomy, patient.index_side, [], contract)
    center = np.argwhere(np.isin(labels, LESION)).mean(axis=0)
    np.testing.assert_allclose(center, [20, 24, 24], atol=3)


def test_measures_are_those_of_the_drawn_map(source: DemoSource) -> None:
    contract = PreprocessingContract(grid=(80, 70, 70))
    for patient_id in ("I1-0054", "I1-0064", "E1-0012"):
        patient = source.patient(patient_id)
        measures = patient.index_lesion.measures
        labels, grid = draw_region(patient.anatomy, patient.index_side, contract)
        inside = np.isin(labels, LESION)
        volume_ml = inside.sum() * np.prod(grid.spacing_mm) / 1000
        others = sum(one.measures.volume_ml for one in patient.anatomy.kidneys[patient.index_side].lesions)
        # The sinus, where it is displaced and not invaded, takes a part of what the shape would fill.
        assert 0.75 * others < volume_ml < 1.1 * others
        shape = patient.anatomy.kidneys[patient.index_side].shape
        body = np.broadcast_to(shape.body(*shape.local(grid.x, grid.y, grid.z)), labels.shape)
        assert np.mean(body[inside] > 1) == pytest.approx(measures.exophytic_fraction, abs=0.1)


def test_renal_points_follow_the_stored_values(tables: dict) -> None:
    kidneys = tables["kidneys"]
    crossing = tables["truth"]["crosses_midline"]
    scored = kidneys["has_lesion"]
    rows = kidneys[scored].assign(crosses=crossing[scored].astype(bool))
    assert (rows["renal_r"] == rows["renal_r_mm"].map(r_points)).all()
    assert (rows["renal_e"] == rows["renal_e_fraction"].map(e_points)).all()
    assert (rows["renal_n"] == rows["renal_n_mm"].map(n_points)).all()
    points = [l_points(*pair) for pair in rows[["renal_l_fraction", "crosses"]].itertuples(index=False, name=None)]
    assert rows["renal_l"].tolist() == points
    assert kidneys.loc[~scored, ["renal_r", "renal_e", "renal_n", "renal_a", "renal_l"]].isna().all(axis=None)
    # Every class of every component is common enough to be learned.
    index = rows[rows["is_index"]]
    for column in ("renal_r", "renal_e", "renal_n", "renal_a", "renal_l"):
        assert index[column].value_counts(normalize=True).min() > 0.05, column


def test_the_index_kidney_holds_the_largest_lesion(patients: list[Patient]) -> None:
    for patient in patients:
        largest = max(one.measures.diameter_mm for kidney in patient.anatomy.kidneys.values() for one in kidney.lesions)
        assert patient.index_lesion.measures.diameter_mm == largest
    sides = [patient.index_side for patient in patients]
    assert 0.42 < sides.count("left") / len(sides) < 0.58


def test_normal_kidneys_second_lesions_and_bilateral_cysts_occur(patients: list[Patient]) -> None:
    free = [p for p in patients if any(not kidney.lesions for kidney in p.anatomy.kidneys.values())]
    several = [p for p in patients if len(p.anatomy.kidneys[p.index_side].lesions) > 1]
    assert len(free) > 500
    assert len(several) > 100


def test_phases_are_missing_and_an_early_enhanced_one_never(patients: list[Patient]) -> None:
    phases = [{series.phase for series in patient.series} for patient in patients]
    assert all(found & {"arterial", "venous"} for found in phases)
    assert 0.2 < np.mean([len(found) == 4 for found in phases]) < 0.6
