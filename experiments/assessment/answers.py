"""What an assessment says of a kidney: the answers of its models that contradict no measure and no other answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datamodules.importers.one_scan import ScanKidney
from experiments.aligned.one_scan.scan import stated
from experiments.aligned.one_scan.scan_maps import said_attributes


def consistent(
    kidney: ScanKidney, tasks: dict[str, dict[str, Any]], attributes: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """What the models say of a kidney, without what contradicts its measures or another statement.

    Args:
        kidney: The kidney.
        tasks: As of `Models.scores`; a class that is withheld is marked with the reason, and its scores stay.
        attributes: As of `attribute_scores`.

    Returns:
        `lesion` (whether there is one, and its score), `tasks`, `attributes`, and `withheld`: which statements are not
        made, and why.
    """
    classes = {name: found for name, found in tasks.items() if "scores" in found}
    said = stated(kidney.measures, attributes, classes)
    for entry in said["withheld"]:
        if entry["question"] in tasks:
            tasks[entry["question"]]["withheld"] = entry["reason"]
    return {name: said[name] for name in ("lesion", "attributes", "withheld")} | {"tasks": tasks}


def answers(entry: Mapping[str, Any]) -> dict[str, str | None]:
    """What an assessment says of a kidney, by question of a map; of a risk, which has no classes, None."""
    tasks = {name: found.get("highest") for name, found in entry["tasks"].items() if "withheld" not in found}
    return {**said_attributes(entry), **tasks}
