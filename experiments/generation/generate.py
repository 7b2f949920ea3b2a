"""`make generate`: every system writes a report of every tested kidney."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.files import read_json_mapping, write_json, write_parquet
from datamodules.reports.sides import KIDNEY
from datamodules.writing import ReportImageDataModule
from experiments.cohorts.attributes import with_attributes
from experiments.generation.journal import UNFINISHED
from experiments.generation.records import GENERATED, generated_table, write_generated
from experiments.generation.systems import SYSTEMS, Options, WritingJob, module_of, tested_kidneys, writer_of
from experiments.registry import choose
from experiments.runs.configuration import Configuration, datamodule_of
from experiments.runs.console import say
from experiments.runs.folders import folds_of, system_folder
from experiments.runs.locks import held
from experiments.runs.pretrained import pretrained_from
from experiments.runs.run_data import bind_results
from experiments.scores.results_table import caption
from lightning_modules.networks.joint.decoding import Decoding

TOKENS, FACTS, SETTINGS = "tokens.parquet", "facts.parquet", "settings.json"
DEFAULT = ("planned", "planned_shuffled", "template", "nearest", "normal")
"""Systems that write where none is named, with the comparators that are there."""
_ALL = "--data.init_args.validation_kidneys=null"
"""A schedule takes few of them, since a language model reads them slowly; here thresholds are chosen on them."""


def generate(
    systems: list[str] | None = None,
    data: Path = Path("data/demo"),
    profile: str = "demo",
    pretrained: str = "s42",
    runs: Path = Path("runs"),
    patients: int | None = None,
    max_tokens: int = 160,
    beams: int = 1,
    temperature: float = 0.0,
    top_p: float = 0.95,
    repetition_penalty: float = 1.0,
    no_repeat: int = 6,
    batch: int = 32,
    base: str | None = None,
    arguments: dict[str, Any] | None = None,
    send_images: bool = False,
    extra: list[str] | None = None,
) -> int:
    """Write a report of every tested kidney by one or more systems.

    Args:
        systems: Who writes. By default planned, planned_shuffled, template, nearest, normal, and of the comparators
            those that are here: medgemma (weights in weights/medgemma), gpt4o (OPENAI_API_KEY), ct_chat, radfm and
            endpoint (RENAL_CT_CHAT_URL, RENAL_RADFM_URL, RENAL_ENDPOINT_URL: servers of OpenAI's chat interface).
            writer, shuffled, base and grounded when named.
        data: Folder of the cohort.
        profile: Size of the network and grid.
        pretrained: Pretraining whose encoders write, and whose name the folders carry: `s42`, or with its TAG
            `s42-mytag`; its seed also draws what is drawn.
        runs: Folder of all runs.
        patients: Largest number of patients; all by default.
        max_tokens: Most tokens of a report.
        beams: Beams of the search; 1 is greedy.
        temperature: Of sampling; 0 does not sample.
        top_p: Share of probability that sampling draws from.
        repetition_penalty: Divides the score of tokens that were written already.
        no_repeat: Tokens in a row that a local model does not write twice; 0 forbids nothing. Servers decode their way.
        batch: Reports written at a time.
        base: Language model below a writer: folder, hub id or smollm2; the recorded one by default.
        arguments: Further arguments of single systems by name: `{medgemma: FOLDER}`; `{medgemma.slices: 8}`, also
            pixels, batch; `{endpoint.model: NAME}`, also windows, slices, pixels, concurrency, per_minute, attempts,
            wait_s, timeout_s, give_up, allowed_failures, price_in and price_out (of a million tokens).
        send_images: Allow a system whose model is elsewhere to send images of patients away from this machine.
        extra: Further flags, for example `["--data.init_args.num_workers=2"]`.
    """
    decoding = Decoding(max_tokens, beams, temperature, top_p, repetition_penalty, no_repeat)
    given = {name: str(value) for name, value in (arguments or {}).items()}
    origin = pretrained_from(pretrained)
    options = Options(runs, origin.seed, None, origin.tag, base, decoding, batch, given)
    names = _present(systems, options)
    cohort = with_attributes(Cohort.load(data), data)
    jobs = [
        _job(cohort, data, profile, replace(options, fold=fold), patients, extra or []) for fold in folds_of(cohort)
    ]
    names = _allowed(names, jobs, send_images, named=bool(systems))
    for name in names:
        folder = system_folder(runs, cohort, name, origin.seed, origin.tag)
        say(f"{SYSTEMS[name].title}:")
        # Two commands at once would ask, and pay, for the same kidneys twice; the second finds what the first wrote.
        with held(folder.with_name(f".{folder.name}.lock")):
            _generate(name, jobs, patients, folder)
    return 0


def _generate(name: str, jobs: Sequence[WritingJob], patients: int | None, folder: Path) -> None:
    """Write the reports of one system, unless they lie in its folder already."""
    bind_results(folder / GENERATED, [job.module.identity for job in jobs])
    settings = [_settings(name, job, patients) for job in jobs]
    for job, own in zip(jobs, settings, strict=True):
        job.folder, job.scope = folder, _hash(own)
    if _finished(folder, settings):
        say(f"It is finished already. Folder: {folder.as_posix()}")
        return
    frame = pd.concat([reports_of(name, job) for job in jobs], ignore_index=True)
    _write(folder, frame, settings)
    empty = int((frame["text"].str.strip() == "").sum())
    say(
        f"{len(frame)} reports of {frame['patient_id'].nunique()} patients, {empty} empty. "
        f"{caption(jobs[0].cohort.info)} Folder: {folder.as_posix()}"
    )


def _present(systems: Sequence[str] | None, options: Options) -> list[str]:
    """The systems that write; of those that nobody named the comparators that are here.

    Raises:
        DataError: if a name is unknown, or one that was named is not here, saying what it needs.
    """
    for name in [*(systems or ()), *(key.partition(".")[0] for key in options.arguments)]:
        choose("SYSTEM", name, dict(SYSTEMS))
    comparators = [name for name, system in SYSTEMS.items() if system.comparator]
    names = list(systems or (*DEFAULT, *comparators))
    missing = {name: module_of(name).absent(name, options) for name in names if name in comparators}
    missing = {name: sentence for name, sentence in missing.items() if sentence}
    if systems and missing:
        raise DataError(" ".join(missing.values()))
    for sentence in missing.values():
        say(f"Left out: {sentence}")
    return [name for name in names if name not in missing]


def _allowed(names: Sequence[str], jobs: Sequence[WritingJob], send_images: bool, *, named: bool) -> list[str]:
    """The systems that may write: without `send_images` those whose images stay on this machine.

    Raises:
        DataError: if one that was named may not, saying what would be sent and where to; no image was read yet.
    """
    if send_images:
        return list(names)
    kept = []
    for name in names:
        leaving = [text for job in jobs for text in (_outgoing(name, job),) if text]
        if not leaving:
            kept.append(name)
            continue
        sentence = (
            f"System {name} would send {'; and '.join(leaving)}. Nothing was sent. Add ARGS=--send_images=true if the "
            "cohort's ethics and contracts allow it, or leave it out."
        )
        if named:
            raise DataError(sentence)
        say(f"Left out: {sentence}")
    return kept


def _outgoing(name: str, job: WritingJob) -> str:
    return str(module_of(name).outgoing(job, name)) if SYSTEMS[name].remote else ""


def _job(
    cohort: Cohort, data: Path, profile: str, options: Options, patients: int | None, extra: Sequence[str]
) -> WritingJob:
    values = {"seed_everything": options.seed, "data.init_args.root": data, "data.init_args.fold": options.fold}
    module = datamodule_of(
        Configuration.of("report_projector", profile=profile, encoder="aligned", values=values, flags=[_ALL, *extra])
    )
    assert isinstance(module, ReportImageDataModule)
    return WritingJob(cohort, module, tested_kidneys(module, patients, options.seed), options)


def reports_of(name: str, job: WritingJob) -> pd.DataFrame:
    """The reports of one system with the key of every kidney.

    Raises:
        DataError: if the system did not write one report a kidney.
    """
    job.system = name
    written = writer_of(name)(job)
    if len(written) != len(job.kidneys):
        raise DataError(f"System {name} wrote {len(written)} reports of {len(job.kidneys)} kidneys; expected one each.")
    keys = job.kidneys[[*KIDNEY, "center", "role"]].reset_index(drop=True)
    return pd.concat([keys, written.reset_index(drop=True)], axis=1).assign(system=name)


def _settings(name: str, job: WritingJob, patients: int | None) -> dict[str, Any]:
    """Everything that a system's reports depend on, as plain data without paths."""
    options, module = job.options, module_of(name)
    job.system = name
    own: Mapping[str, Any] = module.identity(job) if hasattr(module, "identity") else {}
    return {
        "system": name,
        "cohort": job.cohort.table_hash,
        "split": job.cohort.split_hash,
        "data": job.module.identity.sha256,
        "seed": options.seed,
        "fold": options.fold,
        "patients": patients,
        "template": job.module.template,
        "decoding": vars(options.decoding),
        **own,
    }


def _hash(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _finished(folder: Path, settings: list[dict[str, Any]]) -> bool:
    """Whether these reports lie there already.

    Raises:
        DataError: if reports with other settings do.
    """
    if not (folder / SETTINGS).is_file():
        return False
    found = read_json_mapping(folder / SETTINGS, "parts")["parts"]
    if found == settings:
        return True
    differing = sorted({name for a, b in zip(found, settings, strict=False) for name in b if a.get(name) != b[name]})
    raise DataError(
        f"{folder.name} holds reports with other settings ({', '.join(differing) or 'folds'}); give these a TAG=, or "
        "delete that folder."
    )


def _write(folder: Path, frame: pd.DataFrame, settings: list[dict[str, Any]]) -> None:
    """Write reports, and what they rest on: tokens with log-probabilities, or facts with probabilities.

    The settings are written last, so a folder with them is complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if "logprobs" in frame:
        long = frame[[*KIDNEY, "token_list", "logprobs"]].explode(["token_list", "logprobs"], ignore_index=True)
        long = long.rename(columns={"token_list": "token", "logprobs": "logprob"})
        long["position"] = long.groupby(KIDNEY).cumcount()
        write_parquet(folder / TOKENS, long.astype({"token": "string", "logprob": "Float64"}))
    if "facts" in frame:
        stated = frame[[*KIDNEY, "facts"]].explode("facts", ignore_index=True).dropna(subset=["facts"])
        facts = pd.DataFrame(stated["facts"].tolist(), columns=["attribute", "value", "probability"])
        write_parquet(folder / FACTS, pd.concat([stated[KIDNEY].reset_index(drop=True), facts], axis=1))
    write_generated(folder / GENERATED, generated_table(frame))
    write_json(folder / SETTINGS, {"parts": settings})
    (folder / UNFINISHED).unlink(missing_ok=True)
