"""A text encoder as a folder in Hugging Face layout: adapters, configuration, tokenizer, card; its base stays out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lightning_modules.core.errors import ModelError
from lightning_modules.export.layout import CARD, Layout, read_tensors
from lightning_modules.export.written import write_files, write_tensors
from lightning_modules.networks.text.adapters import misfits
from lightning_modules.networks.text.encoder import TextEncoder, TextEncoderConfig

_FORMAT = {"format": "pt"}
"""What transformers and peft want to read in the header."""
CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
ADAPTER, PROJECTION = "adapter_model.safetensors", "projection.safetensors"
TRANSLATOR = "translator.safetensors"
"""What the output layer of a cut base reads; no embedding depends on it."""
ENCODER = Layout(
    "Text encoder folder",
    CONFIG,
    ADAPTER,
    ("encoder", "base_fingerprint", "fingerprint"),
    "make pretrain STAGES=text",
    "renal-text-encoder",
)
MAY_DIFFER = ("compute_dtype", "checkpointing", "lora_dropout", "attention_dropout")


@dataclass(frozen=True)
class ExportedText:
    """What an exported folder holds.

    Args:
        config: How the base was adapted; without the place of the base.
        base_fingerprint: Hash of the base that the adapters belong to.
        fingerprint: Hash of everything that an embedding depends on.
        state: Adapters and projection, as `TextEncoder.adapter_state` gives them.
        sha256: Hash of their files.
    """

    config: TextEncoderConfig
    base_fingerprint: str
    fingerprint: str
    state: dict[str, torch.Tensor]
    sha256: str


def save_text_encoder(folder: Path, encoder: TextEncoder, card: str, training_data: str = "") -> str:
    """Write a text encoder; its adapters are written last, so a folder with adapters is complete.

    Args:
        folder: Folder to write. `adapter_model.safetensors` and `adapter_config.json` are peft's, for the base model
            without its output layer; `config.json` is ours.
        encoder: The trained encoder.
        card: Model card in Markdown.
        training_data: Hash of the record of whom it was trained on, where one lies beside it.

    Returns:
        SHA-256 of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_files(folder, encoder.tokenizer.save_pretrained)
    content = {
        "encoder": encoder.config.recorded(),
        "feature_dim": encoder.feature_dim,
        "base_fingerprint": encoder.base_fingerprint,
        "fingerprint": encoder.fingerprint(),
        "training_data_sha256": training_data,
    }
    texts = {CARD: card}
    if encoder.config.adapter:
        settings = encoder.backbone.peft_config["default"].to_dict()
        plain = {name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()}
        texts[ADAPTER_CONFIG] = json.dumps(plain | {"inference_mode": True}, indent=2, default=str) + "\n"
    state = encoder.adapter_state()
    projection = {name: state.pop(name) for name in ("projection.weight",) if name in state}
    if projection:
        write_tensors(folder / PROJECTION, projection, _FORMAT)
    if encoder.translator is not None:
        write_tensors(folder / TRANSLATOR, encoder.translator.state_dict(), _FORMAT)
    ENCODER.write(folder, content, state, texts, _FORMAT)
    return weights_sha256(folder)


def weights_sha256(folder: Path) -> str:
    """SHA-256 of an exported text encoder's adapters and projection."""
    digest = hashlib.sha256((folder / ADAPTER).read_bytes())
    if (folder / PROJECTION).is_file():
        digest.update((folder / PROJECTION).read_bytes())
    return digest.hexdigest()


def read_text_encoder(folder: Path) -> ExportedText:
    """Read an exported text encoder without its base; nothing in it is executed.

    Raises:
        ModelError: if a file is absent, damaged or of another format.
    """
    content, _, state, _ = ENCODER.read(folder)
    if (folder / PROJECTION).is_file():
        state |= read_tensors(folder / PROJECTION, ENCODER.title)
    config = TextEncoderConfig.of(content["encoder"])
    return ExportedText(config, content["base_fingerprint"], content["fingerprint"], state, weights_sha256(folder))


def load_text_encoder(
    folder: Path | str,
    base: str | None = None,
    device: torch.device | str | None = None,
    *,
    head: bool = False,
    **how: Any,
) -> TextEncoder:
    """An exported text encoder on its base, ready to use, in evaluation mode.

    Args:
        folder: Folder that `save_text_encoder` wrote.
        base: Folder or hub id of the base that it was trained on; what it records where that is a hub id.
        device: Where to load it; the GPU where there is one by default.
        head: Whether to keep the base's output layer.
        how: Fields of `TextEncoderConfig` that change no result beyond rounding: compute_dtype, checkpointing,
            lora_dropout, attention_dropout.

    Raises:
        ModelError: if the base is another one, or something is asked for that it was not trained with: adapters on
            another base or quantisation give other embeddings without a sign.
    """
    folder = Path(folder)
    found = read_text_encoder(folder)
    recorded = found.config.recorded()
    differing = [
        f"{name}: {recorded.get(name)} there, {value} here"
        for name, value in how.items()
        if name not in MAY_DIFFER and recorded.get(name) != value
    ]
    if differing:
        raise ModelError(
            f"Text encoder {folder.name} was trained otherwise ({'; '.join(differing)}); its adapters belong to that, "
            "load it as it is or train it anew."
        )
    if base is None and "/" not in found.config.base_name:
        raise ModelError(
            f"Text encoder {folder.name} belongs to the base {found.config.base_name}, which is no hub id; name the "
            "base's folder."
        )
    config = replace(found.config, base=base or found.config.base_name, **how)
    encoder = TextEncoder(config, device, head=head)
    check_base(found, encoder, folder.name)
    encoder.load_adapter_state(found.state)
    load_translator(folder, encoder)
    return encoder


def load_translator(folder: Path, encoder: TextEncoder) -> None:
    """Put the translator of an exported text encoder before the output layer of one on the same base.

    Does nothing where one of them has none, as a whole base needs none.

    Raises:
        ModelError: if the file is damaged or of another size.
    """
    if encoder.translator is None or not (folder / TRANSLATOR).is_file():
        return
    state = read_tensors(folder / TRANSLATOR, ENCODER.title)
    if wrong := misfits(encoder.translator.state_dict(), state):
        raise ModelError(
            f"{TRANSLATOR} in {folder.name} does not fit: {wrong[0]} is absent, unknown or of another shape; expected "
            f"{encoder.hidden_dim} dimensions. Export the text encoder anew."
        )
    encoder.translator.load_state_dict(state)


def check_base(found: ExportedText, encoder: TextEncoder, name: str) -> None:
    """Refuse adapters that were trained on another base, or on one of another precision or depth.

    Raises:
        ModelError: naming what differs.
    """
    fields = ("quantization", "layers", "bidirectional", "lora_rank", "lora_alpha", "adapter")
    theirs = {"base": found.base_fingerprint, **{field: getattr(found.config, field) for field in fields}}
    ours = {"base": encoder.base_fingerprint, **{field: getattr(encoder.config, field) for field in fields}}
    refuse_differences(theirs, ours, f"Text encoder {name} was trained on {found.config.base_name}")


def refuse_differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], what: str) -> None:
    """Raise for the entries that differ.

    Raises:
        ModelError: naming them.
    """
    differing = [f"{field}: {theirs.get(field)} there, {ours[field]} here" for field in ours]
    differing = [text for field, text in zip(ours, differing, strict=True) if theirs.get(field) != ours[field]]
    if differing:
        raise ModelError(
            f"{what}, and this base does not fit ({'; '.join(differing)}); adapters give other embeddings on another "
            "base or quantisation. Name the base they belong to, or train them anew."
        )
