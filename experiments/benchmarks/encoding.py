"""`make benchmarks BENCH=encoding`: embedding the reports of a cohort, against the plain way with the same model.

The plain way takes the texts as they come, in batches of a fixed number, padded to the longest of each batch or all to
one length, duplicates included. `encode_texts` takes each distinct text once and batches texts of like length. All
embed the same texts, and the embeddings are asserted to be equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from datamodules.cohort.columns import SIDES
from datamodules.files import write_json
from datamodules.phantoms.phantom_source import DemoSource
from datamodules.reports.reader.clauses import kidney_text
from experiments.benchmarks.machine import describe_machine, load_average
from experiments.benchmarks.timing import interleaved, summarize
from experiments.pretraining.evaluation.text_systems import TextBase
from lightning_modules.networks.text.encoder import TextEncoder
from lightning_modules.networks.text.encoding import TOKENS_PER_BATCH, encode_texts, token_counts

RESULTS = Path(__file__).parent / "results" / "encoding.json"
PLAIN, PLAIN_64 = "in the order given, 32 at a time", "in the order given, 64 at a time"
FIXED, OURS = "32 at a time, padded to 224 tokens", "distinct texts in batches of like length"
TOLERANCE = 1e-4
_LAYERS, _SEED = 2, 42
_PATIENTS = {False: 100, True: 8}


def run(quick: bool = False, out: Path | None = None) -> dict[str, Any]:
    """Measure the embedding of reports.

    Args:
        quick: Few patients and one round.
        out: File for the figures; the published results by default, `runs/benchmarks/encoding.json` for a quick run.

    Returns:
        Every figure, as plain data.

    Raises:
        AssertionError: if the embeddings differ.
    """
    out = out or (Path("runs/benchmarks/encoding.json") if quick else RESULTS)
    console = Console()
    encoder = TextEncoder(TextBase(layers=_LAYERS).config(bidirectional=True), "cpu")
    results: dict[str, Any] = {
        "what": "embedding of phantom reports, one text a kidney, float32 on one CPU thread",
        "model": f"SmolLM2-135M, first {_LAYERS} layers, bidirectional, mean pooling, at most 224 tokens",
        "date": datetime.now(UTC).date().isoformat(),
        "quick": quick,
        "machine": describe_machine(),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other would count as processor time
    with console.status("reports"):
        results["reports"] = compare(encoder, reports(_PATIENTS[quick]), rounds=1)
    torch.set_num_threads(threads)
    results["load_average_at_the_end"] = load_average()
    write_json(out, results)
    console.print(_table(results["reports"]))
    console.print(f"Figures: {out.as_posix()}", highlight=False)
    return results


def reports(patients: int) -> list[str]:
    """The texts of both kidneys of phantoms, patient by patient as a cohort lists them."""
    source = DemoSource(1000, _SEED)
    names = sorted(np.random.default_rng(_SEED).permutation(source.patient_ids())[:patients].tolist())
    written = [source.rows(source.patient(name))["reports"][0]["text"] for name in names]
    return [kidney_text(text, side) for text in written for side in SIDES]


def compare(encoder: TextEncoder, texts: Sequence[str], rounds: int) -> dict[str, Any]:
    """Both ways on the same texts, alternating.

    Raises:
        AssertionError: if the embeddings differ by more than `TOLERANCE` times the largest of them.
    """
    found: dict[str, np.ndarray] = {}
    ways: dict[str, Callable[[], np.ndarray]] = {
        PLAIN: lambda: plain_embeddings(encoder, texts, 32),
        PLAIN_64: lambda: plain_embeddings(encoder, texts, 64),
        FIXED: lambda: plain_embeddings(encoder, texts, 32, encoder.config.max_length),
        OURS: lambda: encode_texts(encoder, texts),
    }
    times = interleaved({name: partial(_keep, found, name, way) for name, way in ways.items()}, rounds)
    scale = float(np.abs(found[PLAIN]).max())
    difference = max(float(np.abs(rows - found[OURS]).max()) for rows in found.values()) / scale
    assert difference <= TOLERANCE, f"embeddings differ by {difference:g} of the largest value"
    counts = token_counts(encoder, texts)
    figures: dict[str, Any] = dict(summarize(times, len(texts), PLAIN))
    return figures | {
        "texts": len(texts),
        "distinct_texts": len(set(texts)),
        "tokens": int(counts.sum()),
        "tokens_of_distinct_texts": int(token_counts(encoder, list(dict.fromkeys(texts))).sum()),
        "tokens_padded_32_at_a_time": _padded(counts, 32),
        "tokens_padded_64_at_a_time": _padded(counts, 64),
        "tokens_per_batch": TOKENS_PER_BATCH,
        "largest_relative_difference": difference,
    }


def _keep(found: dict[str, np.ndarray], name: str, way: Callable[[], np.ndarray]) -> None:
    found[name] = way()


def _padded(counts: np.ndarray, batch: int) -> int:
    return int(sum(len(part) * part.max() for part in np.split(counts, range(batch, len(counts), batch))))


@torch.inference_mode()
def plain_embeddings(encoder: TextEncoder, texts: Sequence[str], batch: int, length: int = 0) -> np.ndarray:
    """The plain way: batches of a fixed number in the order given, float32 [N, D].

    Args:
        encoder: The encoder.
        texts: Texts.
        batch: Texts of a batch.
        length: Tokens that every text is padded to; by default the longest of its batch.
    """
    rows = []
    for start in range(0, len(texts), batch):
        tokens = encoder.tokenize(list(texts[start : start + batch]))
        more = max(0, length - tokens["input_ids"].shape[1])
        rows.append(encoder(**{name: nn.functional.pad(value, (0, more)) for name, value in tokens.items()}))
    return torch.cat(rows).numpy()


def _table(figures: dict[str, Any]) -> Table:
    table = Table(
        f"{figures['texts']} texts, {figures['distinct_texts']} distinct", "texts/s", "times as fast", box=None
    )
    for way in (PLAIN, PLAIN_64, FIXED, OURS):
        rate, ratio = figures[way]["volumes_per_second"], figures[way]["ratio_to_reference"]
        table.add_row(way, f"{rate:.1f}", f"{ratio:.2f}", f"{figures[way]['ratio_to_reference_processor']:.2f}")
    return table
