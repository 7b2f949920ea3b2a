"""What is learned: networks, losses, and the LightningModules of stages and tasks.

Here stands what a user configures or derives from. Each is imported when it is asked for, so that whoever needs an
error or a network waits for no library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.core.errors import ModelError as ModelError
    from lightning_modules.core.optimization import OptimizerConfig as OptimizerConfig
    from lightning_modules.core.suite_module import SuiteModule as SuiteModule
    from lightning_modules.downstream.classification import Classification as Classification
    from lightning_modules.downstream.survival import Survival as Survival
    from lightning_modules.downstream.task import Downstream as Downstream
    from lightning_modules.networks.image.encoders import EncoderConfig as EncoderConfig
    from lightning_modules.networks.text.encoder import TextEncoderConfig as TextEncoderConfig
    from lightning_modules.pretrain.alignment import ClipAlignment as ClipAlignment
    from lightning_modules.pretrain.attributes import AttributePretraining as AttributePretraining
    from lightning_modules.pretrain.joint_alignment import TextTowerAlignment as TextTowerAlignment
    from lightning_modules.pretrain.reports import ReportGeneration as ReportGeneration
    from lightning_modules.pretrain.text_adaptation import MaskedNextToken as MaskedNextToken
    from lightning_modules.pretrain.text_adaptation import TextAdaptation as TextAdaptation
    from lightning_modules.pretrain.text_adaptation import UnsupervisedSimcse as UnsupervisedSimcse
    from lightning_modules.pretrain.text_contrast import AttributeContrast as AttributeContrast

PLACES = {
    "AttributeContrast": "lightning_modules.pretrain.text_contrast",
    "AttributePretraining": "lightning_modules.pretrain.attributes",
    "Classification": "lightning_modules.downstream.classification",
    "ClipAlignment": "lightning_modules.pretrain.alignment",
    "Downstream": "lightning_modules.downstream.task",
    "EncoderConfig": "lightning_modules.networks.image.encoders",
    "MaskedNextToken": "lightning_modules.pretrain.text_adaptation",
    "ModelError": "lightning_modules.core.errors",
    "OptimizerConfig": "lightning_modules.core.optimization",
    "ReportGeneration": "lightning_modules.pretrain.reports",
    "SuiteModule": "lightning_modules.core.suite_module",
    "Survival": "lightning_modules.downstream.survival",
    "TextAdaptation": "lightning_modules.pretrain.text_adaptation",
    "TextEncoderConfig": "lightning_modules.networks.text.encoder",
    "TextTowerAlignment": "lightning_modules.pretrain.joint_alignment",
    "UnsupervisedSimcse": "lightning_modules.pretrain.text_adaptation",
}
"""The module that defines each."""


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *PLACES})
