"""Reports that disclose a person or the label: told at import, failed by data-check, cleaned by REDACT."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from datamodules.cohort.cohort import Cohort
from experiments.cli import main
from tests.datamodules.importers.nifti_phantom import labels, save, scan_hu

TEXTS = [
    "Left renal mass of 3 cm. Pathology: clear cell renal cell carcinoma, ISUP 2.",
    "Patient: Johanna Petersen, MRN 4829137. CT of 14.03.2019. Left renal mass.",
    "Left renal mass of 3 cm, enhancing.",
    "Final pathology showed an oncocytoma.",
]
SECRETS = ("Petersen", "4829137", "14.03", "clear cell", "ISUP", "oncocytoma")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Four patients with a report each."""
    for place in range(len(TEXTS)):
        save(tmp_path / f"ct{place}.nii.gz", scan_hu() + place)
    save(tmp_path / "mask.nii.gz", labels())
    rows = [
        {"patient_id": f"p{place}", "study_id": f"e{place}", "series_id": f"s{place}", "center": "A", "phase": "venous"}
        | {"image": f"ct{place}.nii.gz", "mask": "mask.nii.gz"}
        for place in range(len(TEXTS))
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "manifest.csv", index=False)
    reports = pd.DataFrame({"study_id": [row["study_id"] for row in rows], "side": "left", "text": TEXTS})
    reports.to_csv(tmp_path / "reports.csv", index=False)
    return tmp_path / "manifest.csv"


def _import(manifest: Path, out: Path, *extra: str) -> int:
    return main(
        ["import", f"--source={manifest}", f"--out={out}", "--workers=1", "--options={plan: {name: ward}}", *extra]
    )


def test_what_reports_disclose_is_told_and_failed_and_cleaned_in_a_copy(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert _import(manifest, out) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "FAIL reports.parquet, rows 2: 1 of 4 reports hold a person's name" in told
    assert main(["data-check", f"--data={out}", "--quick=true", "--redact=true"]) == 1
    said = capsys.readouterr()
    shown = " ".join(said.out.split())
    assert "rows 1, 4: 2 of 4 reports hold pathology" in shown
    assert "2 of 4 reports were cleaned and 1 left out" in " ".join((said.out + said.err).split())
    assert not any(word in shown + told for word in SECRETS)
    assert Cohort.load(out)["reports"]["text"].tolist() == TEXTS
    copy = pd.read_parquet(out / "reports-redacted.parquet")
    (out / "reports-redacted.parquet").rename(out / "reports.parquet")
    assert not any(word in text for text in copy["text"] for word in SECRETS)
    assert main(["data-check", f"--data={out}", "--quick=true"]) == 0


def test_an_import_that_cleans_writes_nothing_of_it(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert _import(manifest, out, "--redact=true") == 0
    assert Cohort.load(out)["reports"]["text"].tolist() == [
        "Left renal mass of 3 cm.",
        "Patient: [name], MRN [record number]. CT of [date]. Left renal mass.",
        TEXTS[2],
    ]
    for path in out.rglob("*"):
        assert not path.is_file() or not any(word.encode() in path.read_bytes() for word in SECRETS), path.name
    assert main(["data-check", f"--data={out}", "--quick=true"]) == 0
    assert main(["refresh", f"--data={out}", "--redact=true"]) == 0
    assert len(Cohort.load(out)["reports"]) == 3
    assert main(["refresh", f"--data={out}"]) == 2
    assert _import(manifest, out) == 2  # what is there was cleaned, and is not mixed with what was not


def test_attributes_are_not_read_by_rules_from_another_language(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = pd.read_csv(manifest.with_name("reports.csv"))
    reports.loc[1, "text"] = "Raumforderung der linken Niere von 3 cm, kein Harnstau."
    reports["text"] = reports["text"].where(reports.index != 0, TEXTS[2]).where(reports.index != 3, TEXTS[2])
    reports.to_csv(manifest.with_name("reports.csv"), index=False)
    out = tmp_path / "out"
    assert _import(manifest, out) == 0
    assert "WARN reports.parquet: 1 of 4 reports are in German (the first is row 2)" in " ".join(
        capsys.readouterr().out.split()
    )
    assert main(["attributes", f"--data={out}"]) == 2
    error = capsys.readouterr().err
    assert "1 in German (the first is report 2)" in error
    assert error.count("\n") == 1
    assert not (out / "attributes.parquet").exists()
