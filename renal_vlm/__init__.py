"""The suite in Python: what a notebook loads and calls.

    from renal_vlm import load_encoder

    encoder = load_encoder("runs/renal/demo/pretrain/image-s42")
    features = encoder.encode("scan.nii.gz", "kidneys.nii.gz")

DataModules, LightningModules and their settings have their names here, too. Each is imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import datamodules
import lightning_modules

if TYPE_CHECKING:
    from experiments.assessment.portable import PortableAssessor as PortableAssessor
    from experiments.encoders.scan_encoder import ScanEncoder as ScanEncoder
    from experiments.encoders.scan_encoder import load_encoder as load_encoder
    from lightning_modules.export.aligned import load_aligned as load_aligned
    from lightning_modules.export.image import load_exported as load_exported
    from lightning_modules.export.text import load_text_encoder as load_text_encoder
    from lightning_modules.export.writer import load_report_writer as load_report_writer
    from lightning_modules.networks.joint.decoding import Decoding as Decoding

LOADERS = {
    "Decoding": "lightning_modules.networks.joint.decoding",
    "PortableAssessor": "experiments.assessment.portable",
    "ScanEncoder": "experiments.encoders.scan_encoder",
    "load_aligned": "lightning_modules.export.aligned",
    "load_encoder": "experiments.encoders.scan_encoder",
    "load_exported": "lightning_modules.export.image",
    "load_report_writer": "lightning_modules.export.writer",
    "load_text_encoder": "lightning_modules.export.text",
}
"""The module that defines each: loaders of exported folders, and what their models are asked with."""
PLACES = {**datamodules.PLACES, **lightning_modules.PLACES, **LOADERS}


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PLACES})
