"""Image encoder and text embeddings in one space, and that model as a folder that anyone can load."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from lightning_modules.core.errors import ModelError
from lightning_modules.export.image import CARD, CONFIG, CONTRACT, WEIGHTS, read_encoder, save_encoder
from lightning_modules.export.written import write_tensors, write_text
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder

FORMAT = 1
ALIGNMENT, HEADS = "alignment.json", "alignment.safetensors"
TEXT = "text"
"""Folder of the text encoder beside the model (`networks.text_export`), where it was exported too."""
MAX_LOG_SCALE = math.log(100.0)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class AlignedConfig:
    """Heads of the shared space.

    Args:
        text_dim: Dimensions of a text embedding.
        embed_dim: Dimensions of the shared space, with a linear head on either side; without it the space is that of
            the text embeddings, which stay as they are, and the image alone is projected (RenalCLIP).
        initial_scale: Inverse temperature to begin with.
        initial_bias: Bias of a pair's logit to begin with; without one there is none (InfoNCE needs none).
    """

    text_dim: int
    embed_dim: int | None = None
    initial_scale: float = 1 / 0.07
    initial_bias: float | None = None

    def __post_init__(self) -> None:
        if (
            self.text_dim < 1
            or (self.embed_dim is not None and self.embed_dim < 1)
            or not 0 < self.initial_scale <= 100
        ):
            raise ModelError(f"Alignment: {self} was found; expected dimensions of at least 1 and a scale in (0, 100].")


class AlignedModel(nn.Module):
    """Maps images and text embeddings to unit vectors whose similarity means that they belong together.

    `text_mean`, the mean of the training texts or 0, is taken off every text embedding first: pooled states of a
    language model share a large common part, beside which what tells texts apart is small.
    `contract` is the preprocessing that an image must have gone through, `crop` the centre of its grid [D, H, W] that
    the network was trained on, and `text_encoder` says which encoder the text embeddings must come from
    (`fingerprint`, and its configuration without a path).

    Args:
        encoder: Which image encoder, and how large.
        config: Heads of the shared space.
        contract: Preprocessing contract of the images.
        text_encoder: What is recorded of the text encoder, as plain data.
        crop: Voxels D x H x W of a training image, where they are known.
    """

    text_mean: torch.Tensor

    def __init__(
        self,
        encoder: EncoderConfig,
        config: AlignedConfig,
        contract: Mapping[str, Any] | None = None,
        text_encoder: Mapping[str, Any] | None = None,
        crop: tuple[int, int, int] | None = None,
    ) -> None:
        super().__init__()
        self.crop = crop
        self.encoder_config, self.config = encoder, config
        self.contract, self.text_encoder = dict(contract or {}), dict(text_encoder or {})
        self.image_encoder = build_encoder(encoder)
        self.embed_dim = config.embed_dim or config.text_dim
        self.image_head = nn.Linear(int(self.image_encoder.feature_dim), self.embed_dim, bias=False)  # type: ignore[arg-type]
        self.text_head: nn.Module = (
            nn.Identity() if config.embed_dim is None else nn.Linear(config.text_dim, config.embed_dim, bias=False)
        )
        self.register_buffer("text_mean", torch.zeros(config.text_dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(config.initial_scale)))
        self.logit_bias = None if config.initial_bias is None else nn.Parameter(torch.tensor(config.initial_bias))

    def embed_image(self, image: torch.Tensor) -> torch.Tensor:
        """Unit vectors, float32 [B, d], of images [B, 1, D, H, W] in [0, 1]."""
        return self.embed_features(self.image_encoder(image))

    def embed_features(self, features: torch.Tensor) -> torch.Tensor:
        """Unit vectors, float32 [B, d], of features [B, F] of the image encoder."""
        return functional.normalize(self.image_head(features).float(), dim=1)

    def embed_text(self, embedding: torch.Tensor) -> torch.Tensor:
        """Unit vectors, float32 [B, d], of text embeddings float [B, T] by the recorded text encoder.

        Raises:
            ModelError: if they have other dimensions.
        """
        if embedding.shape[1:] != (self.config.text_dim,):
            raise ModelError(
                f"Text embeddings of shape {tuple(embedding.shape)} were given; expected [B, {self.config.text_dim}] "
                f"by text encoder {self.text_encoder.get('base_name', 'of this model')}."
            )
        return functional.normalize(self.text_head(embedding.float() - self.text_mean).float(), dim=1)

    def scale(self) -> torch.Tensor:
        """Inverse temperature, at most 100."""
        return self.logit_scale.exp().reshape(())

    @torch.no_grad()
    def bound_scale(self) -> None:
        """Keep the inverse temperature in [1, 100]; called after every step, as clamping in the forward pass would stop
        its gradient."""
        self.logit_scale.clamp_(0.0, MAX_LOG_SCALE)

    @classmethod
    def from_pretrained(cls, source: str | Path) -> AlignedModel:
        """A saved model, ready to use.

        Args:
            source: Folder that `save_aligned` wrote, or the id of a repository of the Hugging Face hub with its files.

        Returns:
            The model in evaluation mode.

        Raises:
            ModelError: if there is no such folder or repository, or a file is absent, damaged or of another format.
        """
        folder = model_folder(source)
        exported = read_encoder(folder)
        missing = [name for name in (ALIGNMENT, HEADS) if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"{folder.name} holds an image encoder without {', '.join(missing)}; expected an aligned model, as "
                "`make pretrain STAGES=alignment` exports it."
            )
        try:
            content = json.loads((folder / ALIGNMENT).read_text(encoding="utf-8"))
            heads = load_file(folder / HEADS)
        except (ValueError, SafetensorError) as error:
            raise ModelError(f"Aligned model {folder.name} is damaged ({error}); export it again.") from error
        if content.get("format") != FORMAT or content.get("encoder_sha256") != exported.sha256:
            raise ModelError(
                f"Aligned model {folder.name} has format {content.get('format')} and heads for encoder "
                f"{str(content.get('encoder_sha256'))[:12]}; expected format {FORMAT} and encoder "
                f"{exported.sha256[:12]}, which lies beside them."
            )
        known = {field.name for field in fields(AlignedConfig)}
        config = AlignedConfig(**{name: value for name, value in content["alignment"].items() if name in known})
        crop = content.get("crop")  # models of earlier versions record none
        model = cls(exported.config, config, exported.contract, content["text_encoder"], crop and tuple(crop))
        try:
            model.image_encoder.load_state_dict(exported.weights)
            remaining = {name for name in model.state_dict() if not name.startswith("image_encoder.")}
            if remaining != set(heads):
                raise RuntimeError(f"heads {sorted(heads)}, expected {sorted(remaining)}")
            model.load_state_dict(heads, strict=False)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"Aligned model {folder.name}: weights do not fit its configuration ({reason})."
            ) from error
        return model.eval()


def save_aligned(folder: Path, model: AlignedModel, card: str, training_data: str = "") -> str:
    """Write an aligned model; the encoder's weights are written last, so a folder with them is complete.

    The folder is that of an exported image encoder (`networks.export`), so that fine-tuning can start from it, with
    the heads and their configuration beside.

    Args:
        folder: Folder to write.
        model: The trained model.
        card: Model card in Markdown.
        training_data: Hash of the record of whom it was trained on, where one lies beside it.

    Returns:
        SHA-256 of the image encoder's weights file.
    """
    # The heads name the hash of the encoder, which waits in a folder of its own until they are written.
    staged = folder / ".encoder"
    sha256 = save_encoder(staged, model.image_encoder, model.encoder_config, model.contract, card, training_data)
    heads = {name: value for name, value in model.state_dict().items() if not name.startswith("image_encoder.")}
    write_tensors(folder / HEADS, heads)
    content = {
        "format": FORMAT,
        "alignment": asdict(model.config),
        "text_encoder": model.text_encoder,
        "crop": model.crop,
        "encoder_sha256": sha256,
    }
    write_text(folder / ALIGNMENT, json.dumps(content, indent=2) + "\n")
    for name in (CONFIG, CONTRACT, CARD, WEIGHTS):
        (staged / name).replace(folder / name)
    staged.rmdir()
    return sha256


def model_folder(source: str | Path) -> Path:
    """The folder of an aligned model: the one that is named, or where the hub's files were put.

    Raises:
        ModelError: if there is neither such a folder nor such a repository.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not isinstance(source, str) or not _HUB_ID.fullmatch(source):
        raise ModelError(f"Aligned model {folder.name} is no folder here, and no hub id (owner/name); name either one.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    wanted = [WEIGHTS, CONFIG, CONTRACT, CARD, ALIGNMENT, HEADS, "*.parquet", f"{TEXT}/*"]
    try:
        return Path(snapshot_download(source, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(
            f"Aligned model {source} is no folder here and was not found on the hub ({type(error).__name__}); check "
            "the name, the network and `hf auth login` for a private repository."
        ) from error
