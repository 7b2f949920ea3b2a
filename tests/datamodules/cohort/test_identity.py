"""What a run used as a record: equal for equal data, and in words where it differs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from lightning.pytorch.trainer.states import TrainerFn

from datamodules.attributes import AttributeDataModule
from datamodules.augmentation import AugmentationConfig
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.identity import DataIdentity, data_differences, digests
from datamodules.cohort.labels import Label
from datamodules.cohort.trained_on import TrainedOn
from datamodules.errors import DataError
from datamodules.files import read_parquet, write_parquet
from datamodules.tasks import RoiDataModule
from datamodules.texts import ReportDataModule
from datamodules.writing import ReportImageDataModule
from tests.experiments.aligned_tiny import with_reports
from tests.tiny import CONTRACT

MALIGNANCY = Label("malignancy", "malignancy", [0, 1], ["benign", "malignant"])
OS = Label("os", eligible={"malignancy": [1]}, kind="survival", endpoint="os")


def _roi(root: Path, label: Label = MALIGNANCY, **options: object) -> RoiDataModule:
    return RoiDataModule(root, label, contract=CONTRACT, augmentation=AugmentationConfig(crop=(8, 10, 10)), **options)


def _attributes(root: Path, kind: type[AttributeDataModule] = AttributeDataModule) -> AttributeDataModule:
    return kind(root, contract=CONTRACT, augmentation=AugmentationConfig(crop=(8, 10, 10)))


def _texts(root: Path, **options: object) -> ReportDataModule:
    return ReportDataModule(root, "", "tiny", **options)  # type: ignore[arg-type]


def _changed(root: Path, name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    cohort = Cohort.load(root)
    replace(cohort, tables={**cohort.tables, name: change(cohort[name].copy())}).write()
    return root


def _index(root: Path) -> Path:
    (path,) = root.glob("volumes/*/index.parquet")
    return path


def renamed(root: Path, prefix: str) -> Path:
    """Put every patient under another pseudonym; the scans stay as they are."""
    cohort = Cohort.load(root)
    tables = {
        name: table.assign(patient_id=prefix + table["patient_id"]) if "patient_id" in table else table
        for name, table in cohort.tables.items()
    }
    replace(cohort, tables=tables).write()
    index = read_parquet(_index(root))[0]
    write_parquet(_index(root), index.assign(patient_id=prefix + index["patient_id"]))
    return root


def test_equal_data_is_equal_and_what_lies_on_the_disk_shows_no_patient(tiny_root: Path, tmp_path: Path) -> None:
    first = _roi(tiny_root).identity
    again = _roi(tiny_root, batch_size=3, num_workers=2).identity
    assert first.sha256 == again.sha256
    shuffled = replace(first, rows=first.rows.sample(frac=1, random_state=0))
    assert shuffled.sha256 == first.sha256
    first.write(tmp_path / "data.parquet")
    stored = DataIdentity.read(tmp_path / "data.parquet")
    assert stored.sha256 == first.sha256
    assert data_differences(stored, again) == []
    content = (tmp_path / "data.parquet").read_bytes()
    for patient in Cohort.load(tiny_root)["patients"]["patient_id"]:
        assert str(patient).encode() not in content
    write_parquet(tmp_path / "other.parquet", read_parquet(tmp_path / "data.parquet")[0])
    with pytest.raises(DataError, match="has format None"):
        DataIdentity.read(tmp_path / "other.parquet")


@pytest.mark.parametrize("label", [MALIGNANCY, OS])
def test_what_differs_is_said_in_words(tiny_copy: Path, label: Label) -> None:
    before = _roi(tiny_copy, label).identity
    people = Cohort.load(tiny_copy).patients()
    chosen = people.loc[(people["role"] == "external") & (people["malignancy"] == 1), "patient_id"].iloc[:2]
    column, value = ("malignancy", 0) if label is MALIGNANCY else ("os_months", 400.0)
    if label is OS:
        _changed(
            tiny_copy,
            "patients",
            lambda table: table.assign(os_months=table["os_months"].mask(table["patient_id"].isin(chosen), value)),
        )
        assert data_differences(before, _roi(tiny_copy, label).identity) == ["labels of 2 patients differ"]
        return
    _changed(
        tiny_copy,
        "patients",
        lambda table: table.assign(**{column: table[column].mask(table["patient_id"].isin(chosen), value)}),
    )
    assert data_differences(before, _roi(tiny_copy, label).identity) == ["labels of 2 patients differ"]
    # A run that tests nobody is not another one for it.
    assert data_differences(before.of(("train", "val")), _roi(tiny_copy, label).identity) == []
    internal = people[(people["role"] == "internal") & (people["split"] == "train")]["patient_id"].iloc[:3]
    _changed(
        tiny_copy,
        "splits",
        lambda table: table.assign(split=table["split"].mask(table["patient_id"].isin(internal), "test")),
    )
    now = _roi(tiny_copy, label).identity
    assert data_differences(before, now) == ["3 patients moved from train to test", "labels of 2 patients differ"]
    assert data_differences(before.of(("train", "val")), now) == ["3 patients moved from train to test"]
    index = read_parquet(_index(tiny_copy))[0]
    rows = index.index[index["patient_id"].isin(internal) & (index["side"] == "left") & (index["phase"] == "venous")]
    index.loc[rows, "crc32"] = index.loc[rows, "crc32"] + 1
    write_parquet(_index(tiny_copy), index)
    assert "volumes of 3 kidneys differ" in data_differences(now, _roi(tiny_copy, label).identity)


def test_a_phase_that_is_not_read_does_not_count(tiny_copy: Path) -> None:
    before = _roi(tiny_copy, phases="single").identity
    index = read_parquet(_index(tiny_copy))[0]
    venous = index["phase"] == "venous"
    write_parquet(_index(tiny_copy), index.assign(crc32=index["crc32"].mask(venous, index["crc32"] + 1)))
    assert data_differences(before, _roi(tiny_copy, phases="single").identity) == []
    assert _roi(tiny_copy).identity.sha256 != before.sha256


@pytest.mark.slow
def test_reports_and_attributes_count_where_they_enter(tiny_copy: Path) -> None:
    with_reports(tiny_copy)
    stated = _attributes(tiny_copy).identity
    written = _attributes(tiny_copy, ReportImageDataModule).identity
    masked, contrast = _texts(tiny_copy).identity, _texts(tiny_copy, objective="attributes").identity
    people = Cohort.load(tiny_copy).patients().set_index("patient_id")

    def altered(table: pd.DataFrame) -> pd.DataFrame:
        own = (table["patient_id"].map(people["role"]) == "pretrain") & (
            table["patient_id"].map(people["split"]) == "val"
        )
        first = own & (own.cumsum() == 1)
        return table.assign(text=table["text"].mask(first, table["text"] + " Both kidneys enhance."))

    _changed(tiny_copy, "reports", altered)
    assert data_differences(stated, _attributes(tiny_copy).identity) == []
    found = data_differences(written, _attributes(tiny_copy, ReportImageDataModule).identity)
    assert found in (["reports of 1 kidney differ"], ["reports of 2 kidneys differ"])
    assert data_differences(masked, _texts(tiny_copy).identity) == found
    margin = lambda table: table[~((table["attribute"] == "margin") & (table["patient_id"] == "P1-001"))]  # noqa: E731
    count = len(Cohort.load(tiny_copy)["attributes"]) - len(margin(Cohort.load(tiny_copy)["attributes"]))
    assert count == 1
    _changed(tiny_copy, "attributes", margin)
    assert data_differences(stated, _attributes(tiny_copy).identity) == ["attributes of 1 kidney differ"]
    assert "attributes of 1 kidney differ" in data_differences(
        contrast, _texts(tiny_copy, objective="attributes").identity
    )


def test_a_corpus_is_known_by_its_texts(tiny_root: Path, tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.txt").write_text(f"Report number {number}.")
    before = _texts(tiny_root, corpus=tmp_path).identity
    (tmp_path / "3.txt").unlink()
    for number in (50, 51):
        (tmp_path / f"{number}.txt").write_text(f"Report number {number}.")
    now = _texts(tiny_root, corpus=tmp_path).identity
    assert data_differences(before, now) == ["2 texts of the corpus are new", "1 text of the corpus is no longer there"]
    assert TrainedOn.of(now).unknown == ("a corpus",)
    assert len(TrainedOn.of(now).patients) == 0


def test_patients_who_are_trained_on_are_found_by_name_and_by_volume(tiny_copy: Path, tmp_path: Path) -> None:
    pretraining = _roi(tiny_copy, role="pretrain").identity
    seen = TrainedOn.of(pretraining, "make pretrain STAGES=supervised")
    people = Cohort.load(tiny_copy).patients()
    trained = people.loc[(people["role"] == "pretrain") & (people["split"] == "train"), "patient_id"]
    assert set(seen.patients) == set(digests(trained))
    assert seen.seen(_roi(tiny_copy).identity) == ([], [])
    seen.write(tmp_path)
    assert TrainedOn.read(tmp_path).sha256 == seen.sha256
    # The pretraining centre becomes an external one: by name, and under other pseudonyms by volume.
    other = Path(shutil.copytree(tiny_copy, tmp_path / "other"))
    cohort = Cohort.load(other)
    centers, splits = cohort["centers"], cohort["splits"]
    pretrained = splits["patient_id"].str.startswith("P1")
    moved = {
        "centers": centers.assign(role=centers["role"].replace({"pretrain": "external"})),
        "splits": splits.assign(split=splits["split"].mask(pretrained, "test")),
    }
    replace(cohort, tables={**cohort.tables, **moved}).write()
    assert seen.seen(_roi(other).identity) == (sorted(trained), [])
    renamed(other, "X-")
    assert seen.seen(_roi(other).identity) == ([], [f"X-{name}" for name in sorted(trained)])
    message = (
        rf"was trained on {len(trained)} of the .*under other pseudonyms, found by their volumes.*STAGES=supervised"
    )
    with pytest.raises(DataError, match=message):
        seen.refuse_seen(_roi(other).identity, "The encoder")


def test_one_checksum_that_agrees_by_chance_is_no_patient(tiny_root: Path) -> None:
    here = _roi(tiny_root).identity
    tested = here.rows[(here.rows["kind"] == "volumes") & (here.rows["part"] == "test")]
    first = tested[tested["patient"] == tested["patient"].iloc[0]]["value"].to_numpy()
    assert len(first) == 2
    one = TrainedOn(pd.DataFrame({"patient": [1, 2], "volume": first}))
    assert one.seen(here) == ([], [])
    assert len(TrainedOn(pd.DataFrame({"patient": [1, 1], "volume": first})).seen(here)[1]) == 1


def test_a_checkpoint_goes_on_with_its_own_data_and_is_not_tested_on_whom_it_saw(tiny_copy: Path) -> None:
    module = _roi(tiny_copy)
    state = module.state_dict()
    assert np.array_equal(np.unique(state["trained_on"][:, 0]), module.trained_on.patients)
    fitting, testing = (SimpleNamespace(state=SimpleNamespace(fn=fn)) for fn in (TrainerFn.FITTING, TrainerFn.TESTING))
    module.trainer = fitting  # type: ignore[assignment]
    module.load_state_dict(state)
    people = Cohort.load(tiny_copy).patients()
    moved = people[(people["role"] == "internal") & (people["split"] == "train")]["patient_id"].iloc[0]
    _changed(tiny_copy, "splits", lambda t: t.assign(split=t["split"].mask(t["patient_id"] == moved, "test")))
    other = _roi(tiny_copy)
    other.trainer = fitting  # type: ignore[assignment]
    with pytest.raises(DataError, match="run goes on with its own data only"):
        other.load_state_dict(state)
    other.trainer = testing  # type: ignore[assignment]
    with pytest.raises(DataError, match=rf"was trained on 1 of the \d+ validation and test patients .*{moved}"):
        other.load_state_dict(state)
