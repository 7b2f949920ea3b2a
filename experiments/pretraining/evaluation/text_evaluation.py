"""`make evaluate-text`: text encoders against each other on held-out reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.identity import REPORTS, DataIdentity, kidney_identity
from datamodules.cohort.keyed_order import keyed_choice
from datamodules.cohort.splits import split_of_fold
from datamodules.csv_files import write_csv
from datamodules.errors import DataError
from datamodules.files import write_json
from datamodules.reports.sides import side_reports
from experiments.pretraining.evaluation.masked_tokens import masked_rows
from experiments.pretraining.evaluation.paraphrases import answer, make_questions
from experiments.pretraining.evaluation.text_figure import text_figure
from experiments.pretraining.evaluation.text_probe import stated_codes, text_probe
from experiments.pretraining.evaluation.text_results import (
    ATTRIBUTES,
    EVERY,
    MEAN,
    RETRIEVAL,
    attribute_measures,
    masked_measures,
    question_measures,
    tabulate,
)
from experiments.pretraining.evaluation.text_systems import ADAPTED, BIDIRECTIONAL, TextBase, systems
from experiments.pretraining.stages.text import STAGE
from experiments.runs.console import say
from experiments.runs.folders import experiment_of, text_encoder_folder
from experiments.runs.pretrained import pretrained_from
from experiments.runs.run_data import bind_results, read_trained_on
from experiments.runs.tracking import cohort_tags, log_results, make_logger
from experiments.scores.plots.style import save
from experiments.scores.results_table import caption, marked, with_interval
from experiments.statistics.support import mark
from lightning_modules.networks.text.encoder import TextEncoder
from lightning_modules.networks.text.encoding import token_counts

CACHE = "text-embeddings"


@dataclass(frozen=True)
class TextEvaluation:
    """What was asked for; kept beside the results.

    Args:
        wording: Wording of the paraphrases.
        patients: Held-out patients drawn; 0 for all.
        flips: Most facts turned round a kidney.
        seed: Seed of the draw, the words and the pretraining.
        fold: Fold that is tested.
        replicates: Bootstrap replicates.
    """

    wording: str
    patients: int
    flips: int
    seed: int
    fold: int | None
    replicates: int


def evaluate_text(
    adapted: Path | None = None,
    data: Path = Path("data/demo"),
    base: str = "smollm2",
    layers: int | None = 8,
    quantization: Literal["nf4", "none"] = "none",
    max_length: int = 224,
    wording: str = "other",
    patients: int = 250,
    flips: int = 5,
    pretrained: str = "s42",
    fold: int | None = None,
    replicates: int = 1000,
    device: str | None = None,
    runs: Path = Path("runs"),
) -> int:
    """Compare a text encoder with its un-adapted base and with TF-IDF on the reports of held-out centres.

    Of every held-out kidney with a lesion: is a paraphrase of its report nearer than texts with one fact turned round?
    On both kidneys: what does a linear probe, fitted on the pretraining centres, read out of frozen embeddings? With
    alignment and uniformity. Intervals and differences are a bootstrap over patients.

    Args:
        adapted: Folder of an exported text encoder; that of the stage `text` where it was run. The base then has its
            layers, quantisation and length.
        data: Folder of the cohort.
        base: The base: smollm2, a folder or a hub id.
        layers: First layers of the base; null for all.
        quantization: none or nf4.
        max_length: Most tokens of a text.
        wording: Wording of the paraphrases: other, same or shuffled; the first two need a generated cohort.
        patients: Held-out patients, drawn at random; 0 for all.
        flips: Most facts turned round a kidney.
        pretrained: Pretraining whose encoder is taken: `s42`, or with its TAG `s42-mytag`; its seed also draws patients
            and words.
        fold: Fold to test, for a cohort with folds.
        replicates: Bootstrap replicates.
        device: Device; the GPU where there is one by default.
        runs: Folder of all runs.
    """
    origin, cohort = pretrained_from(pretrained), Cohort.load(data)
    seed = origin.seed
    wanted = TextEvaluation(wording, patients, flips, seed, fold, replicates)
    exported = adapted or text_encoder_folder(runs, cohort, seed, fold, origin.tag)
    chosen = TextBase(base, layers, quantization, max_length)
    if exported is not None:
        chosen = TextBase.of_adapted(exported, base)
    identity = _identity(cohort, wanted)
    if exported is not None:
        read_trained_on(exported).refuse_seen(identity, "The text encoder", ("test",))
    subject = BIDIRECTIONAL if exported is None else ADAPTED
    name = f"evaluation-{wording}-{origin}{'' if fold is None else f'-fold{fold}'}{'' if exported else '-base'}"
    folder = runs / experiment_of(cohort, STAGE) / name
    bind_results(folder / "text.csv", [identity])
    values, differences = _evaluate(cohort, wanted, chosen, exported, runs, device)
    _write(folder, cohort, values, differences, wanted, chosen)
    _log(runs, folder, name, cohort, values)
    say(_sentences(values, differences, subject))
    say(f"{caption(cohort.info)} Tables and figure: {folder.as_posix()}")
    return 0


def _identity(cohort: Cohort, wanted: TextEvaluation) -> DataIdentity:
    """The reports that are fitted on and tested."""
    fitted, tested = kidney_parts(cohort, wanted.patients, wanted.seed, wanted.fold)
    kidneys = pd.concat([fitted.assign(part="train"), tested.assign(part="test")], ignore_index=True)
    return kidney_identity(kidneys, {REPORTS: [text.encode() for text in kidneys["text"].astype(str)]})


def _evaluate(
    cohort: Cohort, wanted: TextEvaluation, base: TextBase, exported: Path | None, runs: Path, device: str | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    fitted, tested = kidney_parts(cohort, wanted.patients, wanted.seed, wanted.fold)
    questions = make_questions(cohort, tested, wanted.wording, wanted.flips, wanted.seed)
    codes = stated_codes(cohort, pd.concat([fitted, tested], ignore_index=True))
    every = [*fitted["text"], *tested["text"], *(text for question in questions for text in question.texts)]
    cache = runs / experiment_of(cohort, CACHE)
    answers, frames, masked = {}, {}, {}
    for system in systems(fitted["text"].tolist(), base, exported, cache, device):
        system.embed(every)  # all at once, so that batches are of like length; what follows reads the cache
        answers[system.name] = answer(questions, system.embed)
        frames[system.name] = text_probe(system.embed, fitted, tested, codes)
        if system.encoder is not None:
            _say_what_is_cut(system.name, system.encoder, [text for question in questions for text in question.texts])
            rows = masked_rows(system.encoder, system.encoder.config.base, tested["text"].tolist(), seed=wanted.seed)
            masked[system.name] = rows
    measures = [*question_measures(questions, answers), *attribute_measures(frames), *masked_measures(tested, masked)]
    return tabulate(measures, BIDIRECTIONAL if exported is None else ADAPTED, wanted.replicates)


def _say_what_is_cut(name: str, encoder: TextEncoder, texts: list[str]) -> None:
    """Facts behind the last token that an encoder reads are lost to it, whatever it has learned."""
    longest = encoder.config.max_length
    cut = float((token_counts(encoder, texts) >= longest).mean())
    if cut > 0:
        say(f"{name}: {cut:.0%} of the texts of the questions reach {longest} tokens and may be cut off.")


def kidney_parts(cohort: Cohort, patients: int, seed: int, fold: int | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The kidneys to fit on and to test on, with the text of their reports.

    Fitted on are the training patients of the pretraining centres, tested are patients of the other centres; of a
    cohort with folds, the training patients outside the fold and the patients in it.

    Args:
        cohort: The cohort.
        patients: Held-out patients, drawn at random; 0 for all.
        seed: Seed of the draw.
        fold: Fold to test, for a cohort with folds.

    Returns:
        Two tables: patient_id, study_id, side, text, center, role.

    Raises:
        DataError: if a fold is missing or not expected, or a part is empty.
    """
    people = cohort.patients()
    if (cohort.info.evaluation == "folds") != (fold is not None):
        raise DataError(
            f"Cohort {cohort.info.name} is evaluated in {cohort.info.evaluation} and fold is {fold}; name a fold of a "
            "cohort with folds, and none otherwise."
        )
    if fold is None:
        people = people.assign(part=people["split"].where(people["role"] == "pretrain", "test"))
    else:
        people = people.assign(part=split_of_fold(people, fold))
    kidneys = side_reports(cohort).drop(columns="report_id")
    kidneys = kidneys.merge(people[["patient_id", "center", "role", "part"]], on="patient_id")
    fitted, tested = (kidneys[kidneys["part"] == part].drop(columns="part") for part in ("train", "test"))
    if fitted.empty or tested.empty:
        raise DataError(
            f"Cohort {cohort.info.name} has {len(fitted)} kidneys with a report to fit on and {len(tested)} to test; "
            "expected both, look at the roles of its centres."
        )
    names = tested["patient_id"].unique()
    if 0 < patients < len(names):
        drawn = keyed_choice(names, patients, seed, "tested texts")
        tested = tested[tested["patient_id"].isin(drawn)]
    return fitted.reset_index(drop=True), tested.reset_index(drop=True)


