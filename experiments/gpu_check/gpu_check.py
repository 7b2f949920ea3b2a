"""`make gpu-check`: whether this GPU computes what a CPU does, and how fast; on a CPU, what does not need one."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from datamodules.files import replacing, write_json
from experiments.gpu_check import computed, figures, ranks
from experiments.gpu_check.check_results import CheckResult, judged, skipped
from experiments.gpu_check.subjects import Sizes, random_base

Check = Callable[[torch.device, Sizes, Path], Iterator[CheckResult]]

CHECKS: tuple[Check, ...] = (
    computed.stages_in_float32,
    computed.stages_in_half,
    computed.bf16_convolution,
    computed.layouts,
    computed.augmentation,
    computed.gradient_cache,
    computed.resumption,
    computed.host_syncs,
    figures.out_of_memory,
    figures.stage_one,
    figures.input_path,
    ranks.two_ranks,
    figures.quantised,
    computed.compiled,
)
"""What is checked, in order: what a run cannot do without comes first, since time is short."""


def gpu_check(out: Path = Path("gpu-check.json"), device: str = "auto", minutes: float = 8.0) -> int:
    """Check on synthetic volumes, without a cohort, that the GPU computes what a CPU does, and measure its speed.

    Every stage in float32 against the CPU, in bf16 and fp16; memory formats, compilation, augmentation, gradient
    caching, resumption, 4-bit language models, two ranks; volumes a second, memory, and the distance to the measured
    limits. On a CPU what needs a GPU is skipped by name. Writes a JSON file, and a table beside it.

    Args:
        out: JSON file; the table gets its name with the ending .md.
        device: `cuda`, `cpu`, or the first GPU where there is one.
        minutes: After so long no further check is begun; those left are skipped by name.

    Returns:
        1 when a check failed, else 0.
    """
    place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    found = run_checks(CHECKS, place, 60 * minutes, told=_tell)
    about = machine(place)
    content = {"machine": about, "checks": [outcome.to_dict() for outcome in found]}
    write_json(out, content)
    with replacing(out.with_suffix(".md")) as temporary:
        temporary.write_text(table({about["device"]: content}), encoding="utf-8")
    failed = [outcome for outcome in found if outcome.status == "FAIL"]
    counts = {status: sum(outcome.status == status for outcome in found) for status in ("PASS", "FAIL", "skipped")}
    print(f"{counts['PASS']} passed, {counts['FAIL']} failed, {counts['skipped']} skipped; written to {out.name}")
    return 1 if failed else 0


def run_checks(
    checks: Sequence[Check],
    device: torch.device,
    seconds: float,
    sizes: Sizes | None = None,
    told: Callable[[CheckResult], None] = lambda _: None,
) -> list[CheckResult]:
    """Run checks one after the other; one that breaks has failed, and the others go on.

    Args:
        checks: What to check.
        device: Where.
        seconds: After so long no further check is begun.
        sizes: How large the batches are; by the device when left out.
        told: Called with each outcome as it is found.
    """
    shape = sizes or (Sizes((32, 64, 64), 8, 16) if device.type == "cuda" else Sizes())
    started, found = time.monotonic(), []
    with tempfile.TemporaryDirectory() as scratch:
        base = random_base(Path(scratch) / "base")
        for check in checks:
            for outcome in _of(check, device, shape, base, started + seconds - time.monotonic()):
                found.append(outcome)
                told(outcome)
    return found


def _of(check: Check, device: torch.device, sizes: Sizes, base: Path, left: float) -> Iterator[CheckResult]:
    name = check.__name__.replace("_", " ")
    if left <= 0:
        yield skipped(name, "no time was left; give more with MINUTES=")
        return
    begun = time.monotonic()
    try:
        for outcome in check(device, sizes, base):
            now = time.monotonic()
            yield replace(outcome, seconds=round(now - begun, 2))
            begun = now
    except Exception as error:  # a check that breaks is a finding; the others are wanted all the same
        yield judged(name, False, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _tell(outcome: CheckResult) -> None:
    print(f"{outcome.status:8}{outcome.name:36}{outcome.said}", flush=True)


def machine(device: torch.device) -> dict[str, Any]:
    """What was checked, as plain data."""
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    date = datetime.now(UTC).date().isoformat()
    if device.type != "cuda":
        return {"device": f"CPU, {torch.get_num_threads()} threads", "date": date, **versions}
    known = torch.cuda.get_device_properties(device)
    return {
        "device": known.name,
        "date": date,
        "capability": f"{known.major}.{known.minor}",
        "memory_gib": round(known.total_memory / 2**30, 1),
        "system": platform.system(),
        **versions,
    }


def table(columns: Mapping[str, Mapping[str, Any] | None]) -> str:
    """What checks found, as a table of Markdown with a column for each device.

    Args:
        columns: What `gpu_check` wrote, by the heading of its column; None for one that is not known yet.
    """
    found = {
        name: {} if content is None else {row["name"]: row for row in content["checks"]}
        for name, content in columns.items()
    }
    names = list(dict.fromkeys(row for rows in found.values() for row in rows))
    lines = [f"| check | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for name in names:
        cells = [_cell(rows.get(name)) for rows in found.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: Mapping[str, Any] | None) -> str:
    return "" if row is None else f"{row['status']}: {row['said'].replace('|', '/')}"
