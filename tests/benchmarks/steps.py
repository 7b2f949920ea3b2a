"""Training steps to measure: in a bare loop, and in Lightning's own loop as a run of the suite has it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from lightning.pytorch.loggers import Logger, MLFlowLogger
from monai.networks.nets import resnet18
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset

from callbacks.divergence import FiniteGuard
from callbacks.failure import EndTogether
from callbacks.progress import Throughput
from callbacks.seeding import EpochSeed
from datamodules.batch import MISSING
from datamodules.reports.schema import load_schema
from experiments.registry import CONFIGS
from experiments.runs.tracking import make_logger
from lightning_modules.core.distributed import number_of_ranks
from lightning_modules.core.optimization import OptimizerConfig, make_optimizer
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.pretrain.attributes import AttributePretraining

LIGHTNING, UNBUFFERED = "LightningModule", "LightningModule, a write to MLflow at every step"
MAX_STEPS = 10_000
Batch = dict[str, torch.Tensor]
Round = dict[str, tuple[float, float]]


def make_module(config: EncoderConfig) -> AttributePretraining:
    """Stage 1 with all attributes of the schema."""
    counts = {name: dict.fromkeys(values, 10) for name, values in load_schema().classes.items()}
    return AttributePretraining(config, counts, {}, OptimizerConfig())


def make_batch(crop: tuple[int, int, int], size: int) -> Batch:
    """A batch in which two thirds of all attributes are stated."""
    generator = torch.Generator().manual_seed(0)
    classes = load_schema().classes.values()
    target = torch.stack([torch.randint(0, len(names), (size,), generator=generator) for names in classes], dim=1)
    target[torch.rand(target.shape, generator=generator) < 1 / 3] = MISSING
    image = torch.rand(size, 1, *crop, generator=generator)
    phase = torch.zeros(size, dtype=torch.int64)
    return {"image": image, "phase": phase, "attributes": target, "patient": torch.arange(size)}


def bare_step(module: AttributePretraining, batch: Batch) -> Callable[[], None]:
    """One step without Lightning, with the clipping that every run has; of several ranks, each has such a batch."""
    made = make_optimizer(module, OptimizerConfig(), MAX_STEPS)
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    limit = float(trainer_settings()["gradient_clip_val"])
    module.train()
    forward = DistributedDataParallel(module) if number_of_ranks() > 1 else module

    def step() -> None:
        loss, _ = module.loss(forward(batch["image"], batch["phase"]), batch["attributes"])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), limit)
        optimizer.step()
        schedule.step()

    return step


def monai_step(batch: Batch) -> Callable[[], None]:
    """One step of MONAI's ResNet-18 with its default stem of stride 1."""
    network = resnet18(spatial_dims=3, n_input_channels=1, num_classes=2)
    optimizer = torch.optim.AdamW(network.parameters())

    def step() -> None:
        loss = network(batch["image"]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def trainer_settings() -> dict[str, Any]:
    """What every run of the suite sets of Lightning's Trainer, less its logger and callbacks."""
    settings: dict[str, Any] = yaml.safe_load((CONFIGS / "base.yaml").read_text(encoding="utf-8"))["trainer"]
    return {name: value for name, value in settings.items() if name not in ("logger", "callbacks", "precision")}


class _Turns(IterableDataset[Batch]):
    """Hands out a batch when it is Lightning's turn, and takes all other turns itself meanwhile.

    Everything then runs in one thread, with one pool of worker threads behind it: a fit in a thread of its own would
    have a second pool, and the pools would hold each other's cores. Lightning fetches one batch ahead, so from one
    request to the next it completes exactly one step, with all its hooks.
    """

    def __init__(
        self, batch: Batch, steps: Mapping[str, Callable[[], None]], loggers: Mapping[str, Logger], rounds: int
    ) -> None:
        self.batch, self.steps, self.loggers, self.rounds = batch, steps, loggers, rounds
        self.trainer: lightning.Trainer | None = None
        self.results: list[Round] = []

    def __iter__(self) -> Iterator[Batch]:
        names = [*self.steps, *self.loggers]
        yield self.batch
        for number in range(-1, self.rounds):  # the first round is not counted
            start, seconds = number % len(names), {}
            for name in names[start:] + names[:start]:
                if name in self.loggers and self.trainer is not None:
                    self.trainer.loggers = [self.loggers[name]]
                wall, processor = time.perf_counter(), time.process_time()
                if name in self.loggers:
                    yield self.batch
                else:
                    self.steps[name]()
                seconds[name] = (time.perf_counter() - wall, time.process_time() - processor)
            if number >= 0:
                self.results.append(seconds)


def interleaved_steps(
    module: AttributePretraining, batch: Batch, steps: Mapping[str, Callable[[], None]], rounds: int, folder: Path
) -> list[Round]:
    """Take turns, step by step, between Lightning's loop and other functions.

    Lightning fits the module with the settings and callbacks of a real run and logs every step to MLflow, once
    as the suite does it and once with a write at every step.

    Args:
        module: What Lightning fits.
        batch: The batch of every step.
        steps: Functions that do a step, by name.
        rounds: Number of rounds; each begins with another name.
        folder: An empty folder for the MLflow store.

    Returns:
        For every round the wall-clock and the processor seconds of a step by name.
    """
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    loggers: dict[str, Logger] = {
        LIGHTNING: make_logger(folder, folder / "run", "benchmark", "benchmark", {}),
        UNBUFFERED: MLFlowLogger(experiment_name="benchmark", tracking_uri=uri),
    }
    turns = _Turns(batch, steps, loggers, rounds)
    settings = {**trainer_settings(), "accelerator": "cpu", "devices": 1}
    turns.trainer = lightning.Trainer(
        **settings, max_epochs=1, max_steps=MAX_STEPS, logger=list(loggers.values()), enable_checkpointing=False,
        callbacks=[Throughput(), EndTogether(), EpochSeed(42), FiniteGuard(folder)], default_root_dir=folder,
    )  # fmt: skip
    turns.trainer.fit(module, DataLoader(turns, batch_size=None))
    return turns.results