def _write(
    folder: Path,
    cohort: Cohort,
    values: pd.DataFrame,
    differences: pd.DataFrame,
    wanted: TextEvaluation,
    base: TextBase,
) -> None:
    for name, table in (("text.csv", values), ("text_differences.csv", differences)):
        write_csv(folder / name, table)
    recorded = {**asdict(wanted), "base": {**asdict(base), "name": Path(base.name).name}, "note": caption(cohort.info)}
    write_json(folder / "evaluation.json", recorded)
    group = values["group"].iloc[-1]
    figure = text_figure(
        values, group, f"Text encoders on held-out reports, paraphrases: {wanted.wording}", caption(cohort.info)
    )
    save(figure, folder / "text.png")
    plt.close(figure)


def _log(runs: Path, folder: Path, name: str, cohort: Cohort, values: pd.DataFrame) -> None:
    logger = make_logger(runs, folder, experiment_of(cohort, STAGE), name, cohort_tags(cohort))
    metrics: dict[str, float] = {}
    for row in values[values["kind"].isin((EVERY, MEAN)) | ~values["metric"].isin((RETRIEVAL, ATTRIBUTES))].to_dict(
        "records"
    ):
        place = "/".join(_slug(row[key]) for key in ("metric", "group", "system"))
        for bound in ("value", "low", "high"):
            if np.isfinite(row[bound]):
                metrics[f"{place}/{bound}"] = float(row[bound])
    files = ("text.csv", "text_differences.csv", "text.png", "evaluation.json")
    log_results(logger, metrics, caption(cohort.info), [folder / path for path in files])


