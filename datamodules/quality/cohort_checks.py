"""The checks of `make data-check`: what would make training fail, or its result mislead."""

from __future__ import annotations

from pathlib import Path

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.columns import ENDPOINTS
from datamodules.cohort.label_fractions import MINIMUM_PER_CLASS
from datamodules.cohort.study_times import STUDY, study_times
from datamodules.errors import DataError, Finding
from datamodules.files import read_parquet
from datamodules.quality.volume_set_checks import check_volume_sets, named
from datamodules.reports.disclosures import check_disclosures
from datamodules.reports.language import foreign_reports

_ENTRIES_SHOWN = 5
LOCAL_PATHS = Path(".build", "made_from.json")
"""What earlier versions kept in a cohort: the places of its sources on the machine that imported it."""


def check_cohort(root: Path, *, verify: bool = True, deep: bool = False) -> list[Finding]:
    """Every finding about a cohort; findings are returned, not raised.

    Args:
        root: Folder of the cohort.
        verify: Whether to read every volume and label map and compare their checksums.
        deep: Whether to read every byte of the shards, too; expected with `verify`.

    Returns:
        Findings, PASS included, in the order tables, patients, outcomes, volumes.
    """
    cohort, findings = Cohort.inspect(root)
    if cohort is None:
        return findings
    if not any(finding.level == "FAIL" for finding in findings):
        rows = ", ".join(f"{len(frame)} {name}" for name, frame in cohort.tables.items())
        findings.append(Finding("PASS", f"all tables follow their schema ({rows})", "tables"))
    findings += _check_times(cohort)
    findings += _check_index_kidneys(cohort)
    findings += _check_endpoints(cohort)
    findings += _check_classes(cohort)
    findings += check_reports(cohort)
    if (root / LOCAL_PATHS).is_file():
        where, fix = (
            LOCAL_PATHS.as_posix(),
            "delete it before the cohort is shared; `make volumes` then asks for SOURCE=",
        )
        findings.append(Finding("WARN", "holds paths of the machine that imported the cohort", where, "no path", fix))
    findings += _check_import(root)
    findings += check_volume_sets(cohort, verify, deep)
    return findings


def check_reports(cohort: Cohort) -> list[Finding]:
    """What the reports that radiologists wrote disclose, and those that are not in English."""
    if "reports" not in cohort.tables:
        return []
    reports = cohort["reports"]
    texts = [
        str(text) if written else ""
        for text, written in zip(reports["text"], reports["source"] == "clinical", strict=True)
    ]
    if not any(texts):
        return []
    findings = check_disclosures(texts)
    for name, places in foreign_reports(texts).items():
        what = f"{len(places)} of {len(texts)} reports are in {name} (the first is row {places[0] + 1})"
        fix = "translate them, or read them with EXTRACTOR=llm and a model that knows the language"
        findings.append(Finding("WARN", what, "reports.parquet", "English, which the rules read", fix))
    return findings


def _check_import(root: Path) -> list[Finding]:
    """What an import left out, as its report says; a cohort that was drawn has lost nobody."""
    path = root / "import.parquet"
    if not path.is_file():
        return []
    try:
        report = read_parquet(path)[0]
    except DataError as error:
        return [Finding("WARN", str(error).rstrip("."), path.name)]
    lost = report[report["status"] != "imported"]
    findings = [
        Finding("WARN", f"{row.patient_id} {row.status}: {str(row.reason).rstrip('.')}", path.name)
        for row in lost.head(_ENTRIES_SHOWN).itertuples(index=False)
    ]
    if len(lost) > _ENTRIES_SHOWN:
        findings.append(Finding("WARN", f"{len(lost) - _ENTRIES_SHOWN} more were not imported", path.name))
    return findings or [Finding("PASS", f"all {len(report)} entries were imported", path.name)]


def _check_times(cohort: Cohort) -> list[Finding]:
    times, kidneys, patients = study_times(cohort), cohort["kidneys"], cohort["patients"]
    known = times["days_from_origin"].notna()
    if not known.any():
        return [
            Finding(
                "WARN",
                f"none of {len(times)} studies states its time; all are taken to be before treatment",
                "studies.parquet",
                "days_from_origin of each",
                "state it, or make sure that no scan after treatment is among them",
            )
        ]
    findings = []
    marked = kidneys[kidneys["is_index"]].merge(times[~times["before"]], on=STUDY)
    marked = marked[marked["days_from_origin"].notna()]
    if len(marked):
        findings.append(
            Finding(
                "FAIL",
                f"{len(marked)} studies after treatment are marked index ({named(sorted(set(marked['patient_id'])))})",
                "kidneys.parquet",
                "an index kidney of a study before treatment",
                "set is_index of them to false, or correct days_from_origin",
            )
        )
    without = sorted(set(times["patient_id"]) - set(times.loc[times["before"], "patient_id"]))
    if without:
        findings.append(
            Finding(
                "WARN",
                f"{len(without)} patients have no study before treatment ({named(without)})",
                "studies.parquet",
                "a scan of the tumour",
                "they enter no task; where day 0 is not the treatment, state `treatment_days`",
            )
        )
    without_origin = set(patients.loc[patients["time_origin"].isna(), "patient_id"])
    unclear = sorted(without_origin & set(times.loc[known, "patient_id"]))
    if unclear:
        findings.append(
            Finding(
                "WARN",
                f"{len(unclear)} patients have days of studies and no time_origin ({named(unclear)})",
                "patients.parquet",
                "what day 0 is",
                "state it; day 0 is taken for the treatment",
            )
        )
    if (~known).any():
        untimed = int((~known & times["before"]).sum())
        findings.append(
            Finding(
                "WARN",
                f"{int((~known).sum())} of {len(times)} studies state no time",
                "studies.parquet",
                "days_from_origin of each",
                f"{untimed} of them, whose patients have no other, are taken to be before treatment; the others enter "
                "no task",
            )
        )
    later = int((~times["before"] & known).sum())
    what = f"{int(known.sum())} studies state their time; {later} are follow-up and enter no task"
    return [*findings, Finding("PASS", what, "studies.parquet")]


