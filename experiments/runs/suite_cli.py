"""LightningCLI of the suite: what a configuration may hold, and what it refuses."""

from __future__ import annotations

import copy
import importlib
import inspect
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from callbacks.checkpoint import BestCheckpoint, LastCheckpoint
from callbacks.divergence import FiniteGuard
from callbacks.failure import EndTogether
from callbacks.progress import LiveProgress
from callbacks.requeue import Requeue
from callbacks.seeding import EpochSeed
from datamodules.augmentation import AugmentationConfig
from datamodules.errors import DataError
from datamodules.volumes.contract import PreprocessingContract
from experiments.runs.baseline import BaselineConfig
from experiments.runs.gate import check_arguments, check_seed, check_tree, denied_name
from experiments.runs.trainer import SuiteTrainer, divide_steps, unsafe_checkpoint
from lightning_modules.core.errors import ModelError
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.core.suite_module import SuiteModule, check_checkpoint
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.networks.text.encoder import TextEncoderConfig


class SuiteCLI(LightningCLI):
    """The parser of `fit`, `validate`, `test` and `predict`, also used by the launchers of stages and tasks.

    Groups that several classes share stand once at the top level (`contract`, `encoder`, `text`, `optimizer`,
    `augmentation`, `seed_everything`) and are linked to where they are used.

    Args:
        args: Command line, as a list.
        run: Whether to run a subcommand; otherwise model, data and trainer are built only.
        parse_only: Whether to stop after the configuration is read and checked.
    """

    def __init__(self, args: list[str], run: bool = True, parse_only: bool = False) -> None:
        self.parse_only = parse_only
        check_arguments(args)
        super().__init__(
            args=args,
            run=run,
            trainer_class=SuiteTrainer,
            save_config_callback=None,
            seed_everything_default=42,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={"exit_on_error": False, "prog": "renal-vlm"}
            | {name: {"exit_on_error": False} for name in self.subcommands()},
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and refuse what would import other code than the suite's, and a seed that is none."""
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            if (sentence := denied_name(error)) is not None:
                raise DataError(sentence) from error
            raise
        check_tree(self.config.as_dict())
        settings = self.config.get(self.config.get("subcommand") or "", self.config)
        check_seed("seed_everything", settings["seed_everything"])

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the shared groups and link them."""
        parser.add_argument("--run_dir", type=str, default="runs/unnamed", help="Folder of the run.")
        parser.add_argument("--data_sha256", type=str, default="", help="Data that it used; written, never given.")
        parser.add_class_arguments(PreprocessingContract, "contract")
        parser.add_class_arguments(EncoderConfig, "encoder")
        parser.add_class_arguments(TextEncoderConfig, "text")
        parser.add_class_arguments(OptimizerConfig, "optimizer")
        parser.add_class_arguments(AugmentationConfig, "augmentation")
        parser.add_class_arguments(BaselineConfig, "baseline")
        parser.link_arguments("run_dir", "trainer.default_root_dir")
        parser.link_arguments("seed_everything", "data.init_args.seed")
        for group, target in (
            ("contract", "data.init_args.contract"),
            ("augmentation", "data.init_args.augmentation"),
            ("encoder", "model.init_args.encoder"),
            ("optimizer", "model.init_args.optimizer"),
            ("text", "model.init_args.text"),
            *((f"text.{name}", f"data.init_args.{name}") for name in ("base", "base_name", "max_length", "prompt")),
        ):
            parser.link_arguments(group, target)
        parser.link_arguments("data.contract", "model.init_args.contract", apply_on="instantiate")
        parser.link_arguments("data.class_counts", "model.init_args.class_counts", apply_on="instantiate")
        parser.link_arguments("data.outcome", "model.init_args.outcome", apply_on="instantiate")
        for name in ("text_dim", "text_fingerprint"):
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        """Guard `--ckpt_path`: LightningCLI would let the checkpoint's hyper-parameters replace class and arguments."""
        name = self.config.get("subcommand")
        if name is None:
            return
        if name in ("test", "predict", "validate") and not self.config[name].get("ckpt_path"):
            raise ModelError(
                f"`{name}` was asked for without --ckpt_path and would score random weights; "
                "name a checkpoint, for example runs/<experiment>/<run>/checkpoints/best.ckpt."
            )

    def instantiate_classes(self) -> None:
        """Build data, model and trainer.

        Raises:
            ModelError: if what a group of the configuration holds is no such group, which the parser says by trying
                every class that may stand there.
        """
        if self.parse_only:
            return
        try:
            super().instantiate_classes()
        except (ModelError, DataError):
            raise
        except ValueError as error:
            said = str(error)
            if not said.startswith("Does not validate against any of the Union subtypes"):
                raise
            tried = " ".join(said.partition("Errors:")[2].partition("Given value")[0].split())
            tried = tried.replace("- Expected a <class 'NoneType'>", "").removeprefix("- ")[:400].strip()
            raise ModelError(
                f"The configuration builds no data, model or trainer ({tried}); correct the group that it names, or "
                "leave it out."
            ) from error

    def built(self) -> SuiteCLI:
        """What was parsed alone, with data, model and trainer: new ones at every call, seeded as a run is."""
        cli = copy.copy(self)
        cli.parse_only = False
        cli._set_seed()
        cli.before_instantiate_classes()
        cli.instantiate_classes()
        cli.after_instantiate_classes()
        return cli

    def instantiate_trainer(self, **kwargs: Any) -> SuiteTrainer:
        """Build the Trainer with the callbacks that every run has."""
        if not isinstance(self.model, SuiteModule):
            raise ModelError(f"{type(self.model).__name__} is not a SuiteModule; a stage or task derives from it.")
        settings = self._get(self.config_init, "trainer")
        folder = Path(settings["default_root_dir"]) / "checkpoints"
        callbacks = [
            *(settings["callbacks"] or []),
            EndTogether(),
            EpochSeed(int(self._get(self.config, "seed_everything"))),
            BestCheckpoint(folder, self.model.monitor, self.model.mode),
            FiniteGuard(folder),
            LastCheckpoint(folder),
            Requeue(folder, int(self._get(self.config, "seed_everything"))),
        ]
        interval, epochs = settings["check_val_every_n_epoch"], settings["max_epochs"]
        if interval and epochs and epochs > 0:
            kwargs["check_val_every_n_epoch"] = validated_every(interval, epochs)
        live = sys.stdout.isatty() if settings["enable_progress_bar"] is None else settings["enable_progress_bar"]
        kwargs["enable_progress_bar"] = live
        callbacks += [LiveProgress()] if live else []
        if settings["benchmark"] is None and not settings["deterministic"]:
            kwargs["benchmark"] = self.datamodule.fixed_shapes
        try:
            trainer = super().instantiate_trainer(callbacks=callbacks, **kwargs)
        except (ValueError, TypeError, MisconfigurationException) as error:  # Lightning raises each of a bad setting
            raise ModelError(f"Lightning refuses the trainer's settings: {' '.join(str(error).split())}") from error
        divide_steps(trainer, self.model, self.datamodule)
        return trainer  # type: ignore[return-value]

    def after_instantiate_classes(self) -> None:
        """Refuse a checkpoint that does not fit before any data is read."""
        name = self.config.get("subcommand")
        path = self.config[name].get("ckpt_path") if name else None
        if path:
            check_checkpoint_file(Path(path), self.model)

    def resolved_config(self) -> dict[str, Any]:
        """The configuration after all files and flags, as plain data that `--config` reads back."""
        text = self.parser.dump(self.config, skip_unset=False, format="yaml")
        content: dict[str, Any] = yaml.safe_load(text)
        # Only what trains a text encoder reads this group; it is no part of what other runs are.
        named = (content.get("model") or {}).get("class_path")
        if named is None or "text" not in inspect.signature(class_of(named)).parameters:
            content.pop("text", None)
        # Nor does a run without a table of features read this one.
        if content.get("baseline") == asdict(BaselineConfig()):
            content.pop("baseline")
        elif "baseline" in content and not content["baseline"]["prompts"]:
            content["baseline"].pop("prompts")  # as in runs of before there was a choice
        return content


def class_of(path: str) -> type:
    """The class that a configuration names, once the parser has taken it."""
    module, _, name = path.rpartition(".")
    found: type = getattr(importlib.import_module(module), name)
    return found


def validated_every(interval: int, epochs: int) -> int:
    """Epochs from one validation to the next, at most the interval, so that the last epoch is validated, too.

    Else a run that was shortened would end with epochs that cannot be chosen, or with none that can.

    Args:
        interval: Most epochs between validations.
        epochs: Epochs of the run.
    """
    return next(length for length in range(min(interval, epochs), 0, -1) if epochs % length == 0)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint as plain data and tensors; nothing in it is executed.

    Raises:
        ModelError: if the file is absent, truncated, or holds anything but tensors and plain data.
    """
    if not path.is_file():
        raise ModelError(f"Checkpoint {path.name} does not exist in {path.parent.name}; name an existing file.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is not a safe checkpoint
        raise unsafe_checkpoint(path, error) from error
    if not isinstance(content, dict):
        raise ModelError(f"Checkpoint {path.name} holds a {type(content).__name__}; expected a Lightning checkpoint.")
    return content


def check_checkpoint_file(path: Path, model: SuiteModule) -> None:
    """Refuse a checkpoint of another class or contract than the model's.

    Raises:
        ModelError: naming what differs.
    """
    check_checkpoint(read_checkpoint(path), model.class_path(), model.contract)
