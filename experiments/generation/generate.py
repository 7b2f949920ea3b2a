"""`make generate`: every system writes a report of every tested kidney."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from datamodules.cohort import Cohort
from datamodules.errors import DataError
from datamodules.files import read_json, write_json, write_parquet
from datamodules.report_data import ReportImageDataModule
from datamodules.side_reports import KIDNEY
from experiments.attributes.extract import with_attributes
from experiments.console import say
from experiments.encoders import folds_of
from experiments.evaluation import caption
from experiments.generation.records import GENERATED, generated_table, write_generated
from experiments.generation.systems import SYSTEMS, Options, Study, tested_kidneys, writer_of
from experiments.registry import choose, compose
from experiments.suite_cli import SuiteCLI, command_line
from lightning_modules.networks.decoding import Decoding

TOKENS, SETTINGS = "tokens.parquet", "settings.json"
DEFAULT = ("writer", "shuffled", "template", "nearest", "normal")


def generate(
    systems: list[str] | None = None,
    data: Path = Path("data/demo"),
    profile: str = "demo",
    seed: int = 42,
    runs: Path = Path("runs"),
    tag: str = "",
    patients: int | None = None,
    max_tokens: int = 160,
    beams: int = 1,
    temperature: float = 0.0,
    top_p: float = 0.95,
    repetition_penalty: float = 1.0,
    batch: int = 32,
    base: str | None = None,
    arguments: dict[str, str] | None = None,
    send_images: bool = False,
    extra: list[str] | None = None,
) -> int:
    """Write a report of every tested kidney by one or more systems.

    Args:
        systems: Who writes: writer, shuffled, template, nearest, normal by default; base, grounded and the comparators
            when named.
        data: Folder of the cohort.
        profile: Size of the network and grid.
        seed: Seed of the pretraining, and of what is drawn.
        runs: Folder of all runs.
        tag: TAG of the report stage, and suffix of the folders.
        patients: Largest number of patients; all by default.
        max_tokens: Most tokens of a report.
        beams: Beams of the search; 1 is greedy.
        temperature: Of sampling; 0 does not sample.
        top_p: Share of probability that sampling draws from.
        repetition_penalty: Divides the score of tokens that were written already.
        batch: Reports written at a time.
        base: Language model below a writer: folder, hub id or smollm2; the recorded one by default.
        arguments: Further arguments of single systems by name.
        send_images: Allow a system whose model is elsewhere to send images of patients away from this machine.
        extra: Further flags, for example `["--data.init_args.num_workers=2"]`.
    """
    names = list(systems or DEFAULT)
    for name in names:
        choose("SYSTEM", name, dict(SYSTEMS))
    away = [name for name in names if SYSTEMS[name].remote]
    if away and not send_images:
        raise DataError(
            f"System {', '.join(away)} sends images of patients away from this machine; say --send_images=true if the "
            "cohort's ethics and contracts allow it, or leave it out."
        )
    decoding = Decoding(max_tokens, beams, temperature, top_p, repetition_penalty)
    cohort = with_attributes(Cohort.load(data), data)
    studies = [
        _study(
            cohort,
            data,
            profile,
            Options(runs, seed, fold, tag, base, decoding, batch, dict(arguments or {})),
            patients,
            extra or [],
        )
        for fold in folds_of(cohort)
    ]
    for name in names:
        folder = system_folder(runs, cohort, name, seed, tag)
        say(f"{SYSTEMS[name].title}:")
        settings = [_settings(name, study, patients) for study in studies]
        if _finished(folder, settings):
            say(f"It is finished already. Folder: {folder.as_posix()}")
            continue
        frame = pd.concat([reports_of(name, study) for study in studies], ignore_index=True)
        _write(folder, frame, settings)
        empty = int((frame["text"].str.strip() == "").sum())
        say(
            f"{len(frame)} reports of {frame['patient_id'].nunique()} patients, {empty} empty. "
            f"{caption(cohort.info)} Folder: {folder.as_posix()}"
        )
    return 0


def system_folder(runs: Path, cohort: Cohort, name: str, seed: int, tag: str = "") -> Path:
    """Where a system's reports of a cohort lie."""
    return runs / f"renal/{cohort.info.name}/reports" / "-".join(part for part in (name, f"s{seed}", tag) if part)


def _study(
    cohort: Cohort, data: Path, profile: str, options: Options, patients: int | None, extra: Sequence[str]
) -> Study:
    files = compose("report_projector", profile=profile, encoder="aligned")
    flags = {"seed_everything": options.seed, "data.init_args.root": data, "data.init_args.fold": options.fold}
    module = SuiteCLI(command_line(files, flags, extra), run=False).datamodule
    assert isinstance(module, ReportImageDataModule)
    return Study(cohort, module, tested_kidneys(module, patients, options.seed), options)


def reports_of(name: str, study: Study) -> pd.DataFrame:
    """The reports of one system with the key of every kidney.

    Raises:
        DataError: if the system did not write one report a kidney.
    """
    written = writer_of(name)(study)
    if len(written) != len(study.kidneys):
        raise DataError(
            f"System {name} wrote {len(written)} reports of {len(study.kidneys)} kidneys; expected one each."
        )
    keys = study.kidneys[[*KIDNEY, "center", "role"]].reset_index(drop=True)
    return pd.concat([keys, written.reset_index(drop=True)], axis=1).assign(system=name)


def _settings(name: str, study: Study, patients: int | None) -> dict[str, Any]:
    """Everything that a system's reports depend on, as plain data without paths."""
    options = study.options
    module = importlib.import_module(SYSTEMS[name].module)
    own: Mapping[str, Any] = module.identity(study) if hasattr(module, "identity") else {}
    return {
        "system": name,
        "cohort": study.cohort.table_hash,
        "split": study.cohort.split_hash,
        "seed": options.seed,
        "fold": options.fold,
        "patients": patients,
        "template": study.module.template,
        "decoding": vars(options.decoding),
        **own,
    }


def _finished(folder: Path, settings: list[dict[str, Any]]) -> bool:
    """Whether these reports lie there already.

    Raises:
        DataError: if reports with other settings do.
    """
    if not (folder / SETTINGS).is_file():
        return False
    found = read_json(folder / SETTINGS)["parts"]
    if found == settings:
        return True
    differing = sorted({name for a, b in zip(found, settings, strict=False) for name in b if a.get(name) != b[name]})
    raise DataError(
        f"{folder.name} holds reports with other settings ({', '.join(differing) or 'folds'}); give these a TAG=, or "
        "delete that folder."
    )


def _write(folder: Path, frame: pd.DataFrame, settings: list[dict[str, Any]]) -> None:
    """Write reports and token log-probabilities; the settings are written last, so a folder with them is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    if "logprobs" in frame:
        long = frame[[*KIDNEY, "token_list", "logprobs"]].explode(["token_list", "logprobs"], ignore_index=True)
        long = long.rename(columns={"token_list": "token", "logprobs": "logprob"})
        long["position"] = long.groupby(KIDNEY).cumcount()
        write_parquet(folder / TOKENS, long.astype({"token": "string", "logprob": "Float64"}))
    write_generated(folder / GENERATED, generated_table(frame))
    write_json(folder / SETTINGS, {"parts": settings})
