"""Reports written from measured geometry alone, for cohorts that have masks and no reports.

They hold what a mask shows (presence, number, size, place, exophytic part, nearness to the sinus) and nothing that
needs intensities, histology, grade or stage. Every one is marked `generated`.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from datamodules.anatomy.nephrometry.points import E_HALF, N_MM, stated_mm
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.columns import SIDES
from datamodules.errors import DataError

_POLES = {"upper": "upper pole", "interpolar": "interpolar region", "lower": "lower pole"}
_EXOPHYTIC = {
    1: f"At least {E_HALF:.0%} of it is exophytic.",
    2: f"It is less than {E_HALF:.0%} exophytic.",
    3: "It is entirely endophytic.",
}
_NEARNESS = {
    1: f"The distance to the renal sinus or collecting system is {N_MM[1]:.0f} mm or more.",
    2: f"The distance to the renal sinus or collecting system is more than {N_MM[0]:.0f} mm and less than "
    f"{N_MM[1]:.0f} mm.",
    3: f"The distance to the renal sinus or collecting system is {N_MM[0]:.0f} mm or less.",
}
_TOUCHES = "It abuts the renal sinus or collecting system."
_FACE = {
    "anterior": "It lies on the anterior side of the kidney.",
    "posterior": "It lies on the posterior side of the kidney.",
    "x": "It lies neither clearly anterior nor posterior.",
}


def kidney_sentences(kidney: dict[str, Any]) -> list[str]:
    """The sentences of one kidney, which state its R.E.N.A.L. points in words and the axial diameter that R is of.

    Args:
        kidney: Row of the table `kidneys`, missing values as None.

    Returns:
        None at all where it is not known whether there is a lesion.
    """
    side = kidney["side"]
    if kidney["has_lesion"] is None:
        return []
    if not kidney["has_lesion"]:
        return [f"No focal lesion in the {side} kidney."]
    pole, diameter = kidney["renal_pole"], kidney["renal_r_mm"]
    size = "" if diameter is None else f" measuring {stated_mm(diameter) / 10:.1f} cm"
    place = f" in the {_POLES[pole]}" if pole else ""
    lines = [f"There is a lesion{place} of the {side} kidney{size}."]
    if kidney["renal_e"] is not None:
        lines.append(_EXOPHYTIC[kidney["renal_e"]])
    if kidney["renal_n"] is not None:
        lines.append(_TOUCHES if kidney["renal_n_mm"] == 0.0 else _NEARNESS[kidney["renal_n"]])
    if kidney["renal_a"] is not None:
        lines.append(_FACE[kidney["renal_a"]])
    if kidney["lesion_count"] is not None:
        several = kidney["lesion_count"] > 1
        lines.append(f"Multiple lesions are seen in the {side} kidney." if several else "The lesion is solitary.")
    return lines


def geometry_reports(cohort: Cohort) -> pd.DataFrame:
    """One generated report per study, as rows of the table `reports`.

    Args:
        cohort: A cohort whose kidneys were measured.

    Raises:
        DataError: if the cohort has reports, which are not overwritten, or no kidney was measured.
    """
    if "reports" in cohort.tables:
        raise DataError(
            f"Cohort {cohort.info.name} has reports already; they are not overwritten. Delete reports.parquet if they "
            "are generated ones that you want written again."
        )
    rows = []
    for (patient_id, study_id), kidneys in cohort["kidneys"].groupby(["patient_id", "study_id"], sort=True):
        plain = [
            {str(name): None if pd.isna(value) else value for name, value in row.items()}
            for row in kidneys.to_dict("records")
        ]
        by_side = {row["side"]: row for row in plain}
        parts = [
            f"{side.capitalize()} kidney: {' '.join(lines)}"
            for side in SIDES[::-1]
            if side in by_side and (lines := kidney_sentences(by_side[side]))
        ]
        if parts:
            keys = {"report_id": f"{study_id}-G", "patient_id": patient_id, "study_id": study_id, "side": None}
            rows.append(keys | {"text": "Findings:\n" + "\n".join(parts), "source": "generated"})
    if not rows:
        raise DataError(f"No kidney of cohort {cohort.info.name} was measured; import it with masks first.")
    return pd.DataFrame(rows)
