"""A report writer as a folder that anyone can load; its base stays out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lightning_modules.export.image import read_encoder, save_encoder
from lightning_modules.export.layout import CARD, Layout
from lightning_modules.export.text import refuse_differences
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.networks.joint.report_writer import ReportWriter, WriterConfig
from lightning_modules.networks.text.encoder import TextEncoderConfig

CONFIG, WEIGHTS, ENCODER = "writer.json", "writer.safetensors", "encoder"
WRITER = Layout(
    "Report writer folder",
    CONFIG,
    WEIGHTS,
    ("text", "writer", "origin"),
    "make pretrain STAGES=report",
    "renal-report-writer",
)


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
    save_encoder(folder / ENCODER, writer.image_encoder, encoder, contract, card)
    content = {
        "text": writer.text.recorded(),
        "writer": asdict(writer.config),
        "origin": dict(origin),
        "training_data_sha256": training_data,
    }
    return WRITER.write(folder, content, writer.trained_state(), {CARD: card})


def read_report_writer(folder: Path) -> ExportedWriter:
    """Read an exported report writer without its base; nothing in it is executed.

    Raises:
        ModelError: if a file is absent, damaged or of another format.
    """
    content, _, state, sha256 = WRITER.read(folder)
    encoder = read_encoder(folder / ENCODER)
    return ExportedWriter(
        encoder.config,
        encoder.contract,
        TextEncoderConfig.of(content["text"]),
        WriterConfig.of(content["writer"]),
        content["origin"],
        state,
        sha256,
    )


def load_report_writer(
    folder: Path | str, base: str | None = None, device: torch.device | str | None = None
) -> tuple[ReportWriter, ExportedWriter]:
    """An exported report writer on its base, ready to use, in evaluation mode.

    Args:
        folder: Folder that `save_report_writer` wrote.
        base: Folder or hub id of the language model that it was trained on; what it records by default.
        device: Where to load it; the GPU where there is one by default.

    Raises:
        ModelError: if the base is another one, or a file is absent or damaged.
    """
    folder = Path(folder)
    found = read_report_writer(folder)
    text = replace(found.text, base=base or found.text.base_name)
    writer = ReportWriter(replace(found.encoder, compile=False), text, found.config, device)
    refuse_differences(
        {"base": found.origin.get("base")}, {"base": writer.base_fingerprint}, f"Report writer {folder.name}"
    )
    writer.image_encoder.load_state_dict(read_encoder(folder / ENCODER).weights)
    writer.load_trained_state(found.state)
    return writer.eval(), found
