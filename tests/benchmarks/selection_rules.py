"""`python -m tests.benchmarks.selection_rules`: what the rule that picks the weights of a fine-tuning run is worth.

One training gives all rules at once: the epoch of the highest validation AUC, that of the least validation loss, the
last one, and an exponential average of the weights (after Izmailov et al., UAI 2018). A training leaves a table of
scores and is not run again, so that many seeds can be computed one by one; `selection_table` makes the table of them.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning
import pandas as pd
import torch
from jsonargparse import CLI
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from callbacks.seeding import EpochSeed
from datamodules.cohort.cohort import Cohort
from datamodules.files import write_parquet
from datamodules.tasks import RoiDataModule
from experiments.finetuning.point import Point
from lightning_modules.downstream.classification import Classification, auroc
from lightning_modules.metrics.patient_scores import PatientScores, PatientTable
from tests.benchmarks.selection_table import BEST_AUC, BEST_LOSS, EMA, LAST, selection_table

EMA_DECAY = 0.95
"""Of every step: an average over some twenty steps."""
State = Mapping[str, torch.Tensor]


class Rules(Callback):
    """Keeps the weights that each rule picks."""

    def __init__(self) -> None:
        self.kept: dict[str, State] = {}
        self._best = {BEST_AUC: float("-inf"), BEST_LOSS: float("-inf")}

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Begin the average."""
        average = get_ema_multi_avg_fn(EMA_DECAY)
        self._average = AveragedModel(_network(pl_module), multi_avg_fn=average, use_buffers=True)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: Any) -> None:
        """Add a step to the average."""
        self._average.update_parameters(_network(pl_module))

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        """Keep an epoch that is the best so far, or the last; of epochs alike the later, as `BestCheckpoint` does."""
        table: PatientTable = pl_module.val_table
        loss = functional.cross_entropy(table.score, table.target, pl_module.weight)
        state = copy.deepcopy(_network(pl_module).state_dict())
        for rule, value in ((BEST_AUC, float(auroc(table))), (BEST_LOSS, -float(loss))):
            if value >= self._best[rule]:
                self._best[rule], self.kept[rule] = value, state
        self.kept |= {LAST: state, EMA: self._average.module.state_dict()}


def _network(module: Any) -> nn.ModuleList:
    """All that is trained of a downstream module."""
    return nn.ModuleList([module.encoder, module.head, module.fusion])


def train_and_score(point: Point, cohort: Cohort) -> pd.DataFrame:
    """Scores of the validation and test patients by the weights of every rule.

    Args:
        point: A point of a classification of two classes, which is trained as `make finetune` does.
        cohort: Its cohort.

    Returns:
        patient_id, role, part, target, score (the logit of the second class less that of the first) and rule.
    """
    cli = point.launch(cohort, None).configuration.build()
    module, data, rules = cli.model, cli.datamodule, Rules()
    trainer = lightning.Trainer(
        max_epochs=cli.trainer.max_epochs,
        accelerator="cpu",
        gradient_clip_val=cli.trainer.gradient_clip_val,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[EpochSeed(point.seed), rules],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    loaders = {"val": data.val_dataloader(), "test": data.test_dataloader()}
    shown = {part: [data.on_after_batch_transfer(batch, 0) for batch in loader] for part, loader in loaders.items()}
    frames: list[pd.DataFrame] = []
    for state in {id(state): state for state in rules.kept.values()}.values():
        _network(module).load_state_dict(state)
        scored = pd.concat([_scored(module, data, part, batches) for part, batches in shown.items()])
        frames += [scored.assign(rule=rule) for rule, kept in rules.kept.items() if kept is state]
    return pd.concat(frames, ignore_index=True)


@torch.inference_mode()
def _scored(module: Classification, data: RoiDataModule, part: str, batches: Sequence[Any]) -> pd.DataFrame:
    module.eval()
    scores = PatientScores(2)
    for batch in batches:
        scores.update(batch["patient"], batch["sample"], module.outputs(batch), batch["target"])
    table = scores.compute()
    columns = ["patient_id", "role", "target"]
    rows = data.plan.patients.iloc[table.patient.numpy()][columns].reset_index(drop=True)
    return rows.assign(part=part, score=(table.score[:, 1] - table.score[:, 0]).double().numpy())


def run(
    data: Path,
    out: Path,
    seeds: list[int],
    encoder: str = "stage1",
    runs: Path = Path("runs"),
    pretrained: str = "s42",
    fraction: float = 1.0,
    profile: str = "demo",
    task: str = "malignancy",
    flags: list[str] | None = None,
    stop_after_s: float = float("inf"),
) -> None:
    """Train one encoder with some seeds, and print the table of all that is in the folder.

    Args:
        data: Folder of the cohort.
        out: Folder of the tables of scores.
        seeds: Seeds of the fraction, the head and the order.
        encoder: Image encoder.
        runs: Folder of the runs, with the pretraining that the encoder comes from.
        pretrained: That pretraining.
        fraction: Share of the labels.
        profile: Size of the runs.
        task: A classification of two classes.
        flags: Further settings, as `["--data.init_args.samples_per_epoch=80"]`.
        stop_after_s: No training is begun after so many seconds.
    """
    cohort, opened = Cohort.load(data), time.monotonic()
    for seed in seeds:
        path = out / f"{task}-{encoder}-f{fraction:g}-s{seed}.parquet"
        if path.is_file() or time.monotonic() - opened > stop_after_s:
            continue
        began = time.process_time()
        point = Point(
            task, fraction, encoder, profile, data, seed, runs=runs, pretrained=pretrained, extra=tuple(flags or ())
        )
        table = train_and_score(point, cohort)
        write_parquet(path, table.assign(encoder=encoder, fraction=fraction, seed=seed))
        print(f"{path.stem}: {time.process_time() - began:.0f} s of processor time", flush=True)
    print(selection_table(out).round(3).to_string())


if __name__ == "__main__":
    CLI(run, as_positional=False)
