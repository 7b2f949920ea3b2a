"""Scans and texts in the space of an aligned model: what zero-shot classification, retrieval and `embed` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from datamodules.attributes.models import model_source
from datamodules.cohort import Cohort
from datamodules.embedding_cache import EmbeddingCache
from datamodules.errors import DataError
from datamodules.streaming import VolumeDataModule
from experiments.console import counted, progress_bar
from experiments.encoders import exported_encoder
from experiments.registry import ENCODERS, STAGES, choose
from experiments.stages.text import text_encoder_folder
from experiments.statistics.means import owner_mean
from experiments.text.embeddings import HasFingerprint, embed_texts
from experiments.zero_shot.prompt_sets import check_lengths
from lightning_modules.contracts import differing_fields
from lightning_modules.errors import ModelError
from lightning_modules.networks.aligned import TEXT, AlignedModel, model_folder
from lightning_modules.networks.text_encoding import token_counts
from lightning_modules.networks.text_export import ADAPTER, load_text_encoder, read_text_encoder

ALIGNMENT_STAGE = "alignment"
EMBEDDINGS = "embeddings"
_IMAGES_AT_ONCE = 32


@dataclass(frozen=True)
class SpaceOptions:
    """Which aligned model, and where its text encoder is.

    Args:
        runs: Folder of all runs.
        seed: Seed of the pretraining.
        fold: Fold that is tested, for a cohort with folds.
        model: Folder or hub id of an aligned model; the one that the alignment stage exported when left out.
        text: Folder of its text encoder; the one that the text stage exported when left out.
        base: Language model below the text encoder: folder, hub id or smollm2; the recorded one when left out.
        encoder: Which aligned encoder of the registry, where no folder is named.
        tag: TAG of the pretraining.
    """

    runs: Path = Path("runs")
    seed: int = 42
    fold: int | None = None
    model: str | None = None
    text: Path | None = None
    base: str | None = None
    encoder: str = "aligned"
    tag: str = ""

    def __post_init__(self) -> None:
        choose("ENCODER", self.encoder, {name: entry for name, entry in ENCODERS.items() if _aligned(entry.stage)})


def _aligned(stage: str | None) -> bool:
    """Whether a stage aligns images with texts."""
    return stage is not None and ALIGNMENT_STAGE in (stage, STAGES[stage].variant_of)


@dataclass
class SharedSpace:
    """An aligned model with the source of its text embeddings.

    Args:
        model: The model.
        cache: Embeddings of texts by its text encoder.
        load_text: Gives the text encoder; called when a text is not in the cache.
        device: Where images are embedded; the GPU where there is one by default.
    """

    model: AlignedModel
    cache: EmbeddingCache
    load_text: Callable[[], HasFingerprint]
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def __post_init__(self) -> None:
        self.model = self.model.to(self.device).eval()
        self._encoder: HasFingerprint | None = None

    @property
    def scale(self) -> float:
        """Inverse temperature of the model."""
        return float(self.model.scale().detach())

    @torch.inference_mode()
    def images(self, images: torch.Tensor) -> np.ndarray:
        """Unit vectors, float32 [B, d], of images [B, 1, D, H, W] in [0, 1] on the network's grid."""
        parts = images.split(_IMAGES_AT_ONCE)
        return np.concatenate([self.model.embed_image(part.to(self.device)).cpu().numpy() for part in parts])

    @torch.inference_mode()
    def texts(self, texts: Sequence[str], whole: bool = False) -> np.ndarray:
        """Unit vectors of texts; the language model is loaded only if one of them is new.

        Args:
            texts: Texts.
            whole: Whether a text that the encoder would cut off is refused, as a prompt is.

        Returns:
            float32 [N, d].

        Raises:
            DataError: if a text is refused.
            ModelError: if the text encoder cannot be found, or is not the one that the model was aligned with.
        """
        missing = self.cache.missing(texts)
        if missing:
            encoder = self._loaded()
            if whole:
                check_lengths(missing, token_counts(encoder, missing), int(encoder.config.max_length))  # type: ignore[attr-defined]
            with counted("texts") as show:
                embed_texts(encoder, missing, self.cache.folder.parent, progress=show)
        rows = torch.from_numpy(self.cache.rows(texts))
        return np.concatenate([self.model.embed_text(part.to(self.device)).cpu().numpy() for part in rows.split(4096)])

    def _loaded(self) -> HasFingerprint:
        if self._encoder is None:
            self._encoder = self.load_text()
            found, expected = self._encoder.fingerprint(), self.cache.fingerprint
            if found != expected:
                raise ModelError(
                    f"The text encoder has the fingerprint {found}; the aligned model was trained with {expected}. "
                    "Name the encoder that it was aligned with (--text), or align anew."
                )
        return self._encoder


