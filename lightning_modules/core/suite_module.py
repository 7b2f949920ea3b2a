"""What every LightningModule of the suite has in common: its optimiser, and a guard on its checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn

from lightning_modules.core.contracts import differing_fields
from lightning_modules.core.errors import ModelError
from lightning_modules.core.optimization import OptimizerConfig, make_optimizer
from lightning_modules.metrics.patient_scores import PatientTable

CHECKPOINT_KEY = "renal_suite"


def class_name(path: str) -> str:
    """The name of a class out of its full name; no two classes that a configuration names share it."""
    return path.rpartition(".")[2]


def check_checkpoint(checkpoint: Mapping[str, Any], module: str, contract: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another class, or one made for other preprocessing.

    Args:
        checkpoint: What `torch.load` gave.
        module: Class that is to load it, as `package.module.Class`.
        contract: The preprocessing contract of the data at hand.

    Raises:
        ModelError: naming both classes, or the fields of the contract that differ.
    """
    stamp = checkpoint.get(CHECKPOINT_KEY)
    if not isinstance(stamp, Mapping):
        raise ModelError("The checkpoint was not written by this suite; weights of other sources enter as an encoder.")
    if class_name(str(stamp.get("module"))) != class_name(module):
        raise ModelError(
            f"The checkpoint holds {stamp.get('module')} and the configuration asks for {module}; --ckpt_path resumes "
            "or tests a run of the same class only. Pretrained weights enter by their own argument, model.encoder."
        )
    if not isinstance(stamp.get("contract"), Mapping):
        raise ModelError("The checkpoint holds no preprocessing contract; it is damaged or was changed.")
    differing = [
        f"{name}: {there} in the checkpoint, {here} in the data"
        for name, there, here in differing_fields(stamp["contract"], contract)
    ]
    if differing:
        raise ModelError(
            "The checkpoint was trained with another preprocessing contract (" + "; ".join(differing) + "); "
            "run `make cohort` or `make import` again with the PROFILE that follows it, or train anew."
        )


class SuiteModule(lightning.LightningModule):
    """Base of the stages and tasks.

    Subclasses define `training_step` and the rest. `monitor` and `mode` say which checkpoint is the best one, and
    `tested` whether that or the last one is validated and tested at the end; `whole_step` whether a step compares all
    of its samples with each other, so that it cannot be computed in parts. After a validation or a test `val_table` or
    `test_table` holds the scores by patient, gathered over ranks; after a step `gradient_norm` the norm of its gradient
    before clipping, where that is known.

    Args:
        contract: Preprocessing contract of the data as plain data; travels with every checkpoint.
        optimizer: Optimiser and schedule.
    """

    monitor: ClassVar[str]
    mode: ClassVar[str]
    tested: ClassVar[Literal["best", "last"]] = "best"
    whole_step: ClassVar[bool] = False
    val_table: PatientTable
    test_table: PatientTable
    gradient_norm: torch.Tensor | None = None

    def __init__(self, contract: Mapping[str, Any], optimizer: OptimizerConfig) -> None:
        super().__init__()
        self.contract = dict(contract)
        self.optimizer_config = optimizer

    def setup(self, stage: str) -> None:
        """Refuse an encoder that reads HU through another window than the data's, before any step."""
        if self.contract.get("window_hu") is None:
            return
        presented = tuple(self.contract["window_hu"])
        for module in self.modules():
            window = getattr(module, "window_hu", None)
            if isinstance(window, tuple) and window != presented:
                raise ModelError(
                    f"The encoder reads HU through the window {window} and the data present {presented}; set "
                    "encoder.window_hu to contract.window_hu."
                )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with warm-up and cosine decay over all steps of the run."""
        steps = int(self.trainer.estimated_stepping_batches)
        rates = self.rates()
        return make_optimizer(self, self.optimizer_config, steps, self.backbone(), rates)  # type: ignore[return-value]

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient as Lightning does, and keep its norm before, which says whether the step is one."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            self.gradient_norm = nn.utils.clip_grad_norm_(parameters, gradient_clip_val)
            return
        found = [parameter.grad for parameter in parameters if parameter.grad is not None]
        self.gradient_norm = nn.utils.get_total_norm(found)
        self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def rates(self) -> list[tuple[float, Iterable[nn.Parameter]]]:
        """Peak learning rates of further parts, each with its parameters."""
        return []

    def backbone(self) -> nn.Module | None:
        """The pretrained part, which may have a learning rate of its own: `self.encoder` where there is one."""
        found = getattr(self, "encoder", None)
        return found if isinstance(found, nn.Module) else None

    @classmethod
    def class_path(cls) -> str:
        """Name of the class as a checkpoint records it."""
        return f"{cls.__module__}.{cls.__qualname__}"

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take weights, as of a checkpoint.

        Raises:
            ModelError: if they do not fit.
        """
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            raise ModelError(
                f"The checkpoint's weights do not fit {type(self).__name__} ({' '.join(str(error).split())[:200]}); it "
                "is damaged or of another configuration. Delete it, and the run goes on from an older one."
            ) from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stamp the checkpoint with its class and contract, as plain data."""
        checkpoint[CHECKPOINT_KEY] = {"module": self.class_path(), "contract": self.contract}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that does not fit."""
        check_checkpoint(checkpoint, self.class_path(), self.contract)