def _check_index_kidneys(cohort: Cohort) -> list[Finding]:
    kidneys, patients = cohort["kidneys"], cohort["patients"]
    index = kidneys[kidneys["is_index"]].drop_duplicates(["patient_id", "side"])
    counts = index.groupby("patient_id").size().reindex(patients["patient_id"], fill_value=0)
    findings = []
    if several := sorted(map(str, counts.index[counts > 1])):
        findings.append(
            Finding(
                "FAIL",
                f"{len(several)} patients have two index kidneys ({named(several)})",
                "kidneys.parquet",
                "one kidney with the largest lesion",
                "set is_index of the other to false",
            )
        )
    if none := sorted(map(str, counts.index[counts == 0])):
        findings.append(
            Finding(
                "WARN",
                f"{len(none)} patients have no index kidney ({named(none)})",
                "kidneys.parquet",
                "a lesion",
                "they serve pretraining only",
            )
        )
    return findings or [Finding("PASS", "every patient has one index kidney", "kidneys.parquet")]


def _check_endpoints(cohort: Cohort) -> list[Finding]:
    patients = cohort["patients"]
    findings = []
    for name in ENDPOINTS:
        half = patients[patients[f"{name}_months"].isna() != patients[f"{name}_event"].isna()]
        if len(half):
            findings.append(
                Finding(
                    "FAIL",
                    f"{len(half)} patients have a time or an event of {name} without the other "
                    f"({named(list(half['patient_id']))})",
                    "patients.parquet",
                    "both or neither",
                    "complete it",
                )
            )
    both = patients.dropna(subset=["dss_event", "os_event", "dss_months", "os_months"])
    wrong = both[(both["dss_event"] & ~both["os_event"]).to_numpy(dtype=bool)]
    if len(wrong):
        findings.append(
            Finding(
                "FAIL",
                f"{len(wrong)} patients died of cancer and not of any cause ({named(list(wrong['patient_id']))})",
                "patients.parquet",
                "dss_event implies os_event",
                "correct the endpoint",
            )
        )
    late = patients.dropna(subset=["rfs_months", "os_months"])
    late = late[(late["rfs_months"] > late["os_months"] + 1e-6).to_numpy(dtype=bool)]
    if len(late):
        findings.append(
            Finding(
                "FAIL",
                f"{len(late)} patients have recurrence-free time beyond their overall follow-up "
                f"({named(list(late['patient_id']))})",
                "patients.parquet",
                "rfs_months <= os_months",
                "correct the times",
            )
        )
    if findings:
        return findings
    known = ", ".join(
        f"{name} {int(patients[f'{name}_event'].sum())} events of {int(patients[f'{name}_event'].notna().sum())}"
        for name in ENDPOINTS
    )
    return [Finding("PASS", f"endpoints are consistent ({known})", "patients.parquet")]


def _check_classes(cohort: Cohort) -> list[Finding]:
    patients = cohort.patients()
    findings = []
    trained = patients[(patients["role"] == "internal") & (patients["split"].fillna("train") == "train")]
    for column in ("malignancy", "aggressiveness"):
        counts = trained[column].value_counts()
        if counts.empty:
            findings.append(
                Finding(
                    "WARN",
                    f"{column} is not known of any internal training patient",
                    "patients.parquet",
                    "labels",
                    "its task cannot be trained",
                )
            )
        elif len(counts) < 2 or counts.min() < MINIMUM_PER_CLASS:
            known = [f"{count} of class {name}" for name, count in counts.items()]
            findings.append(
                Finding(
                    "WARN",
                    f"{column}: {' and '.join(known)} are among the internal training patients",
                    "patients.parquet",
                    f"at least {MINIMUM_PER_CLASS} of each",
                    "its task cannot be trained",
                )
            )
        for part in ("val", "test"):
            own = patients.loc[(patients["role"] == "internal") & (patients["split"] == part), column]
            if len(own) and len(counts) > 1 and own.nunique() < 2:
                findings.append(
                    Finding(
                        "WARN",
                        f"the {len(own)} internal patients of {part} are of one class of {column}, or of none",
                        "splits.parquet",
                        "patients of both",
                        "of a small cohort another `seed` in the plan divides the patients otherwise",
                    )
                )
    return findings or [
        Finding("PASS", "both classes of malignancy and aggressiveness can be trained", "patients.parquet")
    ]