def _slug(text: str) -> str:
    return text.replace(",", "").replace(" ", "_")


def _sentences(values: pd.DataFrame, differences: pd.DataFrame, subject: str) -> str:
    """The two figures that matter, of every system and of the differences to it."""
    group, lines = values["group"].iloc[-1], []
    for metric, kind in ((RETRIEVAL, EVERY), (ATTRIBUTES, MEAN)):
        for row in _rows(values, metric, kind, group):
            lines.append(
                f"{metric}, {kind}, {group}: {row['system']} "
                f"{with_interval(*(row[key] for key in ('value', 'low', 'high', 'interval')))}, "  # type: ignore[arg-type]
                f"{row['kidneys']} kidneys of {row['patients']} patients"
            )
        for row in _rows(differences, metric, kind, group):
            lines.append(
                f"  {subject} minus {row['against']}: {row['difference']:+.3f} ({row['low']:+.3f} to "
                f"{row['high']:+.3f}){mark(row['interval'])}, p {row['p']:.3f}"
            )
    return "\n".join([*lines, *marked(values), *([] if marked(values) else marked(differences))])


def _rows(table: pd.DataFrame, metric: str, kind: str, group: str) -> list[dict[str, object]]:
    found = table[(table["metric"] == metric) & (table["kind"] == kind) & (table["group"] == group)]
    return [{str(key): value for key, value in row.items()} for row in found.to_dict("records")]
