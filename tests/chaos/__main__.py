"""`make chaos`: prints one table and writes every case as JSON; exit code 1 where anything was not refused or right."""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from tests.chaos import assessments, sandbox, scans, texts, weights
from tests.chaos.faults import all_faults, stage_fault
from tests.chaos.kills import run_kills
from tests.chaos.sandbox import LIMIT_BYTES, OUTCOMES, Answer, judge
from tests.chaos.stage import Stage, build

INPUTS = (
    (texts.yaml_cases, 60),
    (scans.nifti_cases, 40),
    (scans.dicom_cases, 24),
    (texts.csv_cases, 30),
    (texts.json_cases, 30),
    (weights.checkpoint_cases, 18),
    (weights.tensor_cases, 11),
    (texts.name_cases, 24),
    (texts.number_cases, 20),
    (assessments.assess_cases, 45),
)
BAD = ("silent", "trace", "hung", "executed", "stuck")


def run_inputs(stage: Stage, root: Path, seed: int, wanted: int, kinds: set[str]) -> Iterator[dict[str, Any]]:
    """Hostile inputs of each kind, about as many in all as are wanted."""
    share = wanted / sum(count for _, count in INPUTS)
    for part, (make, count) in enumerate(INPUTS):
        for number, case in enumerate(make(stage, np.random.default_rng([seed, part]), max(1, round(count * share)))):
            if kinds and case.kind not in kinds:
                continue
            folder = root / f"{case.kind}-{number}"
            outcome, answer = judge(case, folder)
            shutil.rmtree(folder, ignore_errors=True)
            yield _row("inputs", case.kind, case.name, outcome, answer)


def run_faults(stage: Stage, root: Path, seed: int, wanted: int, kinds: set[str]) -> Iterator[dict[str, Any]]:
    """Staged faults, as many as are wanted, spread over their kinds."""
    faults = [fault for fault in all_faults(seed) if not kinds or kinds & {fault.kind, fault.command}]
    chosen = sorted({int(place) for place in np.linspace(0, len(faults) - 1, min(wanted, len(faults)))})
    for number, fault in enumerate(faults[place] for place in chosen):
        folder = root / f"fault-{number}"
        outcome, answer = stage_fault(stage, fault, folder)
        shutil.rmtree(folder, ignore_errors=True)
        yield _row("faults", fault.kind, f"{fault.command}: {fault.name}", outcome, answer)


def _row(part: str, kind: str, name: str, outcome: str, answer: Answer) -> dict[str, Any]:
    if outcome in BAD:
        print(f"{outcome}: {kind}, {name}: {answer.sentence[:200]}", flush=True)
    facts = {"code": answer.code, "seconds": round(answer.seconds, 2), "sentence": answer.sentence[:300]}
    return {"part": part, "kind": kind, "case": name, "outcome": outcome, **facts}


def show(rows: list[dict[str, Any]]) -> None:
    """Counts by kind and outcome."""
    table = Table("part", "kind", "cases", *OUTCOMES, box=None)
    for part, kind in dict.fromkeys((row["part"], row["kind"]) for row in rows):
        tally = Counter(row["outcome"] for row in rows if (row["part"], row["kind"]) == (part, kind))
        table.add_row(part, kind, str(tally.total()), *(str(tally[outcome]) for outcome in OUTCOMES))
    tally = Counter(row["outcome"] for row in rows)
    table.add_row("all", "", str(tally.total()), *(str(tally[outcome]) for outcome in OUTCOMES))
    Console(width=140).print(table)


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is drawn")
    parser.add_argument("--hostile", type=int, default=280, help="number of hostile inputs; 0 for none")
    parser.add_argument("--faults", type=int, default=72, help="number of staged faults; 0 for none")
    parser.add_argument("--kills", type=int, default=50, help="number of kills; 0 for none")
    parser.add_argument("--kinds", default="", help="kinds of inputs, faults and killed commands; all by default")
    parser.add_argument("--patience", type=float, default=1.0, help="factor of every limit of time, on a busy machine")
    parser.add_argument("--out", type=Path, default=Path("runs/chaos.json"), help="JSON file of every case")
    chosen = parser.parse_args()
    started = time.monotonic()
    # A hostile input is made and judged here, too: it shall not take the machine's memory.
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    sandbox.patience = chosen.patience
    root = Path(tempfile.mkdtemp(prefix="chaos-"))
    root.chmod(0o755)  # a fault is that of another user
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    kinds = set(filter(None, chosen.kinds.split(",")))
    logging.getLogger("nibabel").setLevel(logging.CRITICAL)  # it comments on every damaged header
    try:
        stage = build(root / "stage")
        parts = (
            run_inputs(stage, root, chosen.seed, chosen.hostile, kinds) if chosen.hostile else (),
            run_faults(stage, root, chosen.seed, chosen.faults, kinds) if chosen.faults else (),
            (_row("kills", *found) for found in run_kills(stage, root, chosen.seed, chosen.kills, kinds)),
        )
        for row in itertools.chain(*parts):
            rows.append(row)  # each at once: an interrupted run tells what it found
            content = {"seed": chosen.seed, "minutes": round((time.monotonic() - started) / 60, 1), "cases": rows}
            chosen.out.write_text(json.dumps(content, indent=1) + "\n")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    show(rows)
    return int(any(row["outcome"] in BAD for row in rows))


if __name__ == "__main__":
    sys.exit(main())
