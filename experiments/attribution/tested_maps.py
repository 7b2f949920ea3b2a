"""What became of the test of maps, and which of them may be shown."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datamodules.errors import DataError
from datamodules.files import read_json_mapping, write_json
from experiments.statistics.bootstrap import bootstrap, mean_of
from experiments.statistics.estimate import Estimate
from lightning_modules.export.aligned import ALIGNED
from lightning_modules.export.attribute_heads import HEADS
from lightning_modules.export.image import WEIGHTS
from lightning_modules.export.task_head import HEAD, HEAD_FOLDER
from lightning_modules.networks.image.published.checkpoint import file_sha256

MAPS = "maps.json"
"""File beside the model: in the folder of a run, or of an exported encoder."""
FORMAT = 1
POINTING, DELETION, INSERTION, ALIKE = "pointing", "deletion", "insertion", "like that of random weights"
FLOOR, RANDOM = "centred blob", "random weights"
HITS, LIKENESS = 0.8, 0.5
"""Least share of lesions that a map points at, and most correlation with a map of random weights."""


def weights_of(*hashes: str) -> str:
    """One hash of all the files that answer a question."""
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:16]


def head_weights(run: Path, encoder_sha256: str) -> str:
    """The hash of a linear probe: of the head that its run left, and of the encoder that it reads."""
    return weights_of(encoder_sha256, file_sha256(run / HEAD_FOLDER / HEAD))


def attribute_weights(export: Path) -> str:
    """The hash of an exported encoder and the attribute heads beside it."""
    return weights_of(file_sha256(export / WEIGHTS), file_sha256(export / HEADS))


def aligned_weights(export: Path) -> str:
    """The hash of an exported aligned model."""
    return weights_of(file_sha256(export / WEIGHTS), file_sha256(export / ALIGNED.weights))


def map_table(trials: pd.DataFrame, replicates: int = 2000) -> pd.DataFrame:
    """The trials of every map with intervals over patients.

    Args:
        trials: One row for each kidney, question and method: `patient`, `question`, `method`, `seconds`, `pointing`,
            `deletion`, `insertion`, the same of the floor (`floor_pointing`, ...), and of a part of the kidneys
            `random_pointing` and `alike`, NaN of the others.
        replicates: Replicates of the bootstrap.

    Returns:
        Columns question, method, statistic, value, low, high, n (patients), events, interval. `pointing above centred
        blob` and its like are differences of the same patients.
    """
    rows = []
    for (question, method), own in trials.groupby(["question", "method"], sort=False):
        found: dict[str, Estimate] = {}
        for name, least in ((POINTING, 0.0), (DELETION, -1.0), (INSERTION, -1.0)):
            found[name] = _mean(own, own[name], replicates, least)
            found[f"{name}, {FLOOR}"] = _mean(own, own[f"floor_{name}"], replicates, least)
            gap = own[name] - own[f"floor_{name}"]
            found[f"{name} above {FLOOR}"] = _mean(own, gap, replicates, least - 1.0, 1.0 - least)
        part = own[own["alike"].notna()]
        if len(part):
            found[f"{POINTING}, {RANDOM}"] = _mean(part, part["random_pointing"], replicates, 0.0)
            found[f"{POINTING} above {RANDOM}"] = _mean(part, part[POINTING] - part["random_pointing"], replicates)
            found[ALIKE] = _mean(part, part["alike"].abs(), replicates, 0.0)
        rows += [
            {"question": question, "method": method, "statistic": name, **value._asdict()}
            for name, value in found.items()
        ]
    return pd.DataFrame(rows)


def erased_table(erased: pd.DataFrame, replicates: int = 2000) -> pd.DataFrame:
    """How much sureness each erased part costs, and the lesion beyond the others, with intervals over patients.

    Args:
        erased: One row for each kidney and question: `patient`, `question`, and a column for each part.
        replicates: Replicates of the bootstrap.

    Returns:
        Columns question, statistic, value, low, high, n, events, interval.
    """
    rows = []
    for question, own in erased.groupby("question", sort=False):
        parts = [name for name in own if name not in ("patient", "question")]
        found = {name: _mean(own, own[name], replicates) for name in parts}
        found |= {
            f"{parts[0]} beyond {name}": _mean(own, own[parts[0]] - own[name], replicates, -2.0, 2.0)
            for name in parts[1:]
        }
        rows += [{"question": question, "statistic": name, **value._asdict()} for name, value in found.items()]
    return pd.DataFrame(rows)


def _mean(own: pd.DataFrame, values: pd.Series, replicates: int, least: float = -1.0, most: float = 1.0) -> Estimate:
    patients, owner = np.unique(own["patient"], return_inverse=True)
    statistic = mean_of(values.to_numpy(dtype=np.float64), least, most, owner)
    return bootstrap(statistic, len(patients), replicates)[0]


def failures(table: pd.DataFrame) -> list[str]:
    """Why a map is not shown, in words; none where it passed.

    Args:
        table: Rows of `map_table` of one question and method.
    """
    own = table.set_index("statistic")[["value", "low"]].astype(float)
    value, low = own["value"].to_dict(), own["low"].to_dict()
    found = []
    if not value[POINTING] >= HITS:
        found.append(f"points at {value[POINTING]:.0%} of the lesions, less than {HITS:.0%}")
    found += [
        f"{name} not above that of a {FLOOR}"
        for name in (POINTING, DELETION, INSERTION)
        if not low[f"{name} above {FLOOR}"] > 0
    ]
    if ALIKE not in value:
        return [*found, "not held against random weights"]
    if not low[f"{POINTING} above {RANDOM}"] > 0:
        found.append(f"points no better than with {RANDOM}")
    if not value[ALIKE] < LIKENESS:
        found.append(f"alike with {RANDOM} (correlation {value[ALIKE]:.2f})")
    return found


def as_content(
    table: pd.DataFrame, erased: pd.DataFrame, seconds: Mapping[str, float], about: Mapping[str, Any]
) -> dict[str, Any]:
    """The result of a test as plain data without any patient.

    Args:
        table: From `map_table`.
        erased: From `erased_table`.
        seconds: Mean seconds of a map by method.
        about: Which weights and patients: `weights`, and what else is said.
    """
    questions: dict[str, Any] = {}
    for (question, method), own in table.groupby(["question", "method"], sort=False):
        failed = failures(own)
        questions.setdefault(str(question), {})[str(method)] = {
            "shown": not failed,
            "failed": failed,
            "seconds": round(seconds[str(method)], 3),
            "figures": {str(row["statistic"]): _plain(row) for row in own.to_dict("records")},
        }
    kept = {
        str(question): {str(row["statistic"]): _plain(row) for row in own.to_dict("records")}
        for question, own in erased.groupby("question", sort=False)
    }
    return {"format": FORMAT, **about, "questions": questions, "erased": kept}


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "n": int(row["n"]),
        "interval": str(row["interval"]),
        **{name: None if pd.isna(row[name]) else round(float(row[name]), 6) for name in ("value", "low", "high")},
    }


def write_tested(folder: Path, content: Mapping[str, Any]) -> Path:
    """Keep the result of a test beside the model; what else was tested before with the same weights stays.

    Kinds of maps of one question may be tested one after the other.

    Returns:
        The file.
    """
    path = folder / MAPS
    if path.is_file():
        before = read_json_mapping(path)
        if before.get("format") == FORMAT and before.get("weights") == content["weights"]:
            questions = dict(before["questions"])
            for question, methods in content["questions"].items():
                questions[question] = {**questions.get(question, {}), **methods}
            content = {**content, "questions": questions, "erased": {**before["erased"], **content["erased"]}}
    write_json(path, dict(content))
    return path


def read_tested(folder: Path, weights: str) -> dict[str, Any] | None:
    """The result of the test of a model's maps.

    Args:
        folder: Folder of the model.
        weights: Hash of its weights, as of `weights_of`.

    Returns:
        None where its maps were not tested, or those of other weights.

    Raises:
        DataError: if the file is of another format.
    """
    content = read_of_run(folder)
    return content if content is not None and content["weights"] == weights else None


def read_of_run(folder: Path) -> dict[str, Any] | None:
    """The result of the test of a finished run's maps, whose weights change no more; None where there is none.

    Raises:
        DataError: if the file is of another format.
    """
    path = folder / MAPS
    if not path.is_file():
        return None
    content = dict(read_json_mapping(path))
    if content.get("format") != FORMAT:
        raise DataError(f"{MAPS} in {folder.name} has format {content.get('format')}; run `make maps` again.")
    return content


def method_shown(tested: Mapping[str, Any] | None, question: str) -> str | None:
    """The method whose maps of a question are shown: of those that passed the one that points best."""
    if tested is None:
        return None
    passed = {
        method: found["figures"][POINTING]["value"]
        for method, found in tested["questions"].get(question, {}).items()
        if found["shown"]
    }
    return max(passed, key=lambda method: float(passed[method])) if passed else None
