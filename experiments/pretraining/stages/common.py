"""What the stages of pretraining share: what was asked for, how a run is launched, closed and exported."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from datamodules.base import VolumeDataModule
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.columns import PHASES
from datamodules.cohort.trained_on import TrainedOn
from experiments.doubt.scan_gate import open_gate
from experiments.pretraining.cards import encoder_card
from experiments.registry import STAGES
from experiments.runs.configuration import Configuration
from experiments.runs.console import say
from experiments.runs.folders import ENCODER_FOLDER, experiment_of, stage_folder
from experiments.runs.launch import FinishedRun, Launch, check_finished, mark_done, read_done
from experiments.runs.logged_model import ExportedModel, image_signature
from experiments.runs.run_data import hand_over
from experiments.runs.suite_cli import class_of
from experiments.runs.tracking import cohort_tags
from lightning_modules.core.distributed import is_main_rank
from lightning_modules.export.image import load_exported, save_encoder
from lightning_modules.networks.image.encoders import EncoderConfig, joins_phases

_KNOWN_LATER = {"text_fingerprint": "unknown", "text_dim": 1, "embeddings": "."}
"""Arguments of a DataModule that only an earlier stage can give."""


@dataclass(frozen=True)
class Pretraining:
    """What `make pretrain` was asked for.

    Args:
        stages: Stages in order, or parts of one as `text:mntp`; those that `make pretrain` runs by default when empty.
        profile: Size of the run.
        data: Folder of the cohort.
        seed: Seed.
        devices: Devices, as Lightning's Trainer takes them.
        runs: Folder of all runs.
        extra: Further flags of the parser.
        parent: MLflow id of the run that all stages are children of.
        nodes: Machines, each with `devices`.
        tag: Suffix of the runs' names, for settings that you changed. A stage starts from those before it of the same
            tag where there are such, else from those without one.
    """

    stages: tuple[str, ...] = ()
    profile: str = "demo"
    data: Path = Path("data/demo")
    seed: int = 42
    devices: str = "auto"
    runs: Path = Path("runs")
    extra: tuple[str, ...] = ()
    parent: str | None = None
    nodes: int = 1
    tag: str = ""

    def arguments(self, stage: str) -> dict[str, Any]:
        """The arguments of the command that runs one stage of it again."""
        parts = [name for name in self.stages if name.startswith(f"{stage}:")]
        return {
            "stages": [stage] if stage in self.stages else parts or [stage],
            "profile": self.profile,
            "data": str(self.data),
            "seed": self.seed,
            "devices": self.devices,
            "runs": str(self.runs),
            "extra": list(self.extra),
            "nodes": self.nodes,
            "tag": self.tag,
        }


def stage_launch(
    wanted: Pretraining,
    cohort: Cohort,
    stage: str,
    fold: int | None,
    *,
    config: str | None = None,
    task: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Launch:
    """The run of a stage, or of one part of it.

    Args:
        wanted: What was asked for.
        cohort: The cohort.
        stage: Stage of the registry.
        fold: Fold that will be tested.
        config: File under `configs/stage`; the stage's own by default. A part of a stage lies in a folder of its name.
        task: Downstream task whose labels it uses.
        options: Further flags by dotted key.
    """
    folder = stage_folder(wanted.runs, cohort, stage, wanted.seed, fold, wanted.tag)
    name = folder.name if fold is None else f"{folder.parent.name}-{folder.name}"
    if config is not None:
        folder, name = folder / config, f"{name}-{config}"
    tags = {**cohort_tags(cohort), "stage": stage, "profile": wanted.profile, "seed": str(wanted.seed)}
    base, encoder = STAGES[stage].variant_of, STAGES[stage].start
    variant = None if base is None else stage
    return Launch(
        configuration=Configuration.of(
            config or base or stage,
            profile=wanted.profile,
            encoder=encoder,
            task=task,
            variant=variant,
            flags=wanted.extra,
            values={
                "seed_everything": wanted.seed,
                "trainer.devices": wanted.devices,
                "trainer.num_nodes": wanted.nodes,
                "data.init_args.root": wanted.data,
                "data.init_args.fold": fold,
                **(options or {}),
                "run_dir": folder,
            },
        ),
        folder=folder,
        runs=wanted.runs,
        experiment=experiment_of(cohort, "pretrain"),
        name=name,
        tags=tags if task is None else {**tags, "task": task},
        command={"command": "pretrain", "arguments": wanted.arguments(stage)},
        parent=wanted.parent,
    )


def placeholders(files: Sequence[Path]) -> dict[str, object]:
    """A value for everything that the DataModule of these files will be told by an earlier stage."""
    contents = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in files]
    named = [content["data"]["class_path"] for content in contents if "class_path" in content.get("data", {})]
    parameters = inspect.signature(class_of(named[-1])).parameters
    return {f"data.init_args.{key}": value for key, value in _KNOWN_LATER.items() if key in parameters}


def already_finished(launch: Launch) -> bool:
    """Whether the stage is finished with this configuration, which is said with what it reached.

    Raises:
        DataError: if the folder holds a run with another configuration.
    """
    if not check_finished(launch):
        return False
    say(f"It is finished already. {read_done(launch.folder, 'summary')['summary']} Folder: {launch.folder.as_posix()}")
    return True


def close(
    launch: Launch, finished: FinishedRun, summary: str, content: Mapping[str, Any], exported: ExportedModel
) -> None:
    """Log tables, pictures and the exported model to MLflow, say the summary, and write DONE last.

    Args:
        launch: The run.
        finished: What training left behind.
        summary: What the stage reached, in sentences.
        content: What DONE says besides, for example the hash of the exported weights.
        exported: The model that it exported.
    """
    if not is_main_rank():
        return
    client, run_id = finished.logger.experiment, finished.logger.run_id
    for path in (*launch.folder.glob("*.csv"), *launch.folder.glob("*.png")):
        client.log_artifact(run_id, str(path))
    client.log_model(run_id, exported)
    say(f"{summary}\nFolder: {launch.folder.as_posix()}")
    mark_done(launch.folder, {"summary": summary, "run_id": run_id, **content})


def seen(finished: FinishedRun, encoder: object) -> tuple[int, ...]:
    """The size of an image as an encoder reads it: channels, and voxels D x H x W."""
    module: VolumeDataModule = finished.model.trainer.datamodule  # type: ignore[attr-defined]
    return (len(PHASES) if joins_phases(encoder) else 1, *module.augmentation.config.crop)


def image_model(finished: FinishedRun, encoder: Any) -> ExportedModel:
    """An exported image encoder as MLflow shows it."""
    signature = image_signature(seen(finished, encoder), int(encoder.feature_dim))
    return ExportedModel(ENCODER_FOLDER, "load_exported", signature)


def keep_likeness(finished: FinishedRun, cohort: Cohort, fold: int | None, folder: Path) -> None:
    """Measure the training scans beside an exported encoder, so that a single scan can be held against them.

    Args:
        finished: What training left behind.
        cohort: The cohort.
        fold: Fold that is tested.
        folder: Folder of the exported encoder.
    """
    module: VolumeDataModule = finished.model.trainer.datamodule  # type: ignore[attr-defined]
    encoder, trained_on = load_exported(folder)[0], TrainedOn.read(folder)
    open_gate(folder, encoder, module.augmentation, cohort, trained_on, fold, module.plan.volumes)


def export_encoder(finished: FinishedRun, cohort: Cohort, stage: str, folder: Path, summary: str) -> str:
    """Write the encoder of a finished stage with its contract and card.

    Returns:
        SHA-256 of its weights.
    """
    model = finished.model
    config = EncoderConfig.of(model.hparams["encoder"])
    card = encoder_card(STAGES[stage].title, cohort.info, config, model.contract, summary)
    export = folder / ENCODER_FOLDER
    training_data = hand_over(folder, export)
    return save_encoder(export, model.encoder, config, model.contract, card, training_data)  # type: ignore[arg-type]
