"""`make sweep`: hyper-parameters of one point, chosen on internal validation patients; the test stays closed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from optuna import Study

from datamodules.batch import MISSING
from datamodules.bound_data import FITTED
from datamodules.cohort.cohort import Cohort
from datamodules.engine import Lost, Needs, in_this_process, open_pool
from datamodules.errors import DataError
from datamodules.tasks import RoiDataModule
from experiments.finetuning.finetune import ALL_TASKS, finetune
from experiments.finetuning.point import Point
from experiments.registry import ENCODERS, MODES, PROFILES, TASKS, choose
from experiments.runs.configuration import Configuration
from experiments.runs.console import configure_output, say
from experiments.runs.folders import folds_of
from experiments.runs.locks import held
from experiments.runs.pretrained import pretrained_from
from experiments.runs.run_data import bind_results
from experiments.runs.tracking import shared_run, store_environment
from experiments.scores.outcomes import AUROC, C_INDEX, MACRO_AUROC, Metric
from experiments.studies.sweep.optuna_study import open_study, search
from experiments.studies.sweep.publish import publish
from experiments.studies.sweep.sampler import PRUNERS
from experiments.studies.sweep.search_space import Space, check_space, flags, read_space
from experiments.studies.sweep.storage import chosen_url, redacted
from experiments.studies.sweep.trials import Sweep, TrialObjective

TAG = "sweep"


def sweep(
    task: str = "malignancy",
    encoder: str = "scratch",
    fraction: float = 1.0,
    trials: int = 20,
    space: str = "finetune",
    pruner: str = "median",
    storage: str = "",
    finish: bool = False,
    mode: str = "finetune",
    profile: str = "demo",
    data: Path = Path("data/demo"),
    seed: int = 42,
    devices: str = "auto",
    runs: Path = Path("runs"),
    tag: str = "",
    pretrained: str = "s42",
    extra: list[str] | None = None,
    jobs: int = 1,
) -> int:
    """Search the hyper-parameters of one point with Optuna.

    The value of a trial is the validation metric of its best epoch, on internal validation patients; no trial reads a
    test patient. The same command goes on with an interrupted sweep, and several of them, on one machine or many, work
    on the same study. Writes `trials.csv`, `history.png`, `importance.png` and `best.yaml` into the sweep's folder and
    every trial into MLflow, beneath one parent run.

    Args:
        task: Downstream task.
        encoder: Image encoder.
        fraction: Share of the training labels, in (0, 1].
        trials: Trials of the study in all, complete or pruned, of all workers.
        space: Search space: a name under `configs/sweep`, or a YAML file of parser paths and distributions.
        pruner: Which trials end early: median, hyperband or none.
        storage: Database of the study as SQLAlchemy's URL, shared by all workers; a file beside the trials by default.
            A password belongs into the environment variable SWEEP_STORAGE, which is read where this is empty.
        finish: Then train the best values as a point of their own with TAG=sweep, and test it.
        mode: `finetune`; a linear probe has nothing to search.
        profile: Size of the runs: demo, study, small or paper.
        data: Folder of the cohort.
        seed: Seed of fraction, weights, order and search.
        devices: One device a trial; start one worker per device.
        runs: Folder of all runs.
        tag: Suffix of the sweep's name, for a configuration that you changed.
        pretrained: Pretraining whose encoder is used: `s42`, or with its TAG `s42-mytag`; its TAG is also that of
            the sweep where it has none.
        extra: Further flags of every trial, for example `["--trainer.max_epochs=5"]`.
        jobs: Trials that run side by side, each in a process with a GPU, or a share of the cores, of its own.
    """
    url = chosen_url(storage)
    tag = tag or pretrained_from(pretrained).tag
    point = Point(task, fraction, encoder, profile, data, seed, devices, runs, tag, pretrained, tuple(extra or ()))
    _check_names(point, mode, pruner, trials)
    cohort, searched = Cohort.load(data), read_space(space)
    if folds_of(cohort) != [None]:
        raise DataError(
            f"Cohort {cohort.info.name} is tested in folds: values chosen on the validation patients of one fold would "
            "be tested on the same patients in another. Sweep on a cohort with roles and give its best.yaml here."
        )
    point = replace(point, devices="1")
    launch = point.launch(cohort, None)
    parse = partial(_parsed, launch.configuration)
    own = check_space(searched, parse)
    cli = launch.configuration.build()
    _check_validation(cli.datamodule)
    metric = _metric(cli.datamodule)
    folder = launch.folder.with_name(_name(point, searched))
    arguments = {"task": task, "encoder": encoder, "fraction": fraction, "trials": trials, "space": space}
    arguments |= {"pruner": pruner, "storage": redacted(url), "finish": finish, "profile": profile, "data": str(data)}
    arguments |= {"seed": seed, "devices": devices, "runs": str(runs), "tag": tag, "pretrained": pretrained}
    arguments |= {"extra": list(point.extra)}
    command = {"command": "sweep", "arguments": arguments}
    plan = Sweep(point, searched, folder, command, cli.model.monitor)
    bind_results(folder / "trials.csv", [cli.datamodule.identity.of(FITTED)])
    study = open_study(plan, cohort, url, pruner, own, parse([]))
    parent = shared_run(runs, cohort, point.experiment(cohort), "sweep", sweep=folder.name)
    if in_this_process(jobs):
        search(plan, study, TrialObjective(plan, cohort, parent), trials)
    else:
        _search_beside(_Search(plan, data, url, pruner, trials, parent), jobs)
    with held(folder / ".results.lock"):
        publish(plan, study, cohort, parent, metric, own)
        if finish:
            _finish(plan, study)
    return 0


@dataclass(frozen=True)
class _Search:
    """Works on the study in a process of its own, until it has as many trials as wanted."""

    plan: Sweep
    data: Path
    url: str
    pruner: str
    trials: int
    parent: str | None

    def __call__(self, _: int) -> None:
        cohort = Cohort.load(self.data)
        configuration = self.plan.point.launch(cohort, None).configuration
        parse = partial(_parsed, configuration)
        study = open_study(self.plan, cohort, self.url, self.pruner, check_space(self.plan.space, parse), parse([]))
        search(self.plan, study, TrialObjective(self.plan, cohort, self.parent), self.trials)


def _search_beside(work: _Search, jobs: int) -> None:
    needs = Needs(gpu=True, environment=store_environment(), begin=configure_output)
    with open_pool(work, jobs, needs) as pool:
        lost = [outcome for _, outcome in pool.run(range(jobs)) if isinstance(outcome, Lost)]
    if lost:
        raise DataError(f"{len(lost)} of {jobs} processes of the sweep ended twice: {lost[0].sentence}.")


def _check_names(point: Point, mode: str, pruner: str, trials: int) -> None:
    if point.task == ALL_TASKS:
        raise DataError("TASK=all was asked for; a sweep chooses values for one task, so name it.")
    choose("TASK", point.task, dict(TASKS))
    choose("ENCODER", point.encoder, dict(ENCODERS))
    choose("PROFILE", point.profile, dict(PROFILES))
    choose("PRUNER", pruner, dict(PRUNERS))
    if choose("MODE", mode, dict(MODES)) == "probe" or ENCODERS[point.encoder].tabular:
        what = "MODE=probe" if mode == "probe" else f"ENCODER={point.encoder}"
        raise DataError(
            f"{what} was asked for; a linear model chooses its one penalty on the validation patients in every fit "
            "already, so there is nothing to sweep. Sweep MODE=finetune with an image encoder."
        )
    if not 0 < point.fraction <= 1:
        raise DataError(f"FRACTION={point.fraction:g} was asked for; expected a share of the labels in (0, 1].")
    if trials < 1:
        raise DataError(f"TRIALS={trials} was asked for; expected at least 1.")
    if str(point.devices) not in ("auto", "1"):
        raise DataError(
            f"DEVICES={point.devices} was asked for; a trial runs on one device. Start one `make sweep` per device, "
            "each with its CUDA_VISIBLE_DEVICES: they share the study."
        )


def _name(point: Point, space: Space) -> str:
    parts = ("sweep", point.encoder, f"f{point.fraction:g}", f"s{point.seed}", space.name, point.tag)
    return "-".join(part for part in parts if part)


def _parsed(configuration: Configuration, extra: list[str]) -> dict[str, Any]:
    return configuration.over(flags=extra).resolved()


def _check_validation(module: RoiDataModule) -> None:
    """Refuse validation patients on whom the metric is not defined, and a fraction that is too small."""
    patients = module.plan.patients
    val = patients[(patients["part"] == "val") & (patients["target"] != MISSING)]
    if module.label.kind == "survival":
        event = val["target"].to_numpy() == 1
        months = val[f"{module.label.endpoint}_months"].to_numpy(dtype=float)
        defined, expected = bool(event.any()) and months[event].min() < months.max(), "an event and a later follow-up"
    else:
        defined, expected = val["target"].nunique() == len(module.label.classes), "patients of every class"
    if not defined:
        raise DataError(
            f"Task {module.label.name} has {len(val)} validation patients, on whom its metric is not defined; "
            f"expected {expected} among them, or no trial can be told from another."
        )


def _metric(module: RoiDataModule) -> Metric:
    if module.label.kind == "survival":
        return C_INDEX
    return AUROC if len(module.label.classes) == 2 else MACRO_AUROC


def _finish(plan: Sweep, study: Study) -> None:
    """The best values as a point of their own: trained, and tested once."""
    tag = "-".join(part for part in (plan.point.tag, TAG) if part)
    extra = (*plan.point.extra, *flags(study.best_params))
    say(f"The best values are trained as a point with TAG={tag} and tested.")
    finetune(replace(plan.point, tag=tag, extra=extra))
