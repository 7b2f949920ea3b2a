"""Scans and texts in the space of an aligned model: what zero-shot classification, retrieval and `embed` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from datamodules.base import VolumeDataModule
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.trained_on import TrainedOn
from datamodules.errors import DataError
from datamodules.reports.embedding_cache import EmbeddingCache
from datamodules.reports.llm.models import model_source
from experiments.aligned.zero_shot.prompt_sets import check_lengths
from experiments.encoders.exported import exported_encoder
from experiments.encoders.features import frozen_features
from experiments.encoders.published.inputs import encoder_contract
from experiments.encoders.published.weights import text_folder
from experiments.encoders.text_embeddings import HasFingerprint, embed_texts
from experiments.registry import ENCODERS, STAGES, EncoderEntry, choose
from experiments.runs.console import counted
from experiments.runs.folders import EMBEDDINGS, FEATURES, cache_folder, text_encoder_folder
from experiments.runs.run_data import read_trained_on
from experiments.statistics.means import owner_mean
from lightning_modules.core.contracts import differing_fields
from lightning_modules.core.errors import ModelError
from lightning_modules.export.aligned import TEXT, load_aligned, load_pair, model_folder
from lightning_modules.export.text import ADAPTER, load_text_encoder, read_text_encoder
from lightning_modules.networks.joint.aligned_model import AlignedModel
from lightning_modules.networks.joint.published_pair import PublishedPair
from lightning_modules.networks.text.encoding import token_counts
from lightning_modules.networks.text.published import TEXTS, require_text_side

ALIGNMENT_STAGE = "alignment"
_IMAGES_AT_ONCE = 32


@dataclass(frozen=True)
class SpaceOptions:
    """Which aligned model, and where its text encoder is.

    Args:
        runs: Folder of all runs.
        seed: Seed of the pretraining.
        fold: Fold that is tested, for a cohort with folds.
        model: Folder or hub id of an aligned model; the one that the alignment stage exported when left out.
        text: Folder of its text encoder; the one that the text stage exported when left out. Of a published encoder,
            the folder with configuration and tokenizer; `text` beside its weights when left out.
        base: Language model below the text encoder: folder, hub id or smollm2; the recorded one when left out.
        encoder: Which aligned encoder of the registry, where no folder is named, or a published one with a text side.
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
        if self.encoder in ENCODERS and ENCODERS[self.encoder].release:
            require_text_side(ENCODERS[self.encoder].release)
        choose("ENCODER", self.encoder, {name: entry for name, entry in ENCODERS.items() if _aligned(entry)})
        if self.published and (self.model or self.base):
            raise DataError(
                f"An aligned model or its language model was named besides ENCODER={self.encoder}, whose both sides "
                "are in its release; leave it out, or leave the encoder out."
            )

    @property
    def published(self) -> bool:
        """Whether others trained both sides."""
        return bool(ENCODERS[self.encoder].release)


def _aligned(entry: EncoderEntry) -> bool:
    """Whether an encoder comes with texts: by a stage that aligns, or by its release."""
    if entry.stage is not None:
        return ALIGNMENT_STAGE in (entry.stage, STAGES[entry.stage].variant_of)
    return entry.release in TEXTS


def read_as(encoder: str) -> tuple[str, dict[str, object]]:
    """How a DataModule is composed for the scans of an encoder.

    Returns:
        The ENCODER whose preprocessing it takes, and flags: its network stands in the space, and is not built twice.
    """
    return (encoder, {"encoder.network": "resnet"}) if ENCODERS[encoder].release else ("scratch", {})


