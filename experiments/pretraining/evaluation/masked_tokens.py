"""Masked next-token prediction of a text encoder on texts that it was not trained on: loss and accuracy by text."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from datamodules.errors import DataError
from datamodules.reports.corpus import TEXT_COLUMN, held_out, read_corpus
from datamodules.reports.tokens import ReportTokenizer, TokenMasking
from experiments.pretraining.evaluation.text_systems import TextBase, load_base_system, load_system
from experiments.runs.console import counted, say
from experiments.scores.results_table import with_interval
from experiments.statistics.bootstrap import Statistic, bootstrap, ratio_of
from lightning_modules.networks.text.encoder import TextEncoder
from lightning_modules.networks.text.encoding import TOKENS_PER_BATCH, length_batches
from lightning_modules.networks.text.tokens import shifted

LOSS, TOKENS, HITS = 0, 1, 2
"""Columns of the rows of `masked_rows`."""


def masked_rows(
    encoder: TextEncoder,
    base: str,
    texts: Sequence[str],
    probability: float = 0.2,
    seed: int = 0,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Summed loss, number of masked tokens and hits of every text.

    What is masked depends on seed and text alone, so encoders of one base predict the same tokens.

    Args:
        encoder: The encoder with its output layer.
        base: Folder or hub id of its base, for the tokens.
        texts: Texts.
        probability: Share of the tokens that are predicted.
        seed: Seed of the masks.
        tokens_per_batch: As `encode_texts`.
        progress: Called with the number of distinct texts done and of all distinct texts.

    Returns:
        float64 [texts, 3]: cross-entropy in nats, tokens, hits.
    """
    tokenizer = ReportTokenizer(base, encoder.config.max_length, encoder.config.prompt)
    masking = TokenMasking(tokenizer, probability)
    distinct = list(dict.fromkeys(texts))
    seeds = [zlib.crc32(f"{seed}/{text}".encode()) for text in distinct]
    masked = [masking(row, number) for row, number in zip(tokenizer.rows(distinct), seeds, strict=True)]
    result = np.zeros((len(masked), 3))
    counts = np.array([len(ids) for ids, _ in masked], dtype=np.int64)
    done = 0
    with torch.inference_mode():
        for rows in length_batches(counts, tokens_per_batch):
            batch = {
                name: value.to(encoder.device)
                for name, value in tokenizer.masked([masked[row] for row in rows]).items()
            }
            states = encoder.hidden(batch["input_ids"], batch["attention_mask"])
            chosen, target, text = shifted(states, batch["labels"])
            logits = encoder.logits(chosen)
            loss = torch.nn.functional.cross_entropy(logits, target, reduction="none").double()
            owner = text.cpu().numpy()
            hits = (logits.argmax(dim=1) == target).double()
            for column, values in ((LOSS, loss), (TOKENS, torch.ones_like(loss)), (HITS, hits)):
                result[rows, column] = np.bincount(owner, values.cpu().numpy(), minlength=len(rows))
            done += len(rows)
            if progress is not None:
                progress(done, len(masked))
    row_of = {text: row for row, text in enumerate(distinct)}
    return result[[row_of[text] for text in texts]]


def ratio(rows: np.ndarray, column: int, owner: np.ndarray) -> Statistic:
    """A column of `masked_rows` per masked token, as a statistic of weighted patients (or texts).

    Args:
        rows: float [texts, 3].
        column: `LOSS` or `HITS`.
        owner: int [texts], number of each text's patient.
    """
    return ratio_of(rows[:, column], rows[:, TOKENS], 1.0 if column == HITS else np.inf, owner)


def masked_loss(
    corpus: Path,
    column: str = TEXT_COLUMN,
    adapted: Path | None = None,
    base: str = "smollm2",
    layers: int | None = 8,
    quantization: Literal["nf4", "none"] = "none",
    max_length: int = 224,
    held_out_share: float = 0.1,
    seed: int = 0,
    device: str | None = None,
    replicates: int = 1000,
) -> int:
    """Loss and accuracy of masked next-token prediction on the held-out part of a corpus, before and after adaptation.

    Args:
        corpus: Folder of .txt and .csv files.
        column: Column of the .csv files that holds the texts.
        adapted: Folder of an exported text encoder; without it the un-adapted bidirectional base alone is measured.
        base: The base: smollm2, a folder or a hub id.
        layers: First layers of the base, null for all; an adapted encoder knows its own.
        quantization: none or nf4; an adapted encoder knows its own.
        max_length: Most tokens of a text; an adapted encoder knows its own.
        held_out_share: Share of the texts, the same ones that training on this corpus keeps out; 1 for all.
        seed: Seed of the masks.
        device: Device; the GPU where there is one by default.
        replicates: Bootstrap replicates over texts.
    """
    texts = [text for text in read_corpus(corpus, column) if held_out(text, held_out_share)]
    if len(texts) < 2:
        raise DataError(f"corpus={corpus.name} has {len(texts)} texts to measure on; raise held_out_share.")
    own = TextBase(base, layers, quantization, max_length)
    chosen = own if adapted is None else TextBase.of_adapted(adapted, base)
    loaders: dict[str, Callable[[], TextEncoder]] = {
        "un-adapted base": partial(load_base_system, chosen, adapted, device)
    }
    if adapted is not None:
        loaders["adapted"] = partial(load_system, chosen, adapted, device)
    for name, load in loaders.items():
        encoder = load()
        with counted(f"texts, {name}") as show:
            rows = masked_rows(encoder, encoder.config.base, texts, seed=seed, progress=show)
        owner = np.arange(len(rows))
        loss, _ = bootstrap(ratio(rows, LOSS, owner), len(rows), replicates)
        accuracy, _ = bootstrap(ratio(rows, HITS, owner), len(rows), replicates)
        say(
            f"{name}: loss {with_interval(*loss[:3], loss.interval)} nats a token (95 % interval over texts), "
            f"accuracy {with_interval(*accuracy[:3], accuracy.interval)}, {int(rows[:, TOKENS].sum())} "
            f"masked tokens of {len(rows)} texts."
        )
    return 0
