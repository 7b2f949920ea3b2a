"""The text sides of CT-CLIP and Merlin: towers from transformers, and the heads into the space shared with images.

Facts are from the released code, as file:line.
CT-CLIP (github.com/ibrahimethemhamamci/CT-CLIP, a2a155c): BertTokenizer and BertModel, resized to the tokenizer
(scripts/run_zero_shot.py:6-9); at most 512 tokens, padding masked (scripts/zero_shot.py:135); the state of the first
token (CT_CLIP/ct_clip/ct_clip.py:762) through `to_text_latent` without a bias (549, 765); both sides of unit length
(771); logits are cosines times exp(`temperature`) (796, 807).
Merlin (github.com/StanfordMIMI/Merlin, 2489a96): lower case, words and runs of punctuation apart
(merlin/models/build.py:126); tokens of RoBERTa, at most 1,024, the state of the first, no global attention (56-64),
through
`linear_layer` with a bias (52, 65); images through `contrastive_head`, a 1 x 1 x 1 convolution of the pooled feature
(merlin/models/i3res.py:56, 102); both sides of unit length (build.py:116). `logit_scale` begins with 1 (87), and no
released line applies it: it is taken for a logarithm, as in CLIP. Between two classes the order of patients does not
depend on it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizer,
    LongformerConfig,
    LongformerModel,
    PretrainedConfig,
    PreTrainedModel,
    RobertaTokenizer,
)
from transformers.utils import logging as transformers_logging

from lightning_modules.core.errors import ModelError
from lightning_modules.networks.image.published.checkpoint import KeyLayout
from lightning_modules.networks.image.published.releases import RELEASES

_CONFIG, _FAST = "config.json", "tokenizer.json"


@dataclass(frozen=True)
class TextRecipe:
    """How a release embeds texts.

    Args:
        base: Model on the Hugging Face hub whose configuration and tokenizer it takes; its weights are in the release.
        licence: Licence of the base, as its page states it.
        config: Class of the configuration.
        tower: Class of the tower.
        tokenizer: Class of the tokenizer; named, since a folder may ask for code of its own to read it.
        vocabulary: Files that the tokenizer is made of; one `tokenizer.json` does instead.
        max_length: Most tokens of a text.
        prepared: What is done to a text before its tokens are read.
        bias: Whether the head of texts has one.
        shared_dim: Dimensions of the space into which both sides are projected; None where features of images are in
            it already.
        layout: How the release names the weights of the text side, in the same file as those of the image side.
    """

    base: str
    licence: str
    config: type[PretrainedConfig]
    tower: type[PreTrainedModel]
    tokenizer: Any
    vocabulary: tuple[str, ...]
    max_length: int
    prepared: Callable[[str], str]
    bias: bool
    shared_dim: int | None
    layout: KeyLayout


def _as_it_is(text: str) -> str:
    return text


def _spaced_words(text: str) -> str:
    """Lower case, words and runs of punctuation apart, as Merlin was trained."""
    return " ".join(re.findall(r"\w+|[^\w\s]+", text.lower()))


TEXTS: dict[str, TextRecipe] = {
    "ct_clip": TextRecipe(
        base="microsoft/BiomedVLP-CXR-BERT-specialized",
        licence="MIT",
        config=BertConfig,
        tower=BertModel,
        tokenizer=BertTokenizer,
        vocabulary=("vocab.txt",),
        max_length=512,
        prepared=_as_it_is,
        bias=False,
        shared_dim=None,
        layout=KeyLayout(
            renames=(
                (r"^text_transformer\.", "tower."),
                (r"^to_text_latent\.", "text_projection."),
                (r"^temperature$", "logit_scale"),
            ),
            ignored=(
                r"visual_transformer\..*",
                r"to_visual_latent(_extra)?\..*",
                r"to_text_latent_extra\..*",
                r"text_transformer\.embeddings\.(position_ids|token_type_ids)",
            ),
        ),
    ),
    "merlin": TextRecipe(
        base="yikuan8/Clinical-Longformer",
        licence="none stated",
        config=LongformerConfig,
        tower=LongformerModel,
        tokenizer=RobertaTokenizer,
        vocabulary=("vocab.json", "merges.txt"),
        max_length=1024,
        prepared=_spaced_words,
        bias=True,
        shared_dim=512,
        layout=KeyLayout(
            renames=(
                (r"^encode_text\.text_encoder\.", "tower."),
                (r"^encode_text\.linear_layer\.", "text_projection."),
                (r"^encode_image\.i3_resnet\.contrastive_head\.", "image_projection."),
            ),
            ignored=(
                r"encode_image\.i3_resnet\.(?!contrastive_head\.).*",
                r"encode_text\.text_encoder\.embeddings\.(position_ids|token_type_ids)",
            ),
        ),
    ),
}
"""The text side of every release that can be read."""

WITHOUT_TEXT: dict[str, str] = {
    "ct_fm": "it was trained on images alone",
    "merlin_astra": "its release holds the image encoder alone",
    "renalclip": "its text side is Llama-3-8B-Instruct (Meta's Llama 3 licence) with LLM2Vec adapters, released apart "
    "from the image encoder in files whose layout the released code does not document, so that nothing here could read "
    "and check them",
}
"""Why the other releases have none."""


def require_text_side(name: str) -> None:
    """Refuse a release whose text side cannot be had.

    Raises:
        ModelError: with the reason, and the releases that have one.
    """
    if name not in TEXTS:
        raise ModelError(
            f"{RELEASES[name].title if name in RELEASES else name} cannot compare scans with texts: "
            f"{WITHOUT_TEXT.get(name, 'no such release is known')}; choose {' or '.join(TEXTS)}, or an aligned encoder "
            "of this suite."
        )


class PublishedText(nn.Module):
    """The text side of a release, and both heads: what makes texts and image features comparable.

    Embeddings of texts (`forward`) are kept by text and weights; the heads are applied to what was kept.

    Args:
        recipe: How the release embeds texts.
        tower: The language model.
        tokenizer: Its tokenizer.
        feature_dim: Dimensions of a feature of the release's image encoder.
    """

    def __init__(self, recipe: TextRecipe, tower: PreTrainedModel, tokenizer: Any, feature_dim: int) -> None:
        super().__init__()
        self.config, self.tower, self.tokenizer = recipe, tower, tokenizer
        self.feature_dim = int(tower.config.hidden_size)
        shared = recipe.shared_dim or feature_dim
        self.text_projection = nn.Linear(self.feature_dim, shared, bias=recipe.bias)
        self.image_projection = nn.Linear(feature_dim, shared) if recipe.shared_dim else nn.Identity()
        self.logit_scale = nn.Parameter(torch.tensor(1.0))

    def tokenize(self, texts: list[str]) -> Mapping[str, torch.Tensor]:
        """`input_ids` and `attention_mask`, int64 [N, T], padded to the longest and cut off at the release's length."""
        prepared = [self.config.prepared(text) for text in texts]
        read = self.tokenizer(
            prepared, return_tensors="pt", padding=True, truncation=True, max_length=self.config.max_length
        )
        return {name: read[name] for name in ("input_ids", "attention_mask")}

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """States of the first token, [N, hidden_size], of texts [N, T]."""
        states: torch.Tensor = self.tower(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states[:, 0]

    def embed_text(self, embedding: torch.Tensor) -> torch.Tensor:
        """Unit vectors, float32 [N, d], of first-token states [N, hidden_size]."""
        return functional.normalize(self.text_projection(embedding.float()), dim=-1)

    def embed_features(self, features: torch.Tensor) -> torch.Tensor:
        """Unit vectors, float32 [B, d], of features [B, feature_dim] of the release's image encoder."""
        return functional.normalize(self.image_projection(features.float()), dim=-1)

    def scale(self) -> torch.Tensor:
        """Inverse temperature."""
        return self.logit_scale.exp().reshape(())

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of everything that an embedding of a text depends on."""
        tokens = json.loads(self.tokenizer.backend_tokenizer.to_str())
        # How the last texts were padded and cut is kept there, too.
        read = {name: value for name, value in tokens.items() if name not in ("padding", "truncation")}
        recipe = (self.config.base, self.config.max_length, self.config.prepared.__name__)
        digest = hashlib.sha256(json.dumps([recipe, read], sort_keys=True).encode())
        for name, value in sorted(self.tower.state_dict().items()):
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().data)
        return digest.hexdigest()[:16]


def build_text(name: str, folder: Path, feature_dim: int | None = None) -> PublishedText:
    """The text side of a release with random weights; `load_published` with `TEXTS[name].layout` fills it.

    Args:
        name: A key of `TEXTS`.
        folder: Local folder with the configuration and tokenizer of the recipe's base; its code is not run.
        feature_dim: Dimensions of an image feature; those of the release by default.

    Raises:
        ModelError: if the release has no text side, or the folder no configuration or tokenizer, saying what to put
            where and under which licence.
    """
    require_text_side(name)
    recipe = TEXTS[name]
    config, tokenizer = _read_folder(name, recipe, folder)
    tower = recipe.tower(config)
    if len(tokenizer) != config.vocab_size:
        tower.resize_token_embeddings(len(tokenizer), mean_resizing=False)  # filled by the release
    return PublishedText(recipe, tower, tokenizer, feature_dim or RELEASES[name].feature_dim).eval()


def _read_folder(name: str, recipe: TextRecipe, folder: Path) -> tuple[Any, Any]:
    """Configuration and tokenizer; a tokenizer without a vocabulary would be an empty one, and no error."""
    vocabulary = (_FAST,) if (folder / _FAST).is_file() else recipe.vocabulary
    missing = [file for file in (_CONFIG, *vocabulary) if not (folder / file).is_file()]
    where = f"the folder {folder.parent.name}/{folder.name}"
    if missing:
        raise ModelError(
            f"The text side of {RELEASES[name].title} lacks {', '.join(missing)} in {where}; put configuration and "
            f"tokenizer of huggingface.co/{recipe.base} there (licence: {recipe.licence}), whose weights are not "
            "needed: those of the text side are in the release."
        )
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it warns that the base names a model type of its own
    try:
        config = recipe.config.from_pretrained(folder, local_files_only=True)
        return config, recipe.tokenizer.from_pretrained(folder, local_files_only=True)
    # tokenizers raises a bare Exception for a damaged file
    except Exception as error:
        raise ModelError(
            f"Configuration or tokenizer of the text side of {RELEASES[name].title} in {where} cannot be read "
            f"({type(error).__name__}: {(str(error).strip().splitlines() or ['no reason given'])[0][:120]}); expected "
            f"those of huggingface.co/{recipe.base}."
        ) from error
    finally:
        transformers_logging.set_verbosity(level)
