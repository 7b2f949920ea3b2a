"""The text sides of CT-CLIP and Merlin: towers from transformers, and the heads into the space shared with images."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    LongformerConfig,
    LongformerModel,
    PretrainedConfig,
    PreTrainedModel,
)

from lightning_modules.errors import ModelError
from lightning_modules.networks.published.checkpoint import KeyLayout

SHARED_DIM = 512


@dataclass(frozen=True)
class TextRecipe:
    """How a release embeds texts.

    Args:
        base: Model on the Hugging Face hub whose configuration and tokenizer it takes; its weights are in the release.
        config: Class of the configuration.
        tower: Class of the tower.
        max_tokens: Longest text.
        prepared: What is done to a text before its tokens are read.
        bias: Whether the head of texts has one.
        image_dim: Dimensions of an image feature that needs a head, too; None where features are in the space already.
        layout: How the release names the weights of the text side, in the same file as those of the image side.
    """

    base: str
    config: type[PretrainedConfig]
    tower: type[PreTrainedModel]
    max_tokens: int
    prepared: Callable[[str], str]
    bias: bool
    image_dim: int | None
    layout: KeyLayout


def _as_it_is(text: str) -> str:
    return text


def _spaced_words(text: str) -> str:
    """Lower case, words and runs of punctuation apart, as Merlin was trained."""
    return " ".join(re.findall(r"\w+|[^\w\s]+", text.lower()))


TEXTS: dict[str, TextRecipe] = {
    "ct_clip": TextRecipe(
        base="microsoft/BiomedVLP-CXR-BERT-specialized",
        config=BertConfig,
        tower=BertModel,
        max_tokens=512,
        prepared=_as_it_is,
        bias=False,
        image_dim=None,
        layout=KeyLayout(
            renames=((r"^text_transformer\.", "tower."), (r"^to_text_latent\.", "text_projection.")),
            ignored=(
                r"visual_transformer\..*",
                r"to_visual_latent(_extra)?\..*",
                r"to_text_latent_extra\..*",
                r"temperature",
                r"text_transformer\.embeddings\.(position_ids|token_type_ids)",
            ),
        ),
    ),
    "merlin": TextRecipe(
        base="yikuan8/Clinical-Longformer",
        config=LongformerConfig,
        tower=LongformerModel,
        max_tokens=1024,
        prepared=_spaced_words,
        bias=True,
        image_dim=2048,
        layout=KeyLayout(
            renames=(
                (r"^encode_text\.text_encoder\.", "tower."),
                (r"^encode_text\.linear_layer\.", "text_projection."),
                (r"^encode_image\.i3_resnet\.contrastive_head\.", "image_projection."),
            ),
            ignored=(
                r"encode_image\.i3_resnet\.(?!contrastive_head\.).*",
                r"logit_scale",
                r"encode_text\.text_encoder\.embeddings\.(position_ids|token_type_ids)",
            ),
        ),
    ),
}
"""The text side of every release that has one."""


class PublishedText(nn.Module):
    """Texts and image features as unit vectors, whose product says how well they belong together.

    Args:
        recipe: How the release embeds texts.
        tower: The language model.
        tokenizer: Its tokenizer.
    """

    def __init__(self, recipe: TextRecipe, tower: PreTrainedModel, tokenizer: Any) -> None:
        super().__init__()
        self.recipe, self.tower, self.tokenizer = recipe, tower, tokenizer
        self.text_projection = nn.Linear(tower.config.hidden_size, SHARED_DIM, bias=recipe.bias)
        self.image_projection = nn.Linear(recipe.image_dim, SHARED_DIM) if recipe.image_dim else nn.Identity()

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Unit vectors [N, 512] of token numbers [N, length], 1 in the mask where there is a token."""
        first = self.tower(input_ids=tokens, attention_mask=mask).last_hidden_state[:, 0]
        return functional.normalize(self.text_projection(first), dim=-1)

    def embed_texts(self, texts: Sequence[str], batch_size: int = 16) -> torch.Tensor:
        """Unit vectors [N, 512] of texts, without gradients, in evaluation mode."""
        self.eval()
        device = self.text_projection.weight.device
        parts = []
        with torch.inference_mode():
            for start in range(0, len(texts), batch_size):
                prepared = [self.recipe.prepared(text) for text in texts[start : start + batch_size]]
                read = self.tokenizer(
                    prepared, return_tensors="pt", padding=True, truncation=True, max_length=self.recipe.max_tokens
                ).to(device)
                parts.append(self(read["input_ids"], read["attention_mask"]))
        return torch.cat(parts) if parts else torch.empty(0, SHARED_DIM, device=device)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Unit vectors [B, 512] of the features [B, feature_dim] of the release's image encoder."""
        return functional.normalize(self.image_projection(features), dim=-1)


def build_text(name: str, folder: Path) -> PublishedText:
    """The text side of a release with random weights; `load_published` with `TEXTS[name].layout` fills it.

    Args:
        name: A key of `TEXTS`.
        folder: Local folder with the configuration and tokenizer of the recipe's base; its code is not run.

    Raises:
        ModelError: if the release has no text side, or the folder no configuration or tokenizer.
    """
    if name not in TEXTS:
        raise ModelError(f"{name} has no text side; zero-shot scoring works with {', '.join(TEXTS)}.")
    recipe = TEXTS[name]
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"Folder {folder.name} has no config.json; expected configuration and tokenizer of {recipe.base}, which "
            f"the text side of {name} takes: fetch them from huggingface.co."
        )
    try:
        config = recipe.config.from_pretrained(folder, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"Configuration or tokenizer in {folder.name} cannot be read ({type(error).__name__}: "
            f"{str(error).splitlines()[0][:120]}); expected those of {recipe.base}."
        ) from error
    tower = recipe.tower(config)
    if len(tokenizer) != config.vocab_size:
        tower.resize_token_embeddings(len(tokenizer))
    return PublishedText(recipe, tower, tokenizer).eval()
