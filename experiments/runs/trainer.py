"""The Trainer: a precision that suits the device, and checkpoints that a kill or a full disk does not damage."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry

from datamodules.bound_data import BoundDataModule
from datamodules.files import replacing, settle
from lightning_modules.core.errors import ModelError
from lightning_modules.core.precision import has_native_bf16
from lightning_modules.core.suite_module import SuiteModule

PREVIOUS = {"last.ckpt": "last.previous.ckpt"}
"""Checkpoints of which the one before is kept, and its name."""


class ShardingStrategy(ModelParallelStrategy):
    """`trainer.strategy=fsdp2`: the model shards itself over all ranks, and checkpoints are one file (FSDP2)."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Join the ranks; all of them share the weights."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


StrategyRegistry.register("fsdp2", ShardingStrategy, description="weights of the text encoder sharded over ranks")


def auto_precision(accelerator: str = "auto") -> str:
    """Mixed precision where the hardware has units for it, else single precision.

    bf16 on a CPU without bf16 units is ten to forty times slower than fp32, so a CPU always computes in fp32. GPUs
    before compute capability 8.0 (V100, T4) emulate bf16 and take fp16.

    Args:
        accelerator: Lightning's name of the accelerator.

    Returns:
        A value of the Trainer's `precision`.
    """
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if has_native_bf16() else "16-mixed"


def divide_steps(trainer: lightning.Trainer, module: SuiteModule, data: BoundDataModule) -> None:
    """Let a Trainer compute a step in as many parts as a device's memory asks for.

    Args:
        trainer: What is going to fit the module.
        module: What is trained.
        data: What says how many samples a step has over all devices, and how many a device takes at once.

    Raises:
        DataError: if a step does not divide among the devices.
        ModelError: if it is to be computed in parts and compares its samples with each other, or the configuration
            would multiply it.
    """
    if trainer.accumulate_grad_batches != 1:
        raise ModelError(
            f"trainer.accumulate_grad_batches={trainer.accumulate_grad_batches} was found, which would multiply the "
            "step. Its samples over all devices are data.init_args.batch_size; where they do not fit into memory, "
            "data.init_args.device_batch says how many a device takes at once."
        )
    parts = data.share(trainer.num_devices * trainer.num_nodes).parts
    if parts > 1 and module.whole_step:
        raise ModelError(
            f"data.init_args.device_batch={data.device_batch} was found; {type(module).__name__} compares the samples "
            "of a step with each other. Leave it out and set model.init_args.micro_batch, which is exact."
        )
    trainer.accumulate_grad_batches = parts
    if isinstance(trainer.limit_train_batches, int):
        trainer.limit_train_batches *= parts


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, brings it to the disk, and only then renames it.

    Lightning writes into the folder for temporary files; where that lies on another file system than the run, it is
    copied over the old file, and what a kill or a full disk leaves then is half a file. Of `last.ckpt` the one before
    is kept, unless it was found damaged.
    """

    def __init__(self) -> None:
        self._whole: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            DataError: if it cannot be written, for example on a full disk; the one before stays.
        """
        if storage_options is not None:
            raise TypeError("A checkpoint is written to a local file; storage_options are not taken.")
        target = Path(os.path.abspath(path))
        with replacing(target) as temporary:
            with temporary.open("wb") as file:
                try:
                    torch.save(checkpoint, file)
                except RuntimeError as error:  # what torch makes of a full disk while it closes its archive
                    raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
            settle(temporary)  # slow, and until both files have their names there is no `last.ckpt`
            if target.name in PREVIOUS and target in self._whole and target.is_file():
                target.replace(target.with_name(PREVIOUS[target.name]))
        self._whole.add(target)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint, as Lightning does.

        Raises:
            ModelError: if it is damaged, or holds anything but tensors and plain data.
        """
        try:
            content: dict[str, Any] = super().load_checkpoint(path, *args, **kwargs)
        except Exception as error:  # torch raises many kinds for a file that is not a safe checkpoint
            raise unsafe_checkpoint(Path(path), error) from error
        self._whole.add(Path(os.path.abspath(path)))
        return content


def unsafe_checkpoint(path: Path, error: Exception) -> ModelError:
    """What is said of a checkpoint that torch does not read.

    Its own words are not passed on: they advise to load the file without that safety.

    Args:
        path: The checkpoint.
        error: What torch raised.
    """
    return ModelError(
        f"Checkpoint {path.name} could not be read safely ({type(error).__name__}); it is damaged or holds more than "
        "tensors and plain data, and nothing of it was run."
    )


class SuiteTrainer(lightning.Trainer):
    """Lightning's Trainer that also takes `precision: auto` and writes checkpoints durably.

    Args:
        precision: One of Lightning's, or `auto` for `auto_precision`.
        kwargs: As Lightning's Trainer.
    """

    def __init__(self, *, precision: str = "auto", **kwargs: Any) -> None:
        if precision == "auto":
            precision = auto_precision(str(kwargs.get("accelerator", "auto")))
        super().__init__(precision=precision, **kwargs)  # type: ignore[arg-type]
        if type(self.strategy.checkpoint_io) is TorchCheckpointIO:  # the strategy's own choice, where nobody made one
            self.strategy.checkpoint_io = DurableCheckpointIO()
