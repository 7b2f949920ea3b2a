"""`make pretrain`: the stages in order, each resumable and skipped when it is finished."""

from __future__ import annotations

from pathlib import Path

from datamodules.cohort import Cohort
from datamodules.errors import DataError
from experiments.console import say
from experiments.evaluation import caption
from experiments.launch import Launch, check_finished, mark_done, read_done, train
from experiments.registry import compose
from experiments.statistics.discrimination import auroc_delong
from experiments.tracking import cohort_tags

STAGE = "supervised"
TASK = "malignancy"


def pretrain(
    profile: str = "demo",
    data: Path = Path("data/demo"),
    seed: int = 42,
    devices: str = "auto",
    runs: Path = Path("runs"),
    extra: tuple[str, ...] = (),
) -> None:
    """Run the pretraining stages that exist on the pretraining centres.

    Args:
        profile: Size of the run.
        data: Folder of the cohort.
        seed: Seed.
        devices: Devices, as Lightning's Trainer takes them.
        runs: Folder of all runs.
        extra: Further flags of the parser.

    Raises:
        DataError: if the cohort is refused or has no pretraining centres.
    """
    cohort = Cohort.load(data)
    if cohort.info.evaluation == "folds":
        raise DataError(
            f"Cohort {cohort.info.name} is evaluated in folds and has no pretraining centres; "
            "its stages are trained inside the folds of `make finetune`."
        )
    say(
        "Stages: 1 cohort (done), 2 image encoder. The image encoder is trained on malignancy labels of the "
        "pretraining centres; attribute, text and alignment stages are not part of this version."
    )
    name = f"{STAGE}-{TASK}-s{seed}"
    experiment = f"renal/{cohort.info.name}/pretrain"
    folder = runs / experiment / name
    launch = Launch(
        files=compose("pretrain_supervised", profile=profile, encoder="scratch", task=TASK),
        options={"seed_everything": seed, "trainer.devices": devices, "data.init_args.root": data},
        folder=folder,
        runs=runs,
        experiment=experiment,
        name=name,
        tags={**cohort_tags(cohort), "stage": STAGE, "task": TASK, "profile": profile, "seed": str(seed)},
        command={
            "command": "pretrain",
            "arguments": {
                "profile": profile,
                "data": str(data),
                "seed": seed,
                "devices": devices,
                "runs": str(runs),
                "extra": list(extra),
            },
        },
        extra=list(extra),
    )
    if check_finished(launch):
        say(f"Stage 2 is finished already: {read_done(folder)['summary']} Folder: {folder.as_posix()}")
        return
    finished = train(launch, test=False)
    table = finished.model.val_table
    margin = (table.score[:, 1] - table.score[:, 0]).double().cpu().numpy()
    target = table.target.cpu().numpy()
    estimate = auroc_delong(target, margin)
    summary = (
        f"{TASK} on the validation patients of the pretraining centres: AUC {estimate.value:.3f} "
        f"(95 % interval {estimate.low:.3f} to {estimate.high:.3f}), n {len(target)}, positives {int(target.sum())}; "
        "the epoch was chosen on these patients, so this is optimistic. "
        f"{caption(cohort.info)}"
    )
    say(f"{summary}\nFolder: {folder.as_posix()}")
    mark_done(folder, {"summary": summary, "run_id": finished.logger.run_id})