def load_space(cohort: Cohort | None, options: SpaceOptions) -> SharedSpace:
    """The aligned model of a cohort, or any other that is named.

    Args:
        cohort: The cohort whose stages exported it; may be left out where `options.model` and `options.text` name both.
        options: Which model, and where its text encoder is.

    Raises:
        DataError: if the alignment stage was not run yet.
        ModelError: if a folder is damaged, or model and text encoder do not belong together.
    """
    exported = model_folder(options.model or _exported(cohort, options))
    model = AlignedModel.from_pretrained(exported)
    recorded = model.text_encoder
    if "fingerprint" not in recorded:
        raise ModelError("The aligned model records no text encoder; export it again.")
    folder = options.runs / "renal" / (cohort.info.name if cohort is not None else "") / EMBEDDINGS
    cache = EmbeddingCache(folder, str(recorded["fingerprint"]), model.config.text_dim)

    def load_text() -> HasFingerprint:
        beside = exported / TEXT
        text = options.text or (beside if (beside / ADAPTER).is_file() else _text_encoder(cohort, options))
        name = options.base or read_text_encoder(text).config.base_name
        return load_text_encoder(text, base=model_source(name)[0])

    return SharedSpace(model, cache, load_text)


def _exported(cohort: Cohort | None, options: SpaceOptions) -> Path:
    """The folder that the alignment stage exported."""
    if cohort is None:
        raise DataError("Neither a cohort nor an aligned model was named; name one of them.")
    folder = exported_encoder(options.runs, cohort, options.encoder, options.seed, options.fold, options.tag)
    assert folder is not None
    return folder


def _text_encoder(cohort: Cohort | None, options: SpaceOptions) -> Path:
    """The text encoder that the text stage exported."""
    if cohort is None:
        raise DataError("Neither a cohort nor a text encoder was named; name one of them.")
    folder = text_encoder_folder(options.runs, cohort, options.seed, options.fold)
    if folder is None:
        fold = "" if options.fold is None else f", fold {options.fold}"
        raise DataError(
            f"Cohort {cohort.info.name} has no text encoder with pretraining seed {options.seed}{fold}; run "
            "`make pretrain` first, or name a folder of your own."
        )
    return folder


def check_contract(space: SharedSpace, contract: dict[str, object]) -> None:
    """Refuse data that were prepared otherwise than the model's.

    Raises:
        ModelError: naming the fields that differ.
    """
    differing = differing_fields(space.model.contract, contract)
    if differing:
        text = "; ".join(f"{name}: {there} in the model, {here} in the data" for name, there, here in differing[:4])
        raise ModelError(
            f"The aligned model expects another preprocessing ({text}); choose the PROFILE that it was trained with."
        )


@dataclass(frozen=True)
class Samples:
    """Embedded volumes of one part of a DataModule.

    Args:
        embedding: float32 [S, d], of unit length.
        kidney: int64 [S], row of `plan.kidneys`.
        patient: int64 [S], row of `plan.patients`.
    """

    embedding: np.ndarray
    kidney: np.ndarray
    patient: np.ndarray


def embed_part(space: SharedSpace, module: VolumeDataModule, part: str) -> Samples:
    """Embed every volume of one part, in the order of the loader.

    Raises:
        DataError: if nobody is in that part.
        ModelError: if the model expects another preprocessing.
    """
    check_contract(space, module.contract)
    loader = module.loader(part)
    found: dict[str, list[np.ndarray]] = {"embedding": [], "kidney": [], "patient": []}
    with progress_bar() as bar:
        for batch in bar.track(loader, description=f"scans, {part}"):
            found["embedding"].append(space.images(module.augmentation.evaluate(batch["image"])))
            for name in ("kidney", "patient"):
                found[name].append(batch[name].numpy())
    return Samples(**{name: np.concatenate(values) for name, values in found.items()})


def kidney_mean(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """One embedding per kidney: the normalised mean of its volumes.

    Returns:
        Rows of `plan.kidneys`, int64 [K] in ascending order, and float32 [K, d] of unit length.
    """
    kidneys, place = np.unique(samples.kidney, return_inverse=True)
    means = owner_mean(samples.embedding, place.reshape(-1), len(kidneys))
    return kidneys, nn.functional.normalize(torch.from_numpy(means), dim=1).float().numpy()
