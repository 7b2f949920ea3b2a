"""TCIA collections: the published clinical layouts, the endpoints made of them, and a collection from end to end."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from datamodules.errors import DataError
from datamodules.importers.plan import CohortPlan
from datamodules.importers.tcia.clinical_join import read_tcia_clinical
from datamodules.importers.tcia.tcia_source import TciaSource
from datamodules.volumes.contract import PreprocessingContract
from tests.datamodules.importers.dicom_phantom import Scan, segmentation

CDR_COLUMNS = [
    "bcr_patient_barcode", "type", "age_at_initial_pathologic_diagnosis", "gender", "race",
    "ajcc_pathologic_tumor_stage", "clinical_stage", "histological_type", "histological_grade",
    "initial_pathologic_dx_year", "menopause_status", "birth_days_to", "vital_status", "tumor_status",
    "last_contact_days_to", "death_days_to", "cause_of_death", "new_tumor_event_type", "new_tumor_event_site",
    "new_tumor_event_site_other", "new_tumor_event_dx_days_to", "treatment_outcome_first_course", "margin_status",
    "residual_tumor", "OS", "OS.time", "DSS", "DSS.time", "DFI", "DFI.time", "PFI", "PFI.time", "Redaction",
]  # fmt: skip
MONTH = 30.4375


def cdr_row(barcode: str, stage: str, grade: str = "G2", **endpoints: object) -> dict[str, object]:
    blank = dict.fromkeys(CDR_COLUMNS, "[Not Available]")
    blank |= {"type": "KIRC", "gender": "MALE", "age_at_initial_pathologic_diagnosis": "58", "Redaction": "NA"}
    blank |= {"histological_type": "Kidney Clear Cell Renal Carcinoma", "new_tumor_event_site": "#N/A"}
    blank |= {"bcr_patient_barcode": barcode, "ajcc_pathologic_tumor_stage": stage, "histological_grade": grade}
    return blank | dict.fromkeys(("DFI", "DFI.time"), "NA") | endpoints


@pytest.fixture
def cdr(tmp_path: Path) -> Path:
    times = {"OS": 0, "OS.time": 1000, "DSS": 0, "DSS.time": 1000}
    rows = [
        cdr_row("TCGA-B0-0001", "Stage I", **times, PFI=1, **{"PFI.time": 300}),
        cdr_row("TCGA-B0-0002", "Stage IV", "G4", **times, PFI=1, **{"PFI.time": 50}),
        cdr_row("TCGA-CJ-0003", "Stage IV", "G3", **times, PFI=0, **{"PFI.time": 1000}),
        cdr_row("TCGA-CJ-0004", "Stage II", "GX", **times | {"DFI": 0, "DFI.time": 900}, PFI=0, **{"PFI.time": 0}),
        cdr_row("TCGA-CJ-0005", "Stage II", **times, Redaction="Redacted"),
    ]
    path = tmp_path / "TCGA-CDR.tsv"
    pd.DataFrame(rows)[CDR_COLUMNS].to_csv(path, sep="\t", index=False)
    return path


GDC_COLUMNS = [
    "project.project_id",
    "cases.case_id",
    "cases.submitter_id",
    "demographic.age_at_index",
    "demographic.days_to_death",
    "demographic.gender",
    "demographic.vital_status",
    "diagnoses.ajcc_pathologic_m",
    "diagnoses.ajcc_pathologic_n",
    "diagnoses.ajcc_pathologic_stage",
    "diagnoses.ajcc_pathologic_t",
    "diagnoses.days_to_last_follow_up",
    "diagnoses.laterality",
    "diagnoses.primary_diagnosis",
    "diagnoses.submitter_id",
    "diagnoses.tumor_grade",
    "treatments.treatment_type",
]


@pytest.fixture
def gdc(tmp_path: Path) -> Path:
    def row(barcode: str, stage_t: str, stage_m: str, **more: str) -> dict[str, str]:
        blank = dict.fromkeys(GDC_COLUMNS, "'--")
        return blank | {
            "cases.submitter_id": barcode,
            "diagnoses.ajcc_pathologic_t": stage_t,
            "diagnoses.ajcc_pathologic_n": "NX",
            "diagnoses.ajcc_pathologic_m": stage_m,
            "diagnoses.ajcc_pathologic_stage": "Stage IV",
            "diagnoses.laterality": "Left",
            "demographic.age_at_index": "71",
            **more,
        }

    rows = [
        row("TCGA-B0-0002", "T3b", "M1"),
        row("TCGA-B0-0002", "T3b", "M1"),  # one row per treatment
        row("TCGA-CJ-0003", "T4", "M0"),
        row("TCGA-XX-0006", "T1a", "MX", **{"demographic.vital_status": "Alive", "diagnoses.tumor_grade": "G3",
                                            "diagnoses.days_to_last_follow_up": "100"}),
        row("TCGA-XX-0007", "T2", "M0", **{"demographic.vital_status": "Dead", "demographic.days_to_death": "400"}),
    ]  # fmt: skip
    path = tmp_path / "clinical.tsv"
    pd.DataFrame(rows)[GDC_COLUMNS].to_csv(path, sep="\t", index=False)
    return path


def test_the_endpoints_of_the_tcga_cdr(cdr: Path) -> None:
    rows = read_tcia_clinical([cdr])
    first = rows["TCGA-B0-0001"]
    assert first["os_months"] == pytest.approx(1000 / MONTH)
    assert (first["os_event"], first["dss_event"], first["rfs_event"]) == (False, False, True)
    assert first["rfs_months"] == pytest.approx(300 / MONTH)
    assert first["time_origin"] == "diagnosis"
    assert (first["age_years"], first["sex"], first["malignancy"], first["isup_grade"]) == (58, "male", 1, 2)
    assert first["aggressiveness"] == 0
    assert rows["TCGA-CJ-0004"]["rfs_months"] == 0.0
    assert "isup_grade" not in rows["TCGA-CJ-0004"]
    assert "os_months" not in rows["TCGA-CJ-0005"], "a redacted record has no endpoints"


def test_stage_four_has_no_recurrence_unless_it_is_known_not_to_be_metastatic(cdr: Path, gdc: Path) -> None:
    alone = read_tcia_clinical([cdr])
    assert "rfs_months" not in alone["TCGA-B0-0002"]
    assert "rfs_months" not in alone["TCGA-CJ-0003"]
    both = read_tcia_clinical([gdc, cdr])
    assert "rfs_months" not in both["TCGA-B0-0002"]
    assert both["TCGA-CJ-0003"]["rfs_event"] is False
    assert (both["TCGA-B0-0002"]["stage_pt"], both["TCGA-B0-0002"]["stage_pn"]) == ("3b", "X")
    assert both["TCGA-B0-0002"]["age_years"] == 58, "the TCGA-CDR comes first"
    assert both["TCGA-CJ-0003"]["aggressiveness"] == 1


def test_the_disease_free_interval_can_be_chosen(cdr: Path) -> None:
    rows = read_tcia_clinical([cdr], recurrence="dfi")
    assert rows["TCGA-CJ-0004"]["rfs_months"] == pytest.approx(900 / MONTH)
    assert "rfs_months" not in rows["TCGA-B0-0001"]


def test_gdc_overall_survival_ends_at_the_latest_contact(gdc: Path, tmp_path: Path) -> None:
    follow = tmp_path / "follow_up.tsv"
    follow.write_text(
        "project.project_id\tcases.submitter_id\tfollow_ups.days_to_follow_up\n"
        "TCGA-KIRC\tTCGA-XX-0006\t250\nTCGA-KIRC\tTCGA-XX-0006\t'--\nTCGA-KIRC\tTCGA-XX-0007\t900\n"
    )
    rows = read_tcia_clinical([gdc, follow])
    assert rows["TCGA-XX-0006"]["os_months"] == pytest.approx(250 / MONTH)
    assert rows["TCGA-XX-0006"]["os_event"] is False
    assert rows["TCGA-XX-0007"]["os_months"] == pytest.approx(400 / MONTH)
    assert rows["TCGA-XX-0007"]["os_event"] is True
    assert rows["TCGA-XX-0006"]["index_side"] == "left"


def test_the_older_gdc_layout_without_prefixes(tmp_path: Path) -> None:
    path = tmp_path / "clinical.tsv"
    path.write_text(
        "case_id\tcase_submitter_id\tproject_id\tage_at_index\tgender\tvital_status\tdays_to_death\t"
        "days_to_last_follow_up\tajcc_pathologic_t\n"
        "u-1\tTCGA-KL-8323\tTCGA-KICH\t50\tfemale\tDead\t730\t'--\tT1b\n"
    )
    row = read_tcia_clinical([path])["TCGA-KL-8323"]
    assert (row["sex"], row["stage_pt"], row["os_event"]) == ("female", "1b", True)


def test_cptac_with_one_value_per_visit(tmp_path: Path) -> None:
    days = "follow-up/days_from_date_of_initial_pathologic_diagnosis_to_date_of_"
    status, again = "follow-up/vital_status_at_date_of_last_contact", "follow-up/new_tumor_after_initial_treatment"
    rows = [
        {"case_id": "C3L-00001", "consent/age": ">=90", status: "Living|Living",
         days + "last_contact": "365|730", again: "No|No",
         "baseline/pathologic_staging_distant_metastasis": "No pathologic evidence of distant metastasis"},
        {"case_id": "C3N-00002", "consent/age": "61", status: "Living|Deceased",
         days + "last_contact": "300|500", days + "death": "|500", "follow-up/cause_of_death": "|Renal cell carcinoma",
         days + "new_tumor_after_initial_treatment": "|210", again: "No|Yes",
         "baseline/pathologic_staging_distant_metastasis": "pM0"},
        {"case_id": "C3N-00003", status: "Deceased", days + "death": "90",
         again: "Yes", "baseline/pathologic_staging_distant_metastasis": "pM1"},
    ]  # fmt: skip
    for row in rows:
        row |= {"consent/sex": "Female", "baseline/tumor_size_cm": "7.5", "baseline/tumor_laterality": "Right"}
        row |= {"baseline/tumor_stage_pathological": "Stage III", "cptac_path/histologic_grade": "G3"}
        row |= {"baseline/pathologic_staging_primary_tumor": "pT3a", "baseline/sarcomatoid_features": "Not identified"}
    path = tmp_path / "cptac.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    read = read_tcia_clinical([path])
    first, second, third = (read[row["case_id"]] for row in rows)
    assert (first["age_years"], first["tumor_size_mm"], first["stage_pm"]) == (90, 75, "0")
    assert first["os_months"] == pytest.approx(730 / MONTH)
    assert (first["rfs_event"], first["dss_event"]) == (False, False)
    assert second["rfs_months"] == pytest.approx(210 / MONTH)
    assert (second["rfs_event"], second["dss_event"], second["os_event"]) == (True, True, True)
    assert "dss_event" not in third, "a death of unknown cause says nothing of the cancer"
    assert "rfs_event" not in third, "metastatic at diagnosis"
    assert (third["isup_grade"], third["stage_pt"], third["aggressiveness"]) == (3, "3a", 1)


def test_c4kc_kits_counts_from_surgery(tmp_path: Path) -> None:
    path = tmp_path / "kits.csv"
    path.write_text(
        "patient_id,age_at_nephrectomy,gender,body_mass_index,radiographic_size,malignant,tumor_histologic_subtype,"
        "tumor_isup_grade,pathology_t_stage,vital_status,vital_days_after_surgery\n"
        "KiTS-00000,49,male,26.3,2.5,True,clear_cell_rcc,1,1a,censored,2165\n"
        "case_00001,50,female,30.2,3.5,False,oncocytoma,NA,NA,dead,12\n"
    )
    rows = read_tcia_clinical([path])
    assert rows["KiTS-00000"]["time_origin"] == "surgery"
    assert rows["KiTS-00000"]["tumor_size_mm"] == 25.0
    assert rows["KiTS-00001"]["malignancy"] == 0
    assert rows["KiTS-00001"]["os_event"] is True
    assert "rfs_months" not in rows["KiTS-00001"]


def test_a_table_of_another_layout_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"table.csv has the columns a, b.*expected a clinical table of TCGA-CDR"):
        read_tcia_clinical([path])


def test_a_collection_from_end_to_end(tmp_path: Path, cdr: Path) -> None:
    scan = Scan(patient="TCGA-B0-0001", description="CORTICOMEDULLARY")
    scan.write(tmp_path / "in" / "TCGA-B0-0001" / "study" / "series")
    segmentation(scan).save_as(tmp_path / "in" / "TCGA-B0-0001" / "seg.dcm", enforce_file_format=True)
    source = TciaSource(
        tmp_path / "in", CohortPlan("kirc"), tmp_path / "out", collection="TCGA-KIRC", clinical=(cdr,), centers="site"
    )
    assert source.patient_ids() == ["TCGA-B0-0001"]
    record = source.load("TCGA-B0-0001", PreprocessingContract(grid=(8, 8, 8)))
    (patient,) = record.rows["patients"]
    assert patient["center"] == "TCGA-KIRC-B0"
    assert patient["rfs_event"] is True
    assert record.rows["series"][0]["phase"] == "arterial"
    assert [row["is_index"] for row in record.rows["kidneys"]] == [True, False]
    tables = source.finish({"patients": pd.DataFrame(record.rows["patients"])})
    assert tables["centers"].to_dict("records") == [{"center": "TCGA-KIRC-B0", "role": "external"}]
    assert source.info.details is not None
    assert source.info.details["doi"] == "10.7937/K9/TCIA.2016.V6PBVTDR"


def test_an_unknown_collection_lists_the_choices(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected one of C4KC-KiTS, TCGA-KIRC"):
        TciaSource(tmp_path, CohortPlan("x"), tmp_path / "out", collection="TCGA-BRCA")
