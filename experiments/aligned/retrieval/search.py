"""`make retrieval`: from a report to its scan and from a scan to its report, in centres never trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from datamodules.attributes import AttributeDataModule
from datamodules.batch import MISSING
from datamodules.cohort.cohort import Cohort
from datamodules.csv_files import write_csv
from datamodules.errors import DataError
from datamodules.files import read_parquet, write_parquet
from datamodules.reports.schema import AttributeSchema
from datamodules.reports.sides import KIDNEY, side_reports
from experiments.aligned.retrieval.retrieval_figure import retrieval_figure
from experiments.aligned.shared_space import SharedSpace, SpaceOptions, embed_part, kidney_mean, load_space, read_as
from experiments.aligned.stated_facts import own_reader, read_reports, read_scans
from experiments.aligned.zero_shot.report_baseline import attribute_text, tfidf_embeddings
from experiments.encoders.attribute_reader import AttributeReader
from experiments.registry import ENCODERS, WITHOUT_MASKS
from experiments.runs.configuration import Configuration, datamodule_of
from experiments.runs.console import say
from experiments.runs.folders import experiment_of, folds_of
from experiments.runs.pretrained import pretrained_from
from experiments.runs.run_data import bind_results
from experiments.runs.tracking import cohort_tags, log_results, make_logger
from experiments.scores.results_table import caption, marked, with_interval
from experiments.statistics.bootstrap import bootstrap
from experiments.statistics.retrieval import (
    Ranks,
    RetrievedFacts,
    chance_median_rank,
    chance_recall,
    equivalence,
    facts_statistic,
    first_facts,
    first_relevant,
    median_statistic,
    recall_statistic,
)

TO_SCAN, TO_REPORT = "report to scan", "scan to report"
ALIGNED, TRUTH = "aligned model", "TF-IDF of the true attributes"
READ, BOTH = "attributes read from both", "aligned model and attributes"
RECALLS = (1, 5, 10)
_LESION = "lesion_present"
_Part = TypeVar("_Part", Ranks, RetrievedFacts)


@dataclass(frozen=True)
class Kidneys:
    """Kidneys with a scan and a report, both embedded by one or more systems.

    Args:
        table: One row per kidney: patient_id, study_id, side, center, role, text, `group` (equal for reports that say
            the same), `lesion` (whether the report states one), `row` (of the DataModule's kidney table) and `fold`.
        scans: Vectors [N, d] of the scans by system, whose dot product with those of the reports says what is nearest.
        reports: Vectors [N, d] of the reports by system.
        attributes: int64 [N, A], what each report states, -100 where it does not.
    """

    table: pd.DataFrame
    scans: Mapping[str, np.ndarray]
    reports: Mapping[str, np.ndarray]
    attributes: np.ndarray


def retrieval(
    data: Path = Path("data/demo"),
    profile: str = "demo",
    pretrained: str = "s42",
    runs: Path = Path("runs"),
    model: str | None = None,
    text: Path | None = None,
    base: str | None = None,
    encoder: str = "aligned",
    replicates: int = 2000,
    extra: list[str] | None = None,
) -> int:
    """Retrieve scans by reports and reports by scans, among the kidneys of each centre and of all together.

    A candidate counts as found when its report is identical to the query's or states the same attributes. Reports are
    candidates once, however many kidneys share them. Beside recall stands how far the first candidate states what the
    query's own report states, as F1 over the attributes. Beside the aligned model stand, where stage 1 has attribute
    heads, retrieval by the attributes that they read out of the scan and the rules out of the report, and both added up
    as log-odds. Chance is exact for duplicates; intervals are percentiles of a bootstrap over patients.

    Args:
        data: Folder of the cohort.
        profile: Size of the network and grid.
        pretrained: Pretraining of the model: `s42`, or with its TAG `s42-mytag`; its seed also draws the
            queries in the picture.
        runs: Folder of all runs.
        model: Folder or hub id of an aligned model; the one that `make pretrain` exported by default.
        text: Folder of its text encoder; the one that `make pretrain` exported by default.
        base: Language model below the text encoder: folder, hub id or smollm2; the recorded one by default.
        encoder: Aligned encoder of the registry: aligned, one of the ablations, or a published one with a text side
            (ct_clip, merlin), whose volumes are those of the index kidneys alone.
        replicates: Bootstrap replicates.
        extra: Further flags, for example `["--data.init_args.phases=single"]`.
    """
    origin, cohort = pretrained_from(pretrained), Cohort.load(data)
    seed = origin.seed
    options = SpaceOptions(runs, origin.seed, None, model, text, base, encoder, origin.tag)
    parts, modules = [], []
    for fold in folds_of(cohort):
        space = load_space(cohort, replace(options, fold=fold))
        module = _data(data, profile, seed, fold, encoder, extra or [])
        reader = own_reader(cohort, encoder, module, runs, origin, fold)
        parts.append(embed_kidneys(space, module, fold, reader))
        modules.append(module)
    table = retrieval_table(parts, replicates)
    name = f"{encoder}-{origin}"
    folder = runs / experiment_of(cohort, "retrieval") / name
    folder.mkdir(parents=True, exist_ok=True)
    bind_results(folder / "results.csv", [module.identity for module in modules])
    write_csv(folder / "results.csv", table)
    kidneys = pd.concat([part.table for part in parts], ignore_index=True)
    write_parquet(folder / "kidneys.parquet", kidneys.drop(columns=["text", "row"]))
    note = f"{caption(cohort.info)} Found: an identical report, or one that states the same attributes."
    if ENCODERS[encoder].release:
        note += " Index kidneys alone, whose volumes a published encoder has."
    retrieval_figure(folder / "retrieval.png", parts[0].table, *_aligned(parts[0]), modules[0].plan.volumes, note, seed)
    more = {"profile": profile, "seed": str(seed), "encoder": encoder, "training_patients": space.trained_on.words}
    _log(runs, folder, cohort, table, note, more)
    say(f"{format_table(table)}\n{note}\nFolder: {folder.as_posix()}")
    return 0


def _data(data: Path, profile: str, seed: int, fold: int | None, encoder: str, extra: list[str]) -> AttributeDataModule:
    name, options = read_as(encoder)
    options |= {"seed_everything": seed, "data.init_args.root": data, "data.init_args.fold": fold, **WITHOUT_MASKS}
    configuration = Configuration.of("image", profile=profile, encoder=name, values=options, flags=extra)
    module: AttributeDataModule = datamodule_of(configuration)
    return module


def _aligned(kidneys: Kidneys) -> tuple[np.ndarray, np.ndarray]:
    return kidneys.scans[ALIGNED], kidneys.reports[ALIGNED]


def embed_kidneys(
    space: SharedSpace, module: AttributeDataModule, fold: int | None = None, reader: AttributeReader | None = None
) -> Kidneys:
    """Embed the tested kidneys and their reports.

    Args:
        space: Aligned model and text embeddings.
        module: Kidneys with what their reports state; those of the pretraining centres are not tested.
        fold: Fold, for a cohort with folds.
        reader: What stage 1 reads out of a scan, to retrieve by attributes alone and together with the model.

    Raises:
        DataError: if the cohort has no reports, or no tested kidney has a scan and a report.
    """
    plan = module.plan
    samples = embed_part(space, module, "test")
    rows, scans = kidney_mean(samples)
    table = plan.kidneys.iloc[rows][[*KIDNEY, "row"]].reset_index(drop=True)
    owners = plan.patients.iloc[table.pop("row").to_numpy(dtype=int)]
    table = table.assign(center=owners["center"].to_numpy(), role=owners["role"].to_numpy(), row=rows)
    texts = side_reports(plan.cohort, set(table["patient_id"])).rename(columns={"report_id": "text_id"})
    table = table.merge(texts, on=KIDNEY, how="left")
    known = table["text"].notna().to_numpy()
    if not known.any():
        raise DataError(f"No tested kidney of cohort {plan.cohort.info.name} has a scan and a report.")
    table, scans = table[known].reset_index(drop=True), scans[known]
    codes = plan.fields["attributes"][table["row"].to_numpy(dtype=int)]
    names = list(module.class_counts)
    table["group"] = equivalence(table["text_id"].to_numpy(dtype=int), codes)
    table["lesion"] = (
        codes[:, names.index(_LESION)] == list(module.class_counts[_LESION]).index("yes") if _LESION in names else False
    )
    table["fold"] = pd.NA if fold is None else fold
    both_scans, both_reports = {ALIGNED: scans}, {ALIGNED: space.texts(table["text"].tolist())}
    if reader is not None:
        both_scans[READ] = read_scans(reader, module, samples, table["row"].tolist(), space.features)
        both_reports[READ] = read_reports(module, codes)
        # Both are log-odds: the model's similarity by its inverse temperature.
        both_scans[BOTH] = np.concatenate([space.scale * both_scans[ALIGNED], both_scans[READ]], axis=1)
        both_reports[BOTH] = np.concatenate([both_reports[ALIGNED], both_reports[READ]], axis=1)
    truth = true_codes(plan.cohort, table, module.schema) if names == list(module.schema.names) else None
    if truth is not None:
        trained = plan.fields["attributes"][(plan.kidneys["part"] == "train").to_numpy()]
        words = [attribute_text(part, module.schema) for part in (trained, truth, codes)]
        both_scans[TRUTH], both_reports[TRUTH] = tfidf_embeddings(*words)
    return Kidneys(table, both_scans, both_reports, codes)


def true_codes(cohort: Cohort, kidneys: pd.DataFrame, schema: AttributeSchema) -> np.ndarray | None:
    """The true attributes of kidneys of a phantom cohort as class indices, int64 [N, A]; None where nobody knows them.

    Args:
        cohort: The cohort; a phantom has the table `truth.parquet`.
        kidneys: Rows with patient_id, study_id, side.
        schema: Attributes and classes.
    """
    path = cohort.root / "truth.parquet"
    if not cohort.info.phantom or not path.is_file():
        return None
    truth = read_parquet(path)[0]
    if not set(schema.names) <= set(truth.columns):
        return None
    truth = kidneys[KIDNEY].merge(truth[[*KIDNEY, *schema.names]], on=KIDNEY, how="left", validate="one_to_one")
    columns = [
        truth[name].map({value: code for code, value in enumerate(values)}).fillna(MISSING).to_numpy(dtype=np.int64)
        for name, values in schema.classes.items()
    ]
    return np.stack(columns, axis=1)


def _groups(table: pd.DataFrame) -> Iterator[tuple[str, np.ndarray]]:
    """Name and mask of the sets of kidneys within which is retrieved."""
    if table["fold"].notna().any():
        yield "pooled out-of-fold", np.ones(len(table), dtype=bool)
        return
    for role, title in (("internal", "all internal"), ("external", "pooled external")):
        own = (table["role"] == role).to_numpy(dtype=bool)
        centers = sorted(set(table.loc[own, "center"]))
        for center in centers:
            yield f"{role} {center}", own & (table["center"] == center).to_numpy(dtype=bool)
        if len(centers) > 1:
            yield title, own


def ranks_of(kidneys: Kidneys, system: str, direction: str, mask: np.ndarray) -> tuple[Ranks, RetrievedFacts]:
    """Ranks of the kidneys of a mask within it, and what the first candidates state.

    Args:
        kidneys: Kidneys.
        system: Whose embeddings.
        direction: `report to scan`, where the candidates are kidneys, or `scan to report`, where they are the
            different reports.
        mask: bool [N], which kidneys.
    """
    group = kidneys.table.loc[mask, "group"].to_numpy(dtype=int)
    scans, reports, codes = kidneys.scans[system][mask], kidneys.reports[system][mask], kidneys.attributes[mask]
    if direction == TO_SCAN:
        return first_relevant(reports, scans, group, group), first_facts(reports, scans, codes, codes)
    first = np.unique(kidneys.table.loc[mask, "text_id"].to_numpy(dtype=int), return_index=True)[1]
    ranks = first_relevant(scans, reports[first], group, group[first])
    return ranks, first_facts(scans, reports[first], codes, codes[first])


def retrieval_table(parts: list[Kidneys], replicates: int = 2000) -> pd.DataFrame:
    """Recall at 1, 5 and 10, median rank and F1 of the first candidate's attributes, with chance beside them.

    There is a row for every group, direction, kind of query and system.

    Args:
        parts: Embedded kidneys; one entry, or one per fold, whose ranks are pooled.
        replicates: Bootstrap replicates over patients.

    Returns:
        Columns group, direction, queries, system, n, patients, candidates (mean), and for every metric its value,
        `_low`, `_high`, `_interval` (the method) and `_chance`.
    """
    rows = []
    for name, _ in _groups(parts[0].table):
        for direction in (TO_SCAN, TO_REPORT):
            for system in parts[0].scans:
                found = [_pooled(part, system, direction, name) for part in parts]
                ranks = _joined([part[0] for part in found])
                facts = _joined([part[1] for part in found])
                table = pd.concat([part[2] for part in found], ignore_index=True)
                lesion = table["lesion"].to_numpy(dtype=bool)
                for queries, chosen in (("all kidneys", np.ones_like(lesion)), ("kidneys with a lesion", lesion)):
                    if chosen.any():
                        row: dict[str, float | str] = {"group": name, "direction": direction}
                        row |= {"queries": queries, "system": system}
                        owners = table.loc[chosen, "patient_id"]
                        rows.append(row | _metrics(ranks.of(chosen), facts.of(chosen), owners, replicates))
    return pd.DataFrame(rows)


def _joined(parts: list[_Part]) -> _Part:
    """The queries of several folds, one after the other."""
    return type(parts[0])(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])))


def _pooled(part: Kidneys, system: str, direction: str, name: str) -> tuple[Ranks, RetrievedFacts, pd.DataFrame]:
    mask = dict(_groups(part.table))[name]
    return *ranks_of(part, system, direction, mask), part.table[mask]


def _metrics(ranks: Ranks, facts: RetrievedFacts, patient_id: pd.Series, replicates: int) -> dict[str, float | str]:
    patient, names = pd.factorize(patient_id)
    row: dict[str, float | str] = {"n": len(ranks.rank), "patients": len(names)}
    row["candidates"] = float(ranks.candidates.mean())
    measures = {f"recall_{k}": (recall_statistic(ranks.rank, patient, k), chance_recall(ranks, k)) for k in RECALLS}
    median = median_statistic(ranks.rank, patient, int(ranks.candidates.max()))
    measures["median_rank"] = (median, float(chance_median_rank(ranks)))
    measures["facts_f1"] = (facts_statistic(facts, patient), facts.chance())
    for name, (statistic, chance) in measures.items():
        estimate = bootstrap(statistic, len(names), replicates)[0]
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        row |= {f"{name}_interval": estimate.interval, f"{name}_chance": chance}
    return row


def format_table(table: pd.DataFrame) -> str:
    """The results as fixed-width text: value (interval), chance."""
    lines = [f"{'':20s}{'':15s}{'':22s}{'':30s}{'n':>6s}  recall@1 (95 %), chance      recall@10 (95 %), chance"
             "     facts of the first (95 %)    median rank, chance, of"]  # fmt: skip
    for row in table.to_dict("records"):
        cells = [
            f"{with_interval(*(row[f'{metric}{end}'] for end in ('', '_low', '_high', '_interval')))}, "
            f"{row[f'{metric}_chance']:.3f}"
            for metric in ("recall_1", "recall_10", "facts_f1")
        ]
        rank = f"{row['median_rank']:.0f}, {row['median_rank_chance']:.0f}, {row['candidates']:.0f}"
        head = f"{row['group']:20s}{row['direction']:15s}{row['queries']:22s}{row['system']:30s}{row['n']:6d}"
        lines.append(f"{head}  {cells[0]:28s}  {cells[1]:28s}  {cells[2]:28s}  {rank}")
    return "\n".join([*lines, *marked(table)])


def _log(runs: Path, folder: Path, cohort: Cohort, table: pd.DataFrame, note: str, more: dict[str, str]) -> None:
    tags = {**cohort_tags(cohort), "encoder": "aligned", "mode": "retrieval", **more}
    logger = make_logger(runs, folder, experiment_of(cohort, "retrieval"), folder.name, tags)
    metrics: dict[str, float] = {}
    for row in table[table["queries"] == "all kidneys"].to_dict("records"):
        key = f"{row['direction']}/{row['group']}/{row['system']}".replace(" ", "_").replace("TF-IDF", "tfidf")
        for metric in (*(f"recall_{k}" for k in RECALLS), "median_rank", "facts_f1"):
            for name in (metric, f"{metric}_low", f"{metric}_high", f"{metric}_chance"):
                metrics[f"{name}/{key}"] = float(row[name])
        metrics[f"n/{key}"] = float(row["n"])
    # The picture shows reports and stays in the folder: a store of figures is no place for texts of patients.
    log_results(logger, metrics, note, [folder / "results.csv"])