@dataclass
class SharedSpace:
    """An aligned model with the source of its text embeddings; who asks does not see who trained it.

    Args:
        model: The model, of this suite or of others.
        cache: Embeddings of texts by its text encoder.
        load_text: Gives the text encoder; called when a text is not in the cache.
        features: Folder of cached features of volumes, shared with probes of the same encoder.
        trained_on: Whom its weights have seen.
        folder: Folder of the exported model; None of published weights.
        device: Where images are embedded; the GPU where there is one by default.
    """

    model: AlignedModel | PublishedPair
    cache: EmbeddingCache
    load_text: Callable[[], HasFingerprint]
    features: Path
    trained_on: TrainedOn = field(default_factory=TrainedOn.nobody)
    folder: Path | None = None
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
    def volumes(self, module: VolumeDataModule, positions: Sequence[int]) -> np.ndarray:
        """Unit vectors, float32 [N, d], of volumes of a DataModule, whose features are computed once and kept.

        Args:
            module: DataModule whose volumes and preprocessing are used.
            positions: Positions of volumes in its volume set.
        """
        features = torch.from_numpy(frozen_features(self.model.image_encoder, module, positions, self.features))
        parts = [self.model.embed_features(part.to(self.device)).cpu().numpy() for part in features.split(4096)]
        return np.concatenate(parts)

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
        DataError: if the alignment stage was not run yet, or published weights or volumes for them are not here.
        ModelError: if a folder is damaged, or model and text encoder do not belong together.
    """
    embeddings, features = (cache_folder(options.runs, cohort, kind) for kind in (EMBEDDINGS, FEATURES))
    if options.published:
        return _published_space(cohort, options, embeddings, features)
    exported = model_folder(options.model or _exported(cohort, options))
    model = load_aligned(exported)
    recorded = model.text_encoder
    if "fingerprint" not in recorded:
        raise ModelError("The aligned model records no text encoder; export it again.")
    cache = EmbeddingCache(embeddings, str(recorded["fingerprint"]), model.config.text_dim)

    def load_text() -> HasFingerprint:
        beside = exported / TEXT
        text = options.text or (beside if (beside / ADAPTER).is_file() else _text_encoder(cohort, options))
        name = options.base or read_text_encoder(text).config.base_name
        return load_text_encoder(text, base=model_source(name)[0])

    return SharedSpace(model, cache, load_text, features, read_trained_on(exported), exported)


def _published_space(cohort: Cohort | None, options: SpaceOptions, embeddings: Path, features: Path) -> SharedSpace:
    """Both sides of a release."""
    if cohort is None:
        raise DataError(f"ENCODER={options.encoder} reads volumes of a cohort, and none was named; name it with DATA=.")
    weights = exported_encoder(options.runs, cohort, options.encoder, options.seed, options.fold)
    assert weights is not None
    folder = options.text or text_folder(options.encoder)
    contract = encoder_contract(options.encoder).to_dict()
    pair = load_pair(ENCODERS[options.encoder].release, weights, folder, contract)
    cache = EmbeddingCache(embeddings, str(pair.text_encoder["fingerprint"]), pair.text.feature_dim)
    return SharedSpace(pair, cache, lambda: pair.text, features, read_trained_on(weights))


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
    folder = text_encoder_folder(options.runs, cohort, options.seed, options.fold, options.tag)
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
            f"The aligned model expects another preprocessing ({text}); choose the PROFILE that it was trained with, "
            "or the contract of its encoder file."
        )


@dataclass(frozen=True)
class Samples:
    """Embedded volumes of one part of a DataModule.

    Args:
        embedding: float32 [S, d], of unit length.
        kidney: int64 [S], row of `plan.kidneys`.
        patient: int64 [S], row of `plan.patients`.
        position: int64 [S], position in the volume set.
    """

    embedding: np.ndarray
    kidney: np.ndarray
    patient: np.ndarray
    position: np.ndarray


def embed_part(space: SharedSpace, module: VolumeDataModule, part: str) -> Samples:
    """Embed every volume of one part, kidney by kidney.

    Raises:
        DataError: if nobody is in that part, or the model was trained on somebody who is.
        ModelError: if the model expects another preprocessing.
    """
    check_contract(space, module.contract)
    space.trained_on.refuse_seen(module.identity, "The aligned model", (part,))
    visits = module.visits(part)
    if not visits.kidney:
        raise DataError(f"No kidney of the {part} part has a volume; check roles and splits with `make data-check`.")
    kidney = np.repeat(np.asarray(visits.kidney, dtype=np.int64), [len(found) for found in visits.volumes])
    patient = module.plan.kidneys["row"].to_numpy(dtype=np.int64)[kidney]
    position = np.array([place for found in visits.volumes for place in found], dtype=np.int64)
    return Samples(space.volumes(module, position.tolist()), kidney, patient, position)


def kidney_mean(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """One embedding per kidney: the normalised mean of its volumes.

    Returns:
        Rows of `plan.kidneys`, int64 [K] in ascending order, and float32 [K, d] of unit length.
    """
    kidneys, place = np.unique(samples.kidney, return_inverse=True)
    means = owner_mean(samples.embedding, place.reshape(-1), len(kidneys))
    return kidneys, nn.functional.normalize(torch.from_numpy(means), dim=1).float().numpy()
