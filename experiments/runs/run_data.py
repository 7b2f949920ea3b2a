"""A run belongs to its data: what it used lies in its folder, and the same name on other data is refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from jsonargparse import ArgumentParser

from datamodules.base import VolumeDataModule
from datamodules.bound_data import FITTED, BoundDataModule
from datamodules.cohort.identity import MASKS, PARTS, DataIdentity, array_rows, data_differences
from datamodules.cohort.trained_on import TRAINING_DATA, TrainedOn
from datamodules.errors import DataError
from datamodules.files import read_json_mapping
from experiments.runs.baseline import clinical_values
from experiments.runs.suite_cli import SuiteCLI

DATA = "data.parquet"
RUN_COMMAND = "run.json"
_STARTS = ("pretrained", "text_pretrained", "start")
"""Arguments of a module that name weights to start from."""
_EXPORT_CONFIGS = ("config.json", "writer.json")
_KEPT_HASHES = 4096
_HASHES: dict[str, dict[tuple[str, ...], str]] = {}


@dataclass(frozen=True)
class RunData:
    """The data of a run.

    Args:
        identity: Everything that its DataModule holds.
        parts: The parts that it uses: a run that tests nobody does not use the test.
        trained_on: Its training patients, and those of the weights that it starts from.
        sources: The weights that it starts from, by their place.
    """

    identity: DataIdentity
    parts: Sequence[str]
    trained_on: TrainedOn
    sources: Mapping[Path, TrainedOn]

    @property
    def used(self) -> DataIdentity:
        """What it uses."""
        return self.identity.of(self.parts)

    def tags(self) -> dict[str, str]:
        """What MLflow says of it."""
        before = TrainedOn.nobody().joined(self.sources.values())
        return {
            "data_sha256": self.used.sha256,
            "training_patients": self.trained_on.words,
            "started_from_patients": before.words,
        }

    def refuse_leaks(self) -> None:
        """Refuse weights that have seen whom the run selects on or tests, and scans that are in two parts.

        Raises:
            DataError: naming the patients.
        """
        for path, source in self.sources.items():
            source.refuse_seen(self.identity, f"What this run starts from ({_named(path)})")
        _, hidden = TrainedOn.of(self.identity).seen(self.identity)
        if hidden:
            raise DataError(
                f"{len(hidden)} validation and test patients have the scans of training patients, under other "
                f"pseudonyms ({', '.join(hidden[:3])}{', ...' if len(hidden) > 3 else ''}); expected every scan under "
                "one pseudonym. Import the cohort again with one pseudonym for each patient."
            )

    def lies_in(self, folder: Path) -> bool:
        """Whether a folder holds a run on this very data."""
        return (folder / DATA).is_file() and _stored_sha256(folder / DATA) == self.used.sha256

    def write(self, folder: Path) -> None:
        """Put it into the folder of the run."""
        self.used.write(folder / DATA)
        self.trained_on.write(folder)


def run_data(cli: SuiteCLI, sources: Iterable[Path], test: bool, command: Mapping[str, Any]) -> RunData:
    """The data of a run that is about to begin.

    Args:
        cli: Its parser with its DataModule.
        sources: Weights that it owes something to, beside those that its module names.
        test: Whether it tests anybody.
        command: What `make resume` calls again.

    Raises:
        DataError: if weights do not say whom they were trained on.
    """
    arguments = (cli.resolved_config().get("model") or {}).get("init_args") or {}
    places = [*sources, *(Path(arguments[name]) for name in _STARTS if arguments.get(name))]
    found = {place.resolve(): read_trained_on(place) for place in places}
    identity = data_of(cli)
    joined = TrainedOn.of(identity, make_command(command)).joined(found.values())
    cli.datamodule.trained_on = joined
    return RunData(identity, PARTS if test else FITTED, joined, found)


def data_of(cli: SuiteCLI) -> DataIdentity:
    """What data a configuration uses: that of its DataModule, and columns or masks that a baseline reads beside."""
    module = _datamodule(cli)
    identity = module.identity
    baseline = cli.resolved_config().get("baseline") or {}
    if not isinstance(module, VolumeDataModule):
        return identity
    patients = module.plan.patients
    if baseline.get("columns"):
        values = clinical_values(module.plan.cohort, patients, baseline["columns"]).to_numpy()
        identity = identity.known("clinical variables", patients["patient_id"], array_rows(values))
    if baseline.get("radiomics"):
        masks = [sorted(module.plan.volumes.mask_checksums(str(name)).items()) for name in patients["patient_id"]]
        identity = identity.known(MASKS, patients["patient_id"], masks)
    return identity


def _datamodule(cli: SuiteCLI) -> BoundDataModule:
    if not cli.parse_only:
        module: BoundDataModule = cli.datamodule
        return module
    # The DataModule alone: no network is built to see whether a run is finished.
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(BoundDataModule, "data", fail_untyped=False)
    built: BoundDataModule = parser.instantiate(parser.parse_object({"data": cli.config["data"].as_dict()}))["data"]
    return built


def check_same_data(folder: Path, name: str, cli: SuiteCLI) -> None:
    """Refuse to take the run in a folder for one on the data at hand.

    Args:
        folder: Folder of the run.
        name: What it is called.
        cli: Parser of the run that is asked for.

    Raises:
        DataError: saying what differs; or that the run does not know its data, and what to run.
    """
    path = folder / DATA
    if not path.is_file():
        raise DataError(
            f"Run {name} was made before runs recorded their data, so that nothing tells whether it is of these "
            f"patients and labels; delete its folder and run {_again(folder)}."
        )
    key = _inputs(cli)
    if _stored_sha256(path) in _HASHES.get(key, {}).values():
        return
    identity = data_of(cli)
    if len(_HASHES) >= _KEPT_HASHES:
        _HASHES.clear()
    _HASHES[key] = {parts: identity.of(parts).sha256 for parts in (PARTS, FITTED)}
    refuse_other_data(path, identity, f"Run {name}")


def bind_results(results: Path, identities: Sequence[DataIdentity]) -> None:
    """Make results of an evaluation belong to their data, or refuse to write over those of other data.

    Args:
        results: The file that a finished evaluation has; the records lie beside it.
        identities: What they use: one record, or one per fold.

    Raises:
        DataError: saying what differs.
    """
    what = f"The evaluation {results.parent.name}/{results.name}"
    paths = result_records(results, len(identities))
    for path, identity in zip(paths, identities, strict=True):
        if path.is_file():
            refuse_other_data(path, identity, what)
        elif results.is_file():
            raise DataError(
                f"{what} was made before results recorded their data, so that nothing tells whether it is of these "
                "patients and labels; delete it and run the same command again."
            )
    for path, identity in zip(paths, identities, strict=True):
        identity.write(path)


def result_records(results: Path, count: int = 1) -> list[Path]:
    """Where the records of the data of results lie, one per fold."""
    folds = [""] if count == 1 else [f"-fold{fold}" for fold in range(count)]
    return [results.with_name(f"{results.stem}-data{fold}.parquet") for fold in folds]


def refuse_other_data(path: Path, here: DataIdentity, what: str) -> None:
    """Refuse data that are not those of a record.

    Args:
        path: The record.
        here: The data at hand.
        what: Whose record it is, to begin a sentence with.

    Raises:
        DataError: saying what differs.
    """
    there = DataIdentity.read(path)
    differing = data_differences(there, here)
    if differing:
        raise DataError(
            f"{what} was made on other data ({', '.join(differing)}). "
            "Finished work is not overwritten and a result belongs to its data: give this one a name of its own with "
            "TAG=, or delete the folder and run the same command again."
        )


def read_trained_on(weights: Path) -> TrainedOn:
    """Whom exported weights were trained on; of published ones nobody knows.

    Args:
        weights: Exported folder, or file of published weights.

    Raises:
        DataError: if an exported folder does not say so, with what to run.
    """
    if weights.is_file():
        return TrainedOn.nobody([weights.name])
    if not (weights / TRAINING_DATA).is_file():
        raise DataError(
            f"The weights in {_named(weights)} were trained before exports recorded their training patients, so that "
            "nothing tells whether they have seen those to be tested; delete that run's folder and run "
            f"{_again(weights.parent)}."
        )
    found = TrainedOn.read(weights)
    configs = [weights / name for name in _EXPORT_CONFIGS if (weights / name).is_file()]
    if any(read_json_mapping(path).get("training_data_sha256") != found.sha256 for path in configs):
        raise DataError(
            f"The weights in {_named(weights)} and the record of their training patients do not belong together; "
            f"delete that run's folder and run {_again(weights.parent)}."
        )
    return found


def hand_over(run: Path, export: Path) -> str:
    """Put beside weights that are about to be exported whom they were trained on.

    Args:
        run: Folder of the run that trained them.
        export: Folder of the export.

    Returns:
        Hash of the record, for the configuration of the export.
    """
    return TrainedOn.read(run).write(export)


def recorded_hashes(folder: Path) -> dict[str, Any]:
    """Hashes of the data of a finished run, or of its folds in their order, for DONE."""
    found = [folder / DATA] if (folder / DATA).is_file() else sorted(folder.glob(f"fold*/{DATA}"))
    return {"data_sha256": [_stored_sha256(path) for path in found]} if found else {}


def make_command(command: Mapping[str, Any]) -> str:
    """A stored command as what a user types."""
    arguments = command.get("arguments", {})
    names = ("stages", "task", "encoder", "mode", "fraction", "seed", "profile", "data", "tag", "pretrained")
    default = {"encoder": "scratch", "mode": "finetune", "fraction": 1.0, "seed": 42, "profile": "demo"}
    parts = []
    for name in names:
        value = arguments.get(name)
        if value in (None, "", []) or value == default.get(name) or (name == "data" and str(value) == "data/demo"):
            continue
        # A place on this machine is no part of a record that travels with weights.
        shown = Path(str(value)).name if name == "data" else ",".join(value) if isinstance(value, list) else value
        parts.append(f"{name.upper()}={'.../' if name == 'data' else ''}{shown}")
    return " ".join(["make", str(command.get("command", "pretrain")), *parts])


def _again(folder: Path) -> str:
    path = folder / RUN_COMMAND
    return f"`{make_command(read_json_mapping(path))}` again" if path.is_file() else "`make pretrain` again"


def _named(path: Path) -> str:
    return "/".join(path.parts[-3:-1]) if path.is_dir() else path.name


def _stored_sha256(path: Path) -> str:
    header = pq.read_schema(path).metadata or {}
    return str(json.loads(header.get(b"renal_data", b"{}")).get("sha256"))


def _inputs(cli: SuiteCLI) -> str:
    """What the data of a configuration follow from: its settings, and state and size of the files that are read."""
    config = cli.config["data"].as_dict()
    root = Path(config["init_args"]["root"])
    files = [path for pattern in ("*.parquet", "cohort.json", "volumes/*/*") for path in root.glob(pattern)]
    corpus = config["init_args"].get("corpus")
    files += [] if corpus is None else Path(corpus).rglob("*")
    states = sorted((path.as_posix(), path.stat().st_mtime_ns, path.stat().st_size) for path in files)
    return json.dumps([config, cli.resolved_config().get("baseline"), states], default=str, sort_keys=True)
