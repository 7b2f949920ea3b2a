"""A report writer as a folder that anyone can load; its base stays out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lightning_modules.core.errors import ModelError
from lightning_modules.export.image import read_encoder, save_encoder
from lightning_modules.export.text import refuse_differences
from lightning_modules.export.written import write_tensors, write_text
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.networks.joint.report_writer import ReportWriter, WriterConfig
from lightning_modules.networks.text.encoder import TextEncoderConfig

FORMAT = 1
KIND = "renal-report-writer"
CONFIG, WEIGHTS, CARD, ENCODER = "writer.json", "writer.safetensors", "README.md", "encoder"


@dataclass(frozen=True)
class ExportedWriter:
    """What an exported folder holds.

    Args:
        encoder: Which image encoder.
        contract: The preprocessing contract that it was trained with.
        text: The language model and how it was adapted; without the place of the base.
        config: How the image enters.
        origin: What the trained weights belong to.
        state: Projector and adapters.
        sha256: Hash of their file.
    """

    encoder: EncoderConfig
    contract: dict[str, Any]
    text: TextEncoderConfig
    config: WriterConfig
    origin: dict[str, Any]
    state: dict[str, torch.Tensor]
    sha256: str


def save_report_writer(
    folder: Path,
    writer: ReportWriter,
    encoder: EncoderConfig,
    contract: Mapping[str, Any],
    origin: Mapping[str, Any],
    card: str,
    training_data: str = "",
) -> str:
    """Write a report writer; its trained weights are written last, so a folder with them is complete.

    Args:
        folder: Folder to write.
        writer: The trained writer.
        encoder: Configuration of its image encoder.
        contract: Preprocessing contract of its training data.
        origin: What its weights belong to.
        card: Model card in Markdown.
        training_data: Hash of the record of whom it was trained on, where one lies beside it.

    Returns:
        SHA-256 of the trained weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_encoder(folder / ENCODER, writer.image_encoder, encoder, contract, card)
    content = {
        "kind": KIND,
        "format": FORMAT,
        "text": writer.text.recorded(),
        "writer": asdict(writer.config),
        "origin": dict(origin),
        "training_data_sha256": training_data,
    }
    write_text(folder / CONFIG, json.dumps(content, indent=2) + "\n")
    write_text(folder / CARD, card)
    write_tensors(folder / WEIGHTS, writer.trained_state())
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def read_report_writer(folder: Path) -> ExportedWriter:
    """Read an exported report writer without its base; nothing in it is executed.

    Raises:
        ModelError: if a file is absent, damaged or of another format.
    """
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"Report writer folder {folder.name} has no {', '.join(missing)}; expected what `make pretrain "
            "STAGES=report` exports."
        )
    encoder = read_encoder(folder / ENCODER)
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        state = load_file(folder / WEIGHTS)
    except (ValueError, SafetensorError) as error:
        raise ModelError(f"Report writer folder {folder.name} is damaged ({error}); export it again.") from error
    if content.get("kind") != KIND or content.get("format") != FORMAT:
        raise ModelError(
            f"Report writer folder {folder.name} is {content.get('kind')} of format {content.get('format')}; expected "
            f"{KIND} of format {FORMAT}."
        )
    return ExportedWriter(
        encoder.config,
        encoder.contract,
        TextEncoderConfig.of(content["text"]),
        WriterConfig.of(content["writer"]),
        content["origin"],
        state,
        hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
    )


def load_report_writer(
    folder: Path, base: str | None = None, device: torch.device | str | None = None
) -> tuple[ReportWriter, ExportedWriter]:
    """An exported report writer on its base, ready to use, in evaluation mode.

    Args:
        folder: Folder that `save_report_writer` wrote.
        base: Folder or hub id of the language model that it was trained on; what it records by default.
        device: Where to load it; the GPU where there is one by default.

    Raises:
        ModelError: if the base is another one, or a file is absent or damaged.
    """
    found = read_report_writer(folder)
    text = replace(found.text, base=base or found.text.base_name)
    writer = ReportWriter(replace(found.encoder, compile=False), text, found.config, device)
    refuse_differences(
        {"base": found.origin.get("base")}, {"base": writer.base_fingerprint}, f"Report writer {folder.name}"
    )
    writer.image_encoder.load_state_dict(read_encoder(folder / ENCODER).weights)
    writer.load_trained_state(found.state)
    return writer.eval(), found
