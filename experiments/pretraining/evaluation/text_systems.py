"""The systems that turn a text into a vector: TF-IDF, the un-adapted base, and an adapted encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from datamodules.reports.llm.models import model_source
from experiments.encoders.text_embeddings import embed_texts
from experiments.runs.console import counted
from lightning_modules.core.errors import ModelError
from lightning_modules.export.text import load_text_encoder, load_translator, read_text_encoder
from lightning_modules.networks.text.encoder import Pooling, TextEncoder, TextEncoderConfig, pool

Embed = Callable[[Sequence[str]], np.ndarray]
TFIDF, CAUSAL_LAST, CAUSAL_MEAN = "TF-IDF", "base, causal, last token", "base, causal, mean"
BIDIRECTIONAL, ADAPTED = "base, bidirectional, mean", "adapted"
_POOLINGS: dict[str, Pooling] = {CAUSAL_LAST: "last", CAUSAL_MEAN: "mean"}


@dataclass(frozen=True)
class TextBase:
    """The un-adapted base that an adapted encoder is compared with.

    Args:
        name: `smollm2`, a folder or a hub id.
        layers: First layers; all when left out.
        quantization: nf4 or none.
        max_length: Most tokens of a text.
    """

    name: str = "smollm2"
    layers: int | None = 8
    quantization: Literal["nf4", "none"] = "none"
    max_length: int = 224

    def config(self, bidirectional: bool) -> TextEncoderConfig:
        """The configuration of the base without adapters."""
        return TextEncoderConfig(
            base=model_source(self.name)[0],
            base_name=Path(self.name).name if Path(self.name).is_dir() else self.name,
            layers=self.layers,
            quantization=self.quantization,
            bidirectional=bidirectional,
            max_length=self.max_length,
            adapter=False,
        )

    @classmethod
    def of_adapted(cls, folder: Path, name: str) -> TextBase:
        """The base of an exported encoder: the same layers, quantisation and length.

        Args:
            folder: Folder of the exported encoder.
            name: Where its base is found, when it records no hub id.
        """
        config = read_text_encoder(folder).config
        known = config.base_name if "/" in config.base_name else name
        return cls(known, config.layers, config.quantization, config.max_length)


class SeveralPoolings(torch.nn.Module):
    """A base read once and pooled in several ways, side by side in one vector.

    Args:
        encoder: The base, without prompt and projection.
        poolings: The ways.
    """

    def __init__(self, encoder: TextEncoder, poolings: Sequence[Pooling]) -> None:
        super().__init__()
        if encoder.config.prompt or encoder.projection is not None:
            raise ModelError("Several poolings are read from a base without prompt and projection only.")
        self.encoder, self.poolings = encoder, tuple(poolings)
        self.feature_dim = encoder.hidden_dim * len(self.poolings)

    def tokenize(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """As the base."""
        return self.encoder.tokenize(texts)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embeddings float32 [B, poolings * H] of tokens int64 [B, T]."""
        states = self.encoder.hidden(input_ids, attention_mask)
        return torch.cat([pool(states, attention_mask.bool(), kind) for kind in self.poolings], dim=1)

    def fingerprint(self) -> str:
        """That of the base, and the ways."""
        return f"{self.encoder.fingerprint()}-{'-'.join(self.poolings)}"


def tfidf(texts: Sequence[str]) -> Embed:
    """TF-IDF of words and pairs of words, fitted on the training texts.

    Numbers keep their decimals, so that 3.2 and 8.0 are words of their own.
    """
    model = TfidfVectorizer(
        ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=r"(?u)\b\w+(?:[.,]\d+)?\b", dtype=np.float32
    )
    model.fit(texts)
    return lambda given: model.transform(given).toarray()


def load_base_system(base: TextBase, adapted: Path | None, device: str | None = None) -> TextEncoder:
    """The bidirectional base without adapters, with its output layer for masked prediction.

    Args:
        base: The un-adapted base.
        adapted: Folder of an exported encoder on this base, whose translator the output layer of a cut base reads
            through, so that both differ by the adapters alone.
        device: Device; the GPU where there is one by default.
    """
    encoder = TextEncoder(base.config(bidirectional=True), device, head=True)
    if adapted is not None:
        load_translator(adapted, encoder)
    return encoder


def load_system(base: TextBase, adapted: Path, device: str | None = None) -> TextEncoder:
    """An adapted encoder with its output layer for masked prediction.

    Args:
        base: Where its base is.
        adapted: Folder of the exported encoder.
        device: Device; the GPU where there is one by default.
    """
    return load_text_encoder(adapted, base=model_source(base.name)[0], device=device, head=True)


@dataclass(frozen=True)
class System:
    """One system.

    Args:
        name: Name in tables.
        embed: Texts to vectors float32 [N, D].
        encoder: The encoder whose masked prediction is measured, where there is one.
    """

    name: str
    embed: Embed
    encoder: TextEncoder | None = None


def systems(
    fitted: Sequence[str], base: TextBase, adapted: Path | None, cache: Path, device: str | None = None
) -> Iterator[System]:
    """Every system, one at a time, so that one model is in memory.

    Args:
        fitted: Texts of the training patients, for TF-IDF.
        base: The un-adapted base.
        adapted: Folder of an exported encoder, if there is one.
        cache: Folder of embeddings.
        device: Device; the GPU where there is one by default.
    """
    yield System(TFIDF, tfidf(fitted))
    causal = SeveralPoolings(TextEncoder(base.config(bidirectional=False), device), list(_POOLINGS.values())).eval()
    for number, name in enumerate(_POOLINGS):
        yield System(name, partial(_columns, _embedding(causal, cache, "causal base"), number, len(_POOLINGS)))
    del causal
    encoder = load_base_system(base, adapted, device)
    yield System(BIDIRECTIONAL, _embedding(encoder, cache, BIDIRECTIONAL), encoder)
    if adapted is not None:
        encoder = load_system(base, adapted, device)
        yield System(ADAPTED, _embedding(encoder, cache, ADAPTED), encoder)


def _embedding(encoder: TextEncoder | SeveralPoolings, cache: Path, what: str) -> Embed:
    def embed(texts: Sequence[str]) -> np.ndarray:
        with counted(f"texts, {what}") as show:
            return embed_texts(encoder, texts, cache, progress=show)

    return embed


def _columns(embed: Embed, number: int, parts: int, texts: Sequence[str]) -> np.ndarray:
    return np.split(embed(texts), parts, axis=1)[number]
