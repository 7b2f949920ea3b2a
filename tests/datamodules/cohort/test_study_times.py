"""The time of a study: a scan after treatment enters no task, and a cohort without times says so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest

from datamodules.attributes import AttributeDataModule
from datamodules.augmentation import AugmentationConfig
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.labels import Label, targets
from datamodules.cohort.study_times import before_treatment, index_kidneys
from datamodules.importers.builder import build_cohort
from datamodules.importers.records import PatientRecord
from datamodules.quality.cohort_checks import check_cohort
from datamodules.reports.sides import side_reports
from datamodules.tasks import RoiDataModule
from datamodules.volumes.contract import PreprocessingContract
from datamodules.writing import ReportImageDataModule
from experiments.encoders.radiomics.measure import downstream_positions
from experiments.pretraining.evaluation.text_evaluation import kidney_parts
from experiments.registry import TASKS, task_label
from tests.tiny import CONTRACT, TinySource

AFTER_ALONE = "I1-003"


@dataclass(frozen=True)
class FollowedSource(TinySource):
    """Every patient was scanned 40 and 10 days before surgery, and 200 days after it.

    The tables mark the kidney with the tumour in all three studies, as somebody does who does not know the time; of one
    patient only the last study is there.
    """

    timed: bool = True

    def load(self, patient_id: str, contract: PreprocessingContract) -> PatientRecord:
        record = super().load(patient_id, contract)
        rows: dict[str, list[dict[str, object]]] = {"patients": list(record.rows["patients"])}
        volumes, masks = [], []
        for study, days in (("early", -40), ("last", -10), ("after", 200)):
            if patient_id == AFTER_ALONE and study != "after":
                continue
            name = f"{patient_id}-{study}"
            for table in ("series", "kidneys"):
                for row in record.rows[table]:
                    new = {**row, "study_id": name}
                    if table == "series":
                        new["series_id"] = f"{name}-{row['phase']}"
                    elif study == "after" and row["is_index"]:
                        new |= {"renal_r": 1, "lesion_diameter_mm": 3.0}
                    rows.setdefault(table, []).append(new)
            volumes += [
                replace(one, study_id=name, series_id=f"{name}-{one.phase}", image=one.image + (study == "after") * 500)
                for one in record.volumes
            ]
            masks += [replace(one, study_id=name) for one in record.masks]
            if self.timed:
                rows.setdefault("studies", []).append(
                    {"patient_id": patient_id, "study_id": name, "days_from_origin": days}
                )
            text = f"Study {study} of {patient_id}. Left kidney: a mass. Right kidney: no mass."
            keys = {"report_id": f"{name}-r", "patient_id": patient_id, "study_id": name}
            rows.setdefault("reports", []).append({**keys, "side": None, "text": text, "source": "generated"})
            stated = {"attribute": "lesion_present", "evidence": "mass", "start": 0, "end": 1, "extractor": "rules"}
            stated |= {"confidence": 1.0, "uncertain": False, "schema_version": 1}
            for side, value in (("left", "yes"), ("right", "no")):
                rows.setdefault("attributes", []).append({**keys, "side": side, "value": value, **stated})
        return PatientRecord(patient_id, rows, volumes, masks)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("followed") / "tiny"
    build_cohort(FollowedSource(), root, CONTRACT, workers=1)
    return root


def _options(root: Path) -> dict[str, object]:
    return {
        "root": root,
        "contract": CONTRACT,
        "augmentation": AugmentationConfig(crop=(8, 10, 10)),
        "batch_size": 4,
    }


def _studies(frame: pd.DataFrame) -> set[str]:
    return set(frame["study_id"].str.rpartition("-")[2])


@pytest.mark.parametrize("task", [name for name in TASKS if name != "subtype"])  # too few here for its five classes
def test_every_task_reads_the_last_study_before_treatment(followed: Path, task: str) -> None:
    module = RoiDataModule(label=task_label(task), **_options(followed))  # type: ignore[arg-type]
    kidneys = module.plan.kidneys
    assert _studies(kidneys) == {"last"}
    assert set(kidneys["part"]) >= {"train", "val", "test"}
    assert kidneys["patient_id"].is_unique
    assert AFTER_ALONE not in set(kidneys["patient_id"])
    for part in ("train", "val", "test"):
        index = module.plan.volumes.index["study_id"].str.rpartition("-")[2]
        assert {index[position] for group in module.visits(part).volumes for position in group} == {"last"}


def test_a_label_of_the_kidney_is_that_of_the_study_before_treatment(followed: Path) -> None:
    cohort = Cohort.load(followed)
    label = task_label("renal_r")
    expected = targets(Cohort.load(followed), label).set_index("patient_id")["target"]
    changed = cohort["kidneys"].copy()
    changed.loc[changed["study_id"].str.endswith(("after", "early")), "renal_r"] = 2
    found = targets(Cohort(followed, cohort.info, {**cohort.tables, "kidneys": changed}), label)
    assert found.set_index("patient_id")["target"].equals(expected)


def test_pretraining_reports_and_radiomics_leave_follow_up_out(followed: Path) -> None:
    cohort = Cohort.load(followed)
    seen = {"early", "last"}
    attributes = AttributeDataModule(**_options(followed))  # type: ignore[arg-type]
    reports = ReportImageDataModule(**_options(followed))  # type: ignore[arg-type]
    for module in (attributes, reports):
        for part in ("train", "val", "test"):
            kidneys = module.plan.kidneys
            assert _studies(kidneys[kidneys["part"] == part]) == seen
    assert not any("after" in str(text) for text in reports.plan.fields["report"])
    assert _studies(side_reports(cohort)) == seen
    fitted, tested = kidney_parts(cohort, 0, 0, None)
    assert _studies(fitted) == _studies(tested) == seen
    volumes = attributes.plan.volumes
    positions = downstream_positions(cohort, volumes)
    assert _studies(volumes.index.iloc[positions]) == {"last"}


def test_data_check_names_follow_up_and_what_is_marked_wrongly(followed: Path) -> None:
    findings = {(one.level, one.what) for one in check_cohort(followed, verify=False) if "stud" in one.what}
    assert ("FAIL", "60 studies after treatment are marked index (E1-000, E1-001, E1-002 and 57 more)") in findings
    assert ("WARN", f"1 patients have no study before treatment ({AFTER_ALONE})") in findings
    assert ("PASS", "178 studies state their time; 60 are follow-up and enter no task") in findings


@pytest.mark.slow
def test_a_cohort_without_times_is_used_as_before_and_says_so(tmp_path: Path) -> None:
    build_cohort(FollowedSource(per_center=12, timed=False), tmp_path / "tiny", CONTRACT, workers=1)
    module = RoiDataModule(label=task_label("malignancy"), **_options(tmp_path / "tiny"))  # type: ignore[arg-type]
    assert _studies(module.plan.kidneys) == {"early", "last", "after"}
    findings = check_cohort(tmp_path / "tiny", verify=False)
    assert any(one.level == "WARN" and "states its time; all are taken to be before" in one.what for one in findings)
    assert not any(one.level == "FAIL" for one in findings)


@pytest.mark.parametrize(
    ("days", "treatment_days", "expected"),
    [
        ({"a": None, "b": None}, None, "ab"),
        ({"a": -3, "b": 0, "c": 1}, None, "ab"),
        ({"a": -3, "b": 20, "c": 31}, 30, "ab"),
        ({"a": -30, "b": -3}, -10, "a"),
        ({"a": -3, "b": None}, None, "a"),
        ({"a": 5, "b": None}, None, ""),
    ],
)
def test_what_is_before_treatment(days: dict[str, int | None], treatment_days: int | None, expected: str) -> None:
    assert before_treatment(days, treatment_days) == set(expected)


def test_treatment_after_the_origin_and_studies_of_one_day(followed: Path, tmp_path: Path) -> None:
    cohort = Cohort.load(followed)
    patients, studies = cohort["patients"].copy(), cohort["studies"].copy()
    patients.loc[patients["patient_id"] == "I1-000", ["time_origin", "treatment_days"]] = ["diagnosis", 250]
    studies.loc[studies["study_id"] == "I1-001-early", "days_from_origin"] = -10
    studies.loc[studies["study_id"] == "I1-002-last", "days_from_origin"] = pd.NA
    changed = Cohort(tmp_path / "changed", cohort.info, {**cohort.tables, "patients": patients, "studies": studies})
    found = index_kidneys(changed).groupby("patient_id")["study_id"].agg(lambda names: {n[7:] for n in names})
    assert found["I1-000"] == {"after"}
    assert found["I1-001"] == {"early", "last"}
    assert found["I1-002"] == {"early"}
    assert found["I1-004"] == {"last"}
    assert AFTER_ALONE not in found.index
    changed.write()
    findings = {one.what for one in check_cohort(changed.root)}
    assert any(what.startswith("1 of 178 studies state no time") for what in findings)


def test_a_label_for_which_only_follow_up_is_left_is_nobodys(followed: Path) -> None:
    label = Label("malignancy", "malignancy", [0, 1], ["benign", "malignant"])
    assert AFTER_ALONE not in set(targets(Cohort.load(followed), label)["patient_id"])
