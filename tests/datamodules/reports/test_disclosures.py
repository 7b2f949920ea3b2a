"""What a clinical report may not carry: identity, pathology and outcome; and what an imaging report does say."""

from __future__ import annotations

import pytest

from datamodules.reports.disclosures import check_disclosures, disclosures, redacted

FAILS = [
    ("Patient: Johanna Petersen. Left renal mass of 3 cm.", "name"),
    ("Patient name: PETERSEN, JOHANNA\nLeft renal mass.", "name"),
    ("Dear Dr. Okafor, there is a left renal mass.", "name"),
    ("Mrs Petersen has a left renal mass.", "name"),
    ("Left renal mass. Electronically signed by: A. B. Okafor MD", "name"),
    ("Left renal mass. Dictated by Dr Okafor.", "name"),
    ("Comparison: CT of 03/14/2019.", "date"),
    ("Comparison: CT of 14.3.19.", "date"),
    ("Comparison: 2019-03-14.", "date"),
    ("Compared with the scan of 14 March 2019.", "date"),
    ("Compared with March 14, 2019.", "date"),
    ("Compared with March 2019.", "date"),
    ("DOB: 02/03/1951. Left renal mass.", "date"),
    ("MRN 00482913. Left renal mass.", "record number"),
    ("MRN: AB-48291. Left renal mass.", "record number"),
    ("Accession number: 7719-2204. Left renal mass.", "record number"),
    ("Left renal mass (48291377).", "record number"),
    ("SSN 123-45-6789.", "record number"),
    ("Study 1.2.840.113619.2.55.3.604688.", "record number"),
    ("A 93-year-old woman with a left renal mass.", "age over 89"),
    ("Age: 101. Left renal mass.", "age over 89"),
    ("92 y/o male, left renal mass.", "age over 89"),
    ("97F, flank pain.", "age over 89"),
    ("Results were phoned to +44 20 7946 0018.", "contact"),
    ("Questions: jp@hospital.example.", "contact"),
    ("Addendum: pathology shows clear cell renal cell carcinoma.", "pathology"),
    ("Pathology: oncocytoma.", "pathology"),
    ("Histopathology confirmed a papillary type.", "pathology"),
    ("Biopsy-proven chromophobe tumour of the left kidney.", "pathology"),
    ("The biopsy showed an oncocytic neoplasm.", "pathology"),
    ("Known left renal cell carcinoma.", "pathology"),
    ("Clear cell RCC of the left kidney.", "pathology"),
    ("Left oncocytoma.", "pathology"),
    ("ISUP 3.", "grade or stage"),
    ("Fuhrman grade II tumour.", "grade or stage"),
    ("Nuclear grade 2.", "grade or stage"),
    ("Left renal mass, pT1a pN0.", "grade or stage"),
    ("Stage III disease.", "grade or stage"),
    ("The patient died two years after surgery.", "outcome"),
    ("Deceased 2021.", "outcome"),
    ("The tumour later recurred in the bed.", "outcome"),
    ("Recurrence after 14 months.", "outcome"),
    ("She subsequently underwent left nephrectomy.", "outcome"),
    ("Disease-free survival of 5 years.", "outcome"),
]
CLEAN = [
    "Left renal mass of 4.2 x 3.1 x 3.0 cm in the upper pole, exophytic. No thrombus.",
    "No pathology was observed in the upper abdominal organs.",
    "No pathologically enlarged lymph nodes.",
    "Pathological fracture of L1. Wall thickness is not pathological.",
    "Bosniak III cyst of the right kidney, 35 HU. Grade 2 hydronephrosis.",
    "Stable since 2019.",
    "Mass of 92 mm. Attenuation of 95 HU. 101 mm in length.",
    "A 64-year-old man with flank pain.",
    "Biopsy is recommended. Histopathological verification is advised.",
    "Lesions at T12/L1; 1.5 mm slices, 120 kV, 2/3 of the lesion, 10-12 lesions, images 4/120.",
    "Segment 4/5 of the liver. Series 3, image 45.",
    "The adrenal gland is normal. May be a cyst. Margins are smooth.",
    "No residual or recurrent mass in the nephrectomy bed.",
    "Patient is a smoker. The patient was not cooperative.",
    "Perirenal fat is clear. Clear cell structures are not described.",
    "Low-grade dilatation of the renal pelvis.",
]
SUSPECTED = [
    "Findings are suspicious for renal cell carcinoma.",
    "Enhancing mass, most likely clear cell RCC.",
    "Left angiomyolipoma of 2 cm.",
    "RCC versus oncocytoma.",
    "No evidence of malignancy.",
]


@pytest.mark.parametrize(("text", "kind"), FAILS)
def test_what_is_disclosed_is_found_and_cut(text: str, kind: str) -> None:
    assert kind in {entry.kind for entry in disclosures(text)}
    assert [entry for entry in disclosures(redacted(text)) if entry.kind != "impression"] == []


@pytest.mark.parametrize("text", CLEAN)
def test_imaging_findings_are_clean_and_stay(text: str) -> None:
    assert disclosures(text) == []
    assert redacted(text) == text


@pytest.mark.parametrize("text", SUSPECTED)
def test_what_imaging_suspects_is_told_apart(text: str) -> None:
    assert {entry.kind for entry in disclosures(text)} == {"impression"}
    assert redacted(text) == text


def test_a_leak_of_the_label_leaves_no_mark() -> None:
    text = "Left renal mass of 3 cm (CT of 14.03.2019). Pathology: clear cell RCC, ISUP 2. No thrombus."
    assert redacted(text) == "Left renal mass of 3 cm (CT of [date]). No thrombus."


def test_findings_name_rows_and_no_word_of_a_report() -> None:
    texts = [CLEAN[0], "Patient: Johanna Petersen.", *["CT of 14.03.2019."] * 9, SUSPECTED[0]]
    findings = check_disclosures(texts)
    assert [(finding.level, finding.where) for finding in findings] == [
        ("FAIL", "reports.parquet, rows 2"),
        ("FAIL", "reports.parquet, rows 3, 4, 5, 6, 7, 8, 9, 10 and 1 more"),
        ("WARN", "reports.parquet, rows 12"),
    ]
    said = " ".join(finding.sentence() for finding in findings)
    assert not any(word in said for word in ("Petersen", "14.03", "suspicious"))


def test_clean_reports_pass() -> None:
    assert [finding.level for finding in check_disclosures(CLEAN)] == ["PASS"]
