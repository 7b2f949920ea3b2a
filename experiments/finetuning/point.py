"""One point of a data-efficiency curve: what names it, and how it is launched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from experiments.aligned.zero_shot.prompt_sets import available
from experiments.encoders.exported import exported_encoder
from experiments.registry import ENCODERS, MODES, TASKS, choose, prompts_of
from experiments.runs.configuration import Configuration
from experiments.runs.folders import experiment_of
from experiments.runs.launch import Launch
from experiments.runs.pretrained import pretrained_from
from experiments.runs.tracking import cohort_tags
from lightning_modules.export.attribute_heads import HEADS
from lightning_modules.export.image import weights_sha256

FROM_PRETRAINED = "finetune_pretrained"
"""The variant of fine-tuning an encoder that one of the stages trained."""


def mode_suffix(mode: str, tag: str) -> str:
    """What the name of a summary of points ends with: their mode, where they are not fine-tuned, and their TAG."""
    return "".join(f"-{part}" for part in (mode if mode != "finetune" else "", tag) if part)


def without_labels(task: str, encoder: str) -> bool:
    """Whether a model starts from prompts that are enough by themselves; times of survival are in no prompt."""
    return ENCODERS[encoder].prompts and TASKS[task].kind == "classification"


@dataclass(frozen=True)
class Point:
    """One point: a task, an encoder, a label fraction, a seed.

    Args:
        task: Downstream task.
        fraction: Share of the training labels, in (0, 1]; 0 of an encoder that starts from prompts.
        encoder: Image encoder.
        profile: Size of the run.
        data: Folder of the cohort.
        seed: Seed of the fraction, the weights and the order.
        devices: Devices, as Lightning's Trainer takes them.
        runs: Folder of all runs.
        tag: Suffix that tells apart runs whose configuration you changed.
        pretrained: Pretraining whose encoder is used: `s42`, or with its TAG `s42-mytag`.
        extra: Further flags of the parser, for example `--optimizer.lr=1e-4`.
        mode: `finetune` trains encoder and head; `probe` fits a linear model on frozen features.
        nodes: Machines, each with `devices`.
    """

    task: str
    fraction: float = 1.0
    encoder: str = "scratch"
    profile: str = "demo"
    data: Path = Path("data/demo")
    seed: int = 42
    devices: str = "auto"
    runs: Path = Path("runs")
    tag: str = ""
    pretrained: str = "s42"
    extra: tuple[str, ...] = ()
    mode: str = "finetune"
    nodes: int = 1

    @property
    def name(self) -> str:
        """Name of the run."""
        suffix = f"-{self.tag}" if self.tag else ""
        return f"{self.encoder}-{self.mode}-f{self.fraction:g}-s{self.seed}{suffix}"

    @property
    def title(self) -> str:
        """What stands above its figure."""
        how = "linear probe, " if self.mode == "probe" else ""
        return f"{TASKS[self.task].title}, {self.encoder}, {how}{self.fraction:.0%} of the labels"

    def experiment(self, cohort: Cohort) -> str:
        """MLflow experiment, which is also the folder under `runs`."""
        return experiment_of(cohort, self.task)

    def folder(self, cohort: Cohort, fold: int | None = None) -> Path:
        """Where the run lies, or that of one fold."""
        folder = self.runs / self.experiment(cohort) / self.name
        return folder if fold is None else folder / f"fold{fold}"

    def command(self) -> dict[str, object]:
        """What `make resume` calls again, as plain data."""
        arguments = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self).items()}
        return {"command": "finetune", "arguments": arguments}

    def tags(self, cohort: Cohort) -> dict[str, str]:
        """What MLflow says of it."""
        return {
            **cohort_tags(cohort),
            "task": self.task,
            "encoder": self.encoder,
            "mode": self.mode,
            "profile": self.profile,
            "fraction": f"{self.fraction:g}",
            "seed": str(self.seed),
            "pretrained": self.pretrained,
        }

    def _check_prompts(self, weights: Path) -> None:
        """Refuse an encoder that starts from prompts where it has no attribute heads, or the task no prompts.

        Raises:
            DataError: saying which.
        """
        if not (weights / HEADS).is_file():
            raise DataError(
                f"ENCODER={self.encoder} reads attributes, and its export has no heads for them; run `make pretrain "
                f"STAGES={ENCODERS[self.encoder].stage}` again, with TAG= where the name is taken."
            )
        if prompts_of(self.task) not in available():
            raise DataError(
                f"ENCODER={self.encoder} starts from prompts, and task {self.task} has none; there are prompts for "
                f"{', '.join(available())}. Choose another encoder."
            )

    def configuration(self, values: Mapping[str, object]) -> Configuration:
        """The configuration of the run, with the user's settings over it.

        Args:
            values: What follows from the cohort and the runs that it starts from, by dotted key.
        """
        entry = ENCODERS[self.encoder]
        pretrained = entry.stage is not None and not entry.tabular and self.mode == "finetune"
        own: dict[str, object] = {
            "seed_everything": self.seed,
            "trainer.devices": self.devices,
            "trainer.num_nodes": self.nodes,
            "data.init_args.root": self.data,
            "data.init_args.fraction": self.fraction,
        }
        return Configuration.of(
            "finetune",
            profile=self.profile,
            encoder=self.encoder,
            task=self.task,
            variant=FROM_PRETRAINED if pretrained else None,
            values={**own, **values},
            flags=self.extra,
        )

    def launch(self, cohort: Cohort, fold: int | None) -> Launch:
        """The run, or that of one fold.

        Raises:
            DataError: if a name is unknown, or the encoder was not trained yet.
        """
        choose("MODE", self.mode, dict(MODES))
        options: dict[str, object] = {"data.init_args.fold": fold}
        entry = ENCODERS[choose("ENCODER", self.encoder, dict(ENCODERS))]
        if entry.tabular:
            options |= {"baseline.columns": list(entry.columns), "baseline.model": entry.model}
            options |= {"baseline.prompts": True} if entry.prompts else {}
        origin = pretrained_from(self.pretrained)
        weights = exported_encoder(self.runs, cohort, self.encoder, origin.seed, fold, origin.tag)
        if weights is not None:
            options["model.init_args.pretrained"] = weights
            options["model.init_args.pretrained_sha256"] = weights_sha256(weights)
            if entry.prompts:
                self._check_prompts(weights)
        folder = self.folder(cohort, fold)
        return Launch(
            configuration=self.configuration({**options, "run_dir": folder}),
            folder=folder,
            runs=self.runs,
            experiment=self.experiment(cohort),
            name=self.name if fold is None else f"{self.name}-fold{fold}",
            tags=self.tags(cohort),
            command=self.command(),
            sources=() if weights is None else (weights,),
        )
