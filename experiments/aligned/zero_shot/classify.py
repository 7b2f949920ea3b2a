"""`make zeroshot`: a task without a single label, by the prompts of its classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from callbacks.predictions import PREDICTIONS
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.labels import targets
from datamodules.cohort.study_times import index_kidneys
from datamodules.errors import DataError
from datamodules.files import write_parquet
from datamodules.reports.sides import KIDNEY, side_reports
from datamodules.tasks import RoiDataModule
from experiments.aligned.shared_space import SharedSpace, SpaceOptions, embed_part, load_space, read_as
from experiments.aligned.stated_facts import fact_scores, own_reader
from experiments.aligned.zero_shot.prompt_scores import max_similarity, mean_prompt, softmax
from experiments.aligned.zero_shot.prompt_sets import PromptSet, load_prompts
from experiments.aligned.zero_shot.report_baseline import patient_probabilities
from experiments.aligned.zero_shot.zero_shot_table import (
    FACTS,
    MEAN,
    NEAREST,
    PREFIX,
    REPORTS,
    ZeroShot,
    format_table,
    write_zero_shot,
    zero_shot_table,
)
from experiments.encoders.attribute_reader import AttributeReader
from experiments.registry import TASKS, choose
from experiments.runs.configuration import Configuration, datamodule_of
from experiments.runs.console import say
from experiments.runs.folders import experiment_of, folds_of
from experiments.runs.pretrained import pretrained_from
from experiments.runs.run_data import bind_results
from experiments.runs.tracking import cohort_tags, log_results, make_logger
from experiments.scores.results_table import caption
from experiments.statistics.means import owner_mean


def zeroshot(
    task: str = "malignancy",
    data: Path = Path("data/demo"),
    profile: str = "demo",
    pretrained: str = "s42",
    runs: Path = Path("runs"),
    draws: int = 1000,
    model: str | None = None,
    text: Path | None = None,
    base: str | None = None,
    encoder: str = "aligned",
    extra: list[str] | None = None,
) -> int:
    """Classify the tested patients of a task by prompts, without its labels.

    Strategies: the mean prompt of each class, the most similar prompt, random choices of one prompt a class, whose
    spread is reported, and, where stage 1 has attribute heads, how likely they make what the prompts state. Beside them
    stands a logistic regression on TF-IDF of the kidney reports, trained on the labels of the pretraining centres (of a
    cohort with folds, on the other folds): what the words alone reach.

    Args:
        task: Classification task with prompts under experiments/aligned/zero_shot/prompts.
        data: Folder of the cohort.
        profile: Size of the network and grid.
        pretrained: Pretraining of the model: `s42`, or with its TAG `s42-mytag`; its seed also draws the
            random prompts.
        runs: Folder of all runs.
        draws: Random choices of prompts.
        model: Folder or hub id of an aligned model; the one that `make pretrain` exported by default.
        text: Folder of its text encoder; the one that `make pretrain` exported by default. Of a published encoder,
            configuration and tokenizer of its text side; `text` beside its weights by default.
        base: Language model below the text encoder: folder, hub id or smollm2; the recorded one by default.
        encoder: Aligned encoder of the registry: aligned, one of the ablations, or a published one with a text side
            (ct_clip, merlin), which reads volumes of its own contract.
        extra: Further flags, for example `["--data.init_args.phases=single"]`.
    """
    choose("TASK", task, dict(TASKS))
    prompts = load_prompts(task)
    origin, cohort = pretrained_from(pretrained), Cohort.load(data)
    seed = origin.seed
    options = SpaceOptions(runs, origin.seed, None, model, text, base, encoder, origin.tag)
    parts, identities = [], []
    for fold in folds_of(cohort):
        space = load_space(cohort, replace(options, fold=fold))
        module = _data(task, data, profile, seed, fold, encoder, extra or [])
        ordered = prompts.ordered(module.label.classes)
        reader = own_reader(cohort, encoder, module, runs, origin, fold)
        parts.append(classify(space, module, ordered, fold, reader))
        identities.append(module.identity)
    found = _joined(parts)
    table = zero_shot_table(found, draws, seed)
    name = f"{encoder}-zeroshot-{origin}"
    folder = runs / experiment_of(cohort, task) / name
    folder.mkdir(parents=True, exist_ok=True)
    bind_results(folder / "results.csv", identities)
    write_parquet(folder / PREDICTIONS, found.predictions)
    per_class = ", ".join(str(count) for count in np.bincount(found.code))
    note = f"{caption(cohort.info)} Prompts a class: {per_class}. {REPORTS}: {_fitted_on(cohort)}."
    write_zero_shot(folder, found, table, f"{TASKS[task].title}, zero-shot", note)
    _log(
        runs,
        folder,
        cohort,
        task,
        name,
        table,
        note,
        {"profile": profile, "seed": str(seed), "draws": str(draws), "encoder": encoder}
        | {"training_patients": space.trained_on.words},
    )
    say(f"{format_table(table)}\n{note}\nFolder: {folder.as_posix()}")
    return 0


def _fitted_on(cohort: Cohort) -> str:
    where = "pretraining centres" if cohort.info.evaluation == "roles" else "other folds' training patients"
    return f"logistic regression on the reports' words, trained on labels of the {where}"


def _data(
    task: str, data: Path, profile: str, seed: int, fold: int | None, encoder: str, extra: list[str]
) -> RoiDataModule:
    name, options = read_as(encoder)
    options |= {"seed_everything": seed, "data.init_args.root": data, "data.init_args.fold": fold}
    configuration = Configuration.of("finetune", profile=profile, encoder=name, task=task, values=options, flags=extra)
    module = datamodule_of(configuration)
    if not isinstance(module, RoiDataModule) or module.label.kind != "classification":
        raise DataError(f"TASK={task} is no classification of patients; zero-shot classification needs one.")
    return module


def classify(
    space: SharedSpace,
    module: RoiDataModule,
    prompts: PromptSet,
    fold: int | None = None,
    reader: AttributeReader | None = None,
) -> ZeroShot:
    """Zero-shot classification of the tested patients of a DataModule.

    Args:
        space: Aligned model and text embeddings.
        module: The task's patients.
        prompts: Its prompts, in the order of the label's classes.
        fold: Fold, for a cohort with folds.
        reader: What stage 1 reads out of a scan.

    Returns:
        One row per tested patient with a scan.
    """
    texts, code = prompts.prompts()
    embedded = space.texts(texts, whole=True)
    samples = embed_part(space, module, "test")
    patients = module.plan.patients
    names = list(module.label.class_names)
    seen = np.unique(samples.patient)

    def averaged(values: np.ndarray) -> np.ndarray:
        return space.scale * owner_mean(values, samples.patient, len(patients))[seen]

    frame = patients.iloc[seen][["patient_id", "center", "role", "part"]].reset_index(drop=True).astype("string")
    frame["target"] = patients["target"].to_numpy(dtype=int)[seen]
    for strategy, score in ((MEAN, mean_prompt), (NEAREST, max_similarity)):
        scores = softmax(averaged(score(samples.embedding, embedded, code)), 1.0)
        frame[[f"{PREFIX[strategy]}{name}" for name in names]] = scores
    if reader is not None:
        facts = fact_scores(reader, module, samples.position.tolist(), prompts, space.features)
        if facts is not None:
            mean = owner_mean(facts, samples.patient, len(patients))[seen]
            frame[[f"{PREFIX[FACTS]}{name}" for name in names]] = softmax(mean, 1.0)
    frame[[f"{PREFIX[REPORTS]}{name}" for name in names]] = report_scores(module, frame, len(names))
    if fold is not None:
        frame["fold"] = fold
    return ZeroShot(frame, averaged(samples.embedding @ embedded.T), code, names)


def report_scores(module: RoiDataModule, tested: pd.DataFrame, classes: int) -> np.ndarray:
    """Scores by TF-IDF of the reports of the index kidney, NaN where there is none.

    Fitted on the labelled patients of the pretraining centres, which no tested patient is of; where a cohort has folds,
    on those of the other folds.
    """
    cohort = module.plan.cohort
    none = np.full((len(tested), classes), np.nan)
    if "reports" not in cohort.tables or cohort["reports"].empty:
        return none
    if cohort.info.evaluation == "folds":
        fitted = module.plan.patients[module.plan.patients["part"] == "train"]
    else:
        fitted = targets(cohort, module.label)
        fitted = fitted[fitted["role"] == "pretrain"]
    reports = side_reports(cohort).merge(index_kidneys(cohort)[KIDNEY], on=KIDNEY)
    found = patient_probabilities(reports, fitted, tested, classes)
    return none if found is None else found.reindex(tested["patient_id"]).to_numpy(dtype=float)


def _joined(parts: list[ZeroShot]) -> ZeroShot:
    """The predictions of all folds as one."""
    frame = pd.concat([part.predictions for part in parts], ignore_index=True)
    return ZeroShot(frame, np.concatenate([part.logits for part in parts]), parts[0].code, parts[0].class_names)


def _log(
    runs: Path, folder: Path, cohort: Cohort, task: str, name: str, table: pd.DataFrame, note: str, more: dict[str, str]
) -> None:
    tags = {**cohort_tags(cohort), "task": task, "encoder": "aligned", "mode": "zeroshot", "fraction": "0", **more}
    logger = make_logger(runs, folder, experiment_of(cohort, task), name, tags)
    metrics: dict[str, float] = {}
    for row in table.dropna(subset=["low"]).to_dict("records"):
        key = f"{row['strategy']}/{row['group']}".replace(" ", "_")
        metrics |= {f"{metric}/{key}": float(row[metric]) for metric in ("auroc", "low", "high", "n")}
    note = f"{note} Intervals: 95 %, patients; of random prompts their 5th to 95th percentile."
    log_results(logger, metrics, note, [folder / name for name in ("results.csv", "roc.png", PREDICTIONS)])
