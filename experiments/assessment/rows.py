"""An assessment as one row of a table, for batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ASSESSED, REFUSED = "assessed", "refused"


def row_of(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a patient: the kidney with the largest lesion, its largest lesion, and every task.

    Args:
        name: What the patient is called in the table.
        content: The assessment.

    Returns:
        Plain values by column; units stand in the names. `score_<task>_<class>`,
        `probability_<task>_<class>` and `set_<task>` where they are calibrated, `risk_<task>`,
        `survival_<task>_<months>_months` and `attribute_<name>` are of that kidney.
    """
    row: dict[str, Any] = {
        "patient": name,
        "status": ASSESSED,
        "reason": "",
        "phases": " ".join(content["phases"]),
        "located_by": content["located_by"],
        "index_side": content["index_side"],
        "notes": " ".join(content["notes"]),
        **content.get("identified", {}),
    }
    kidney = next((one for one in content["kidneys"] if one["index"]), None)
    if kidney is None:
        return row
    row["lesion_count"] = len(kidney["lesions"])
    row["outside_training"] = kidney["training_data"]["outside_training"]
    row["outlined_by"] = kidney["outlined_by"]
    row |= {"kidney_volume_ml": kidney["kidney_volume_ml"], **_lesion(kidney["lesions"][0])}
    for task, found in kidney.get("tasks", {}).items():
        row |= {f"score_{task}_{value}".replace(" ", "_"): score for value, score in found.get("scores", {}).items()}
        probabilities = found.get("probabilities", {})
        row |= {f"probability_{task}_{value}".replace(" ", "_"): one for value, one in probabilities.items()}
        if "set" in found:
            row[f"set_{task}"] = " ".join(found["set"])
        if "log_risk" in found:
            row |= {f"risk_{task}": found["log_risk"], f"risk_group_{task}": found["risk_group"]}
            row |= {f"survival_{task}_{month}": value for month, value in found["survival_estimate"].items()}
    row |= {f"attribute_{attribute}": found["value"] for attribute, found in kidney.get("attributes", {}).items()}
    return row


def refused_row(name: str, reason: str) -> dict[str, Any]:
    """The row of a patient that could not be assessed.

    Args:
        name: What the patient is called in the table.
        reason: Why, in one sentence.
    """
    return {"patient": name, "status": REFUSED, "reason": reason}


def _lesion(lesion: Mapping[str, Any]) -> dict[str, Any]:
    row = {name: lesion[name] for name in ("kind", "volume_ml", "diameter_mm", "axial_diameter_mm")}
    row = {f"lesion_{name}": value for name, value in row.items()}
    renal, padua = lesion.get("renal"), lesion.get("padua")
    if renal is not None:
        row |= {f"renal_{name}": renal[name] for name in ("r_mm", "e_fraction", "n_mm", "l_fraction", *"renal", "pole")}
        row["renal_total"] = renal["total"]
    if padua is not None:
        row |= {f"padua_{name}": padua[name] for name in ("total_low", "total_high")}
    return row | ({"c_index": lesion["c_index"]} if "c_index" in lesion else {})
