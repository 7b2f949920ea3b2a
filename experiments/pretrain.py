"""`make pretrain`: the stages in order, each resumable and skipped when it is finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from callbacks.predictions import PREDICTIONS
from datamodules.cohort import Cohort
from datamodules.files import read_parquet
from experiments.attribute_results import stage_summary
from experiments.attributes import attributes
from experiments.cards import encoder_card
from experiments.console import is_main_rank, say
from experiments.encoders import ENCODER_FOLDER, folds_of, stage_folder
from experiments.evaluation import caption
from experiments.launch import Finished, Launch, check_finished, mark_done, read_done, train
from experiments.registry import STAGES, choose, compose
from experiments.statistics.discrimination import auroc_delong
from experiments.tracking import cohort_tags
from lightning_modules.networks.encoders import EncoderConfig
from lightning_modules.networks.export import save_encoder


@dataclass(frozen=True)
class Pretraining:
    """What `make pretrain` was asked for.

    Args:
        stages: Stages in order; those that `make pretrain` runs by default when empty.
        profile: Size of the run.
        data: Folder of the cohort.
        seed: Seed.
        devices: Devices, as Lightning's Trainer takes them.
        runs: Folder of all runs.
        extra: Further flags of the parser.
    """

    stages: tuple[str, ...] = ()
    profile: str = "demo"
    data: Path = Path("data/demo")
    seed: int = 42
    devices: str = "auto"
    runs: Path = Path("runs")
    extra: tuple[str, ...] = ()


def pretrain(wanted: Pretraining) -> None:
    """Run the pretraining stages of a cohort; of a cohort with folds, one run for every fold that will be tested.

    Raises:
        DataError: if the cohort is refused, has nothing to learn from, or a stage is unknown.
    """
    names = wanted.stages or tuple(name for name, entry in STAGES.items() if entry.default)
    for name in names:
        choose("STAGES", name, dict(STAGES))
    cohort = Cohort.load(wanted.data)
    if "image" in names:
        cohort = _with_attributes(cohort, wanted.data)
    steps = [(name, fold) for name in names for fold in folds_of(cohort)]
    for number, (name, fold) in enumerate(steps, start=1):
        title = STAGES[name].title + ("" if fold is None else f", fold {fold}")
        say(f"Stage {number} of {len(steps)}: {title}")
        _run_stage(wanted, cohort, name, fold)


def _with_attributes(cohort: Cohort, data: Path) -> Cohort:
    """The cohort with its attribute table, read out of the reports by rules where it is not there yet."""
    if "attributes" in cohort.tables:
        return cohort
    if is_main_rank():
        say("The cohort has no attribute table yet; reading its reports by rules (`make attributes` does more).")
        attributes(data)
    return Cohort.load(data)


def _run_stage(wanted: Pretraining, cohort: Cohort, stage: str, fold: int | None) -> None:
    launch = _launch(wanted, cohort, stage, fold)
    if check_finished(launch):
        say(f"It is finished already. {read_done(launch.folder)['summary']} Folder: {launch.folder.as_posix()}")
        return
    finished = train(launch, test=STAGES[stage].task is None)
    if not is_main_rank():
        return
    summary = _summary(finished, cohort, stage, launch.folder)
    sha256 = _export(finished, cohort, stage, launch.folder, summary)
    for path in (*launch.folder.glob("*.csv"), *launch.folder.glob("*.png"), launch.folder / ENCODER_FOLDER):
        log = finished.logger.experiment.log_artifacts if path.is_dir() else finished.logger.experiment.log_artifact
        log(finished.logger.run_id, str(path), *([ENCODER_FOLDER] if path.is_dir() else []))
    say(f"{summary}\nFolder: {launch.folder.as_posix()}")
    mark_done(launch.folder, {"summary": summary, "run_id": finished.logger.run_id, "encoder_sha256": sha256})


def _launch(wanted: Pretraining, cohort: Cohort, stage: str, fold: int | None) -> Launch:
    task = STAGES[stage].task
    folder = stage_folder(wanted.runs, cohort, stage, wanted.seed, fold)
    options = {
        "seed_everything": wanted.seed,
        "trainer.devices": wanted.devices,
        "data.init_args.root": wanted.data,
        "data.init_args.fold": fold,
    }
    arguments = {
        "stages": [stage],
        "profile": wanted.profile,
        "data": str(wanted.data),
        "seed": wanted.seed,
        "devices": wanted.devices,
        "runs": str(wanted.runs),
        "extra": list(wanted.extra),
    }
    tags = {**cohort_tags(cohort), "stage": stage, "profile": wanted.profile, "seed": str(wanted.seed)}
    return Launch(
        files=compose(stage, profile=wanted.profile, encoder="scratch", task=task),
        options=options,
        folder=folder,
        runs=wanted.runs,
        experiment=f"renal/{cohort.info.name}/pretrain",
        name=folder.name if fold is None else f"{folder.parent.name}-{folder.name}",
        tags=tags if task is None else {**tags, "task": task},
        command={"command": "pretrain", "arguments": arguments},
        extra=list(wanted.extra),
    )


def _summary(finished: Finished, cohort: Cohort, stage: str, folder: Path) -> str:
    """What a stage reached, in sentences; its tables and figures are written beside it."""
    note = caption(cohort.info)
    if STAGES[stage].task is None:
        predictions = read_parquet(folder / PREDICTIONS)[0]
        return f"{stage_summary(folder, predictions, cohort.info)} {note}"
    table = finished.model.val_table
    margin = (table.score[:, 1] - table.score[:, 0]).double().cpu().numpy()
    target = table.target.cpu().numpy()
    estimate = auroc_delong(target, margin)
    return (
        f"{STAGES[stage].task} on the validation patients of the pretraining centres: AUC {estimate.value:.3f} "
        f"(95 % interval {estimate.low:.3f} to {estimate.high:.3f}), n {len(target)}, positives {int(target.sum())}; "
        f"the epoch was chosen on these patients, so this is optimistic. {note}"
    )


def _export(finished: Finished, cohort: Cohort, stage: str, folder: Path, summary: str) -> str:
    """The encoder as a folder that `ENCODER=` and anyone else can load."""
    model = finished.model
    config = EncoderConfig.of(model.hparams["encoder"])
    card = encoder_card(STAGES[stage].title, cohort.info, config, model.contract, summary)
    return save_encoder(folder / ENCODER_FOLDER, model.encoder, config, model.contract, card)  # type: ignore[arg-type]


def parse_stages(text: Sequence[str] | None) -> tuple[str, ...]:
    """Stages given on the command line, separated by commas or as a list."""
    return tuple(name for part in text or () for name in part.split(",") if name)
