"""What the reports of a cohort say of each kidney, as one text a kidney and study."""

from __future__ import annotations

import zlib
from collections.abc import Collection

import numpy as np
import pandas as pd

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.columns import SIDES
from datamodules.cohort.study_times import rows_before_treatment
from datamodules.errors import DataError
from datamodules.reports.reader.clauses import kidney_text
from datamodules.reports.reader.sections import plain_text, sentences

KIDNEY = ["patient_id", "study_id", "side"]


def side_reports(cohort: Cohort, patients: Collection[str] | None = None) -> pd.DataFrame:
    """The text of every kidney whose study has a report and is before treatment.

    A report of the whole study is split by the side that its sentences speak of; a side that it does not mention reads
    "The left kidney is not described.", which is not the same as a normal one. Several reports of a study follow each
    other in the order of their ids.

    Args:
        cohort: The cohort.
        patients: Ids of the patients whose reports are read; all when left out.

    Returns:
        One row per kidney and study, sorted by them: patient_id, study_id, side, text, and `report_id`, an integer that
        is equal for equal texts.

    Raises:
        DataError: if the cohort has no reports.
    """
    if "reports" not in cohort.tables or cohort["reports"].empty:
        raise DataError(
            f"Cohort {cohort.info.name} has no reports; import them as reports.parquet, or run `make reports DATA=` "
            "where it has masks."
        )
    columns = ["report_id", "patient_id", "study_id", "side", "text"]
    reports = rows_before_treatment(cohort, cohort["reports"][columns]).sort_values("report_id")
    if patients is not None:
        reports = reports[reports["patient_id"].isin(set(patients))]
    texts: dict[tuple[str, str, str], list[str]] = {}
    for row in reports.itertuples(index=False):
        whole = pd.isna(row.side)
        for side in SIDES if whole else (str(row.side),):
            text = kidney_text(str(row.text), side) if whole else " ".join(str(row.text).split())
            texts.setdefault((str(row.patient_id), str(row.study_id), side), []).append(text)
    rows = [(*key, " ".join(dict.fromkeys(parts))) for key, parts in sorted(texts.items())]
    frame = pd.DataFrame(rows, columns=[*KIDNEY, "text"]).astype("string")
    frame["report_id"] = pd.factorize(frame["text"], sort=True)[0].astype(np.int64)
    return frame


def shuffle_sentences(text: str, seed: int) -> str:
    """The sentences of a text in another order, which depends on the seed only.

    Args:
        text: A text of one kidney or a whole report; its headings stay with the sentences behind them.
        seed: At least 0.
    """
    parts = _sentences(text)
    return " ".join(parts[place] for place in np.random.default_rng(seed).permutation(len(parts)))


def excerpt(text: str, seed: int) -> str:
    """Some sentences of a text in their order: half of them, one time in three a quarter, and at least one.

    Args:
        text: A text of one kidney.
        seed: At least 0; with the text it says which sentences.
    """
    parts = _sentences(text)
    rng = np.random.default_rng([seed, zlib.crc32(text.encode())])
    kept = max(1, round(len(parts) * float(rng.choice(_SHARES))))
    return " ".join(parts[place] for place in np.sort(rng.permutation(len(parts))[:kept]))


_SHARES = (0.25, 0.5, 0.5)


def _sentences(text: str) -> list[str]:
    plain, _ = plain_text(text)
    parts = [plain[start:end].replace("\n", " ") for start, end in sentences(plain, 0, len(plain))]
    return [part if part[-1] in ".!?:" else f"{part}." for part in parts]
