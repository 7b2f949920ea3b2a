"""Images and texts in one space as files: a trained model as a folder that anyone can load, a release as it came."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_modules.core.errors import ModelError
from lightning_modules.export.hub import hub_folder
from lightning_modules.export.image import CONFIG, CONTRACT, WEIGHTS, load_pretrained, read_encoder, save_encoder
from lightning_modules.export.layout import CARD, Layout
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder
from lightning_modules.networks.image.published.checkpoint import load_published
from lightning_modules.networks.image.published.releases import RELEASES
from lightning_modules.networks.joint.aligned_model import AlignedConfig, AlignedModel
from lightning_modules.networks.joint.published_pair import PublishedPair
from lightning_modules.networks.text.published import TEXTS, build_text

ALIGNMENT, HEADS = "alignment.json", "alignment.safetensors"
ALIGNED = Layout(
    "Aligned model",
    ALIGNMENT,
    HEADS,
    ("alignment", "text_encoder", "crop", "encoder_sha256"),
    "make pretrain STAGES=alignment",
)
TEXT = "text"
"""Folder of the text encoder beside the model (`export.text`), where it was exported too."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_aligned(source: str | Path) -> AlignedModel:
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
    content, _, heads, _ = ALIGNED.read(folder)
    if content["encoder_sha256"] != exported.sha256:
        raise ModelError(
            f"Aligned model {folder.name} has heads for encoder {str(content['encoder_sha256'])[:12]}; expected "
            f"encoder {exported.sha256[:12]}, which lies beside them."
        )
    crop = content["crop"] and tuple(content["crop"])
    try:
        config = AlignedConfig(**content["alignment"])
        model = AlignedModel(exported.config, config, exported.contract, content["text_encoder"], crop)
        model.image_encoder.load_state_dict(exported.weights)
        remaining = {name for name in model.state_dict() if not name.startswith("image_encoder.")}
        if remaining != set(heads):
            raise RuntimeError(f"heads {sorted(heads)}, expected {sorted(remaining)}")
        model.load_state_dict(heads, strict=False)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"Aligned model {folder.name}: weights do not fit its configuration ({reason}).") from error
    return model.eval()


def save_aligned(folder: Path, model: AlignedModel, card: str, training_data: str = "") -> str:
    """Write an aligned model; the encoder's weights are written last, so a folder with them is complete.

    The folder is that of an exported image encoder (`export.image`), so that fine-tuning can start from it, with
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
    content = {
        "alignment": asdict(model.config),
        "text_encoder": model.text_encoder,
        "crop": model.crop,
        "encoder_sha256": sha256,
    }
    ALIGNED.write(folder, content, heads)
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
    wanted = [WEIGHTS, CONFIG, CONTRACT, CARD, ALIGNMENT, HEADS, "likeness.*", "*.parquet", f"{TEXT}/*"]
    return hub_folder(f"Aligned model {source}", source, allow_patterns=wanted)


def load_pair(name: str, weights: Path, folder: Path, contract: Mapping[str, Any], sha256: str = "") -> PublishedPair:
    """Both sides of a release; nothing in its files is executed.

    Args:
        name: A key of `TEXTS`.
        weights: File of the release, which holds both sides.
        folder: Folder with configuration and tokenizer of the text side.
        contract: Preprocessing contract of the data at hand.
        sha256: Hash that the file must have, where it is known.

    Raises:
        ModelError: if the release has no text side, a file is absent, damaged or another one, or a key of either side
            is missing.
    """
    config = EncoderConfig(network=name)
    encoder = build_encoder(config)
    text = build_text(name, folder, int(encoder.feature_dim))  # type: ignore[arg-type]
    load_pretrained(encoder, config, contract, weights, sha256)
    load_published(text, weights, TEXTS[name].layout, source=RELEASES[name].source)
    return PublishedPair(encoder, text, contract).eval()
