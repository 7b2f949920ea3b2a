"""A tiny cohort with reports and attributes, a random aligned model, and a stand-in for its text encoder."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from torch import nn

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.table_checks import conform
from datamodules.cohort.tables import TABLES
from datamodules.cohort.trained_on import TrainedOn
from datamodules.files import write_parquet
from datamodules.reports.embedding_cache import EmbeddingCache
from experiments.aligned.shared_space import SharedSpace
from experiments.cohorts.attributes import attributes
from lightning_modules.export.aligned import save_aligned
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.networks.joint.aligned_model import AlignedConfig, AlignedModel
from tests.tiny import CONTRACT

TEXT_DIM = 12
CROP = (8, 10, 10)
FLAGS: dict[str, Any] = {
    "contract": {"grid": [8, 12, 12]},
    "augmentation": {"crop": list(CROP)},
    "encoder": {"width": 4, "depth": 10, "stem_pool": True},
    "trainer": {"accelerator": "cpu"},
}
ENCODER = EncoderConfig(depth=10, width=8)
REGIONS = EncoderConfig(network="regions", depth=10, width=8, region_width=4)
"""The network that stage 1 trains, as small."""


@dataclass
class Settings:
    """As the configuration of a text encoder."""

    max_length: int = 64


class HashedWords(nn.Module):
    """A text encoder without a language model: the mean of random vectors, one per word."""

    feature_dim = TEXT_DIM

    def __init__(self, max_length: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.config = Settings(max_length)
        self.table = nn.Embedding(509, TEXT_DIM)
        generator = torch.Generator().manual_seed(seed)
        self.table.weight.data = torch.randn(509, TEXT_DIM, generator=generator)

    def tokenize(self, texts: list[str]) -> dict[str, torch.Tensor]:
        words = [[1 + zlib.crc32(w.encode()) % 508 for w in text.lower().split()] for text in texts]
        words = [own[: self.config.max_length] for own in words]
        width = max(map(len, words))
        ids = torch.tensor([own + [0] * (width - len(own)) for own in words])
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        weight = attention_mask[..., None].float()
        return (self.table(input_ids) * weight).sum(dim=1) / weight.sum(dim=1)

    def fingerprint(self) -> str:
        return f"hashed-{float(self.table.weight[5, 3].detach()):.6f}".replace(".", "_")


def aligned_model(seed: int = 0, fingerprint: str = "", encoder: EncoderConfig = ENCODER) -> AlignedModel:
    """An aligned model of random weights for the tiny contract."""
    torch.manual_seed(seed)
    text = {"fingerprint": fingerprint or HashedWords().fingerprint(), "base_name": "hashed"}
    model = AlignedModel(encoder, AlignedConfig(TEXT_DIM, embed_dim=8), CONTRACT.to_dict(), text)
    nn.init.normal_(model.text_mean, std=0.1)
    return model.eval()


def tiny_space(folder: Path, seed: int = 0) -> SharedSpace:
    """The random model with its stand-in for the text encoder."""
    encoder = HashedWords()
    cache = EmbeddingCache(folder, encoder.fingerprint(), TEXT_DIM)
    return SharedSpace(aligned_model(seed), cache, lambda: encoder, folder / "features")


def export(folder: Path, seed: int = 0, encoder: EncoderConfig = ENCODER) -> Path:
    """The random model as a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_aligned(folder, aligned_model(seed, encoder=encoder), "card", TrainedOn.nobody().write(folder))
    return folder


def with_reports(root: Path) -> Path:
    """Give a tiny cohort reports of several kinds, two of each kind in other words, and their attributes."""
    kidneys = Cohort.load(root)["kidneys"]
    keys = kidneys[["patient_id", "study_id"]].drop_duplicates().to_dict("records")
    rows = []
    for number, key in enumerate(keys):
        size, pole = 2.0 + 1.5 * (number % 4), ("upper", "lower")[number % 2]
        wording = (
            f"There is a solid mass of {size:.1f} cm in the {pole} pole",
            f"A solid lesion measuring {size:.1f} cm is seen in the {pole} pole",
        )[number % 3 == 0]
        margin = "The margin is sharp." if number % 5 else "The borders are ill defined."
        text = f"Left kidney: {wording}. {margin} Right kidney: No focal lesion in the right kidney."
        rows.append(key | {"report_id": f"R{number}", "side": None, "text": text, "source": "generated"})
    write_parquet(root / "reports.parquet", conform(pd.DataFrame(rows), TABLES["reports"]))
    attributes(root)
    return root


def extra_flags(folder: Path) -> list[str]:
    """Flags that give every command the tiny geometry."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(FLAGS))
    return [f"--config={path}"]


def extra_argument(folder: Path) -> str:
    """The same on the command line."""
    return "--extra=" + json.dumps(extra_flags(folder))


def fill_cache(runs: Path, cohort: str, texts: list[str]) -> None:
    """Put the stand-in's embeddings where a command looks for them, so that no language model is asked for."""
    encoder = HashedWords()
    cache = EmbeddingCache(runs / "renal" / cohort / "embeddings", encoder.fingerprint(), TEXT_DIM)
    missing = cache.missing(texts)
    if missing:
        with torch.no_grad():
            cache.add(missing, np.concatenate([encoder(**encoder.tokenize([text])).numpy() for text in missing]))
