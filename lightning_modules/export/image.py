"""An encoder as a folder that anyone can load: safetensors, configuration, preprocessing contract, model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_modules.core.contracts import differing_fields
from lightning_modules.core.errors import ModelError
from lightning_modules.export.layout import CARD, Layout, as_json
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder
from lightning_modules.networks.image.published.checkpoint import file_sha256, load_published
from lightning_modules.networks.image.published.releases import RELEASES

WEIGHTS, CONFIG, CONTRACT = "model.safetensors", "config.json", "contract.json"
ENCODER = Layout("Encoder folder", CONFIG, WEIGHTS, ("encoder",), "make pretrain-image")
_HOW_ONLY = ("channels_last", "checkpointing", "compile")


@dataclass(frozen=True)
class ExportedEncoder:
    """What an exported folder holds.

    Args:
        config: Which encoder, and how large.
        contract: The preprocessing contract that it was trained with.
        weights: Its state.
        sha256: Hash of the weights file.
    """

    config: EncoderConfig
    contract: dict[str, Any]
    weights: dict[str, torch.Tensor]
    sha256: str


def save_encoder(
    folder: Path,
    encoder: nn.Module,
    config: EncoderConfig,
    contract: Mapping[str, Any],
    card: str,
    training_data: str = "",
) -> str:
    """Write an encoder; the weights are written last, so a folder with weights is complete.

    Args:
        folder: Folder to write.
        encoder: The trained encoder.
        config: Its configuration.
        contract: Preprocessing contract of its training data.
        card: Model card in Markdown.
        training_data: Hash of the record of whom it was trained on, where one lies beside it.

    Returns:
        SHA-256 of the weights file.
    """
    content = {"encoder": asdict(config), "training_data_sha256": training_data}
    return ENCODER.write(folder, content, encoder.state_dict(), {CONTRACT: as_json(contract), CARD: card})


def weights_sha256(weights: Path) -> str:
    """SHA-256 of an exported encoder's weights file, or of a file of published weights."""
    return file_sha256(weights / WEIGHTS if weights.is_dir() else weights)


def read_encoder(folder: Path) -> ExportedEncoder:
    """Read an exported encoder; nothing in it is executed.

    Raises:
        ModelError: if a file is absent, damaged or of another format.
    """
    config, (contract,), weights, sha256 = ENCODER.read(folder, CONTRACT)
    return ExportedEncoder(EncoderConfig.of(config["encoder"]), contract, weights, sha256)


def load_pretrained(
    encoder: nn.Module, config: EncoderConfig, contract: Mapping[str, Any], folder: Path, sha256: str = ""
) -> None:
    """Put exported weights into an encoder.

    Args:
        encoder: The encoder, as `config` builds it.
        config: Its configuration.
        contract: Preprocessing contract of the data at hand.
        folder: Folder with the exported encoder, or file of published weights where `config` names a published network.
        sha256: Hash that the weights must have, where it is known.

    Raises:
        ModelError: if architecture, contract or hash differ, naming the fields.
    """
    if config.network in RELEASES:
        _load_release(encoder, config.network, contract, folder, sha256)
        return
    found = read_encoder(folder)
    if sha256 and found.sha256 != sha256:
        raise ModelError(
            f"The weights of encoder {folder.name} have SHA-256 {found.sha256[:12]}; this run began with "
            f"{sha256[:12]}. The encoder was trained anew since; give the run a name of its own with TAG=."
        )
    ours, theirs = asdict(config), asdict(found.config)
    differing = [
        f"{name}: {theirs[name]} there, {ours[name]} here"
        for name in ours
        if name not in _HOW_ONLY and ours[name] != theirs[name]
    ]
    differing += [
        f"contract {name}: {there} there, {here} here"
        for name, there, here in differing_fields(found.contract, contract)
    ]
    if differing:
        raise ModelError(
            f"Encoder {folder.name} does not fit this run ({'; '.join(differing[:4])}); choose the PROFILE it was "
            "trained with, or train it with this one."
        )
    encoder.load_state_dict(found.weights)


def _load_release(encoder: nn.Module, name: str, contract: Mapping[str, Any], path: Path, sha256: str) -> None:
    release = RELEASES[name]
    axes = contract.get("axes", "SAR")
    if axes != release.axes:
        raise ModelError(
            f"{release.title} reads volumes along {release.axes}, and the contract hands it {axes}; take the contract "
            "of its encoder file."
        )
    load_published(encoder, path, release.layout, sha256=sha256, source=release.source)


def load_exported(folder: Path | str) -> tuple[nn.Module, ExportedEncoder]:
    """An exported encoder ready to use, in evaluation mode and not compiled.

    Raises:
        ModelError: as `read_encoder`.
    """
    found = read_encoder(Path(folder))
    encoder = build_encoder(replace(found.config, compile=False))  # a compiler there says nothing of one here
    encoder.load_state_dict(found.weights)
    return encoder.eval(), found
