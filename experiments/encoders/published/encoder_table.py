"""`make encoders`: every encoder, what it reads, its licence, and whether it can be used on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from experiments.encoders.exported import exported_encoder
from experiments.encoders.published.inputs import described, encoder_contract
from experiments.encoders.published.weights import find_weights, how_to_get
from experiments.registry import ENCODERS, EncoderEntry
from experiments.runs.folders import folds_of
from experiments.runs.pretrained import Pretrained, pretrained_from
from lightning_modules.core.errors import ModelError
from lightning_modules.networks.image.published.releases import RELEASES


def encoders(
    data: Path = Path("data/demo"), runs: Path = Path("runs"), profile: str = "demo", pretrained: str = "s42"
) -> int:
    """List the encoders: what is available here, what each reads, feature dimension, licence, how to get the rest.

    Args:
        data: Folder of the cohort that the stages were trained on.
        runs: Folder of all runs.
        profile: Profile whose contract encoders without one of their own read.
        pretrained: Pretraining whose encoders are looked for: `s42`, or with its TAG `s42-mytag`.
    """
    console = Console(width=max(120, Console().width))
    cohort = Cohort.load(data) if (data / "cohort.json").is_file() else None
    table = Table("encoder", "what", "features", "licence", "here", box=None, pad_edge=False)
    absent: dict[str, str] = {}
    for name, entry in ENCODERS.items():
        here, reason = _available(name, entry, cohort, runs, pretrained_from(pretrained))
        absent |= {name: reason} if reason else {}
        dimension = str(RELEASES[entry.release].feature_dim) if entry.release else _dimension(entry)
        table.add_row(name, entry.title, dimension, entry.licence, here)
    console.print(table, highlight=False)
    _listed(console, "Input", {name: _input(name, entry, profile) for name, entry in ENCODERS.items()})
    if absent:
        _listed(console, "Not here", absent)
    _listed(console, "Cite", {name: entry.citation for name, entry in ENCODERS.items()})
    return 0


def _input(name: str, entry: EncoderEntry, profile: str) -> str:
    return f"columns {', '.join(entry.columns)}" if entry.columns else described(encoder_contract(name, profile))


def _listed(console: Console, title: str, lines: Mapping[str, str]) -> None:
    """What holds for several encoders stands once, after their names."""
    owners: dict[str, list[str]] = {}
    for name, line in lines.items():
        owners.setdefault(line, []).append(name)
    console.print(f"\n{title}")
    for line, names in owners.items():
        console.print(f"  {', '.join(names)}: {line}", highlight=False, markup=False, soft_wrap=True)


def _dimension(entry: EncoderEntry) -> str:
    return str(len(entry.columns)) if entry.columns else "profile's"


def _available(
    name: str, entry: EncoderEntry, cohort: Cohort | None, runs: Path, pretrained: Pretrained
) -> tuple[str, str]:
    """A word for the table, and how to get what is missing."""
    try:
        if entry.release and find_weights(name) is None:
            return "no weights", how_to_get(name)
        if entry.stage is None and not entry.release:
            return "yes", ""
        if cohort is None:
            return "weights" if entry.release else "no cohort", ""
        for fold in folds_of(cohort):
            exported_encoder(runs, cohort, name, pretrained.seed, fold, pretrained.tag)
    except (DataError, ModelError) as error:
        return ("weights, no volumes" if entry.release and "make volumes" in str(error) else "no"), str(error)
    return "yes", ""
