"""The DataModule: who is in which part, what a batch holds, and what leaves no trace."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from datamodules.augmentation import AugmentationConfig
from datamodules.batch import RoiBatch
from datamodules.cohort.columns import PHASES
from datamodules.cohort.labels import Label
from datamodules.errors import DataError
from datamodules.tasks import RoiDataModule
from datamodules.volumes.contract import PreprocessingContract
from tests.tiny import CENTERS, CONTRACT

MALIGNANCY = Label("malignancy", "malignancy", [0, 1], ["benign", "malignant"])


def _module(root: Path, **options: object) -> RoiDataModule:
    settings = {"label": MALIGNANCY, "contract": CONTRACT, "augmentation": AugmentationConfig(crop=(8, 10, 10))}
    return RoiDataModule(root, **{**settings, "batch_size": 4, **options})  # type: ignore[arg-type]


def test_a_batch_keeps_its_contract(tiny_root: Path) -> None:
    batch: RoiBatch = next(iter(_module(tiny_root).train_dataloader()))
    assert set(batch) == set(RoiBatch.__required_keys__ | {"target"})
    assert batch["image"].dtype == torch.int16
    assert batch["image"].shape[1:] == (1, *CONTRACT.grid)
    for name in ("phase", "patient", "kidney", "sample", "seed", "target"):
        assert batch[name].dtype == torch.int64
        assert batch[name].shape == (len(batch["image"]),)
    assert all(isinstance(value, str) for name in ("patient_id", "side", "center") for value in batch[name])


def test_roles_parts_and_people(tiny_root: Path) -> None:
    internal, pretrain = _module(tiny_root), _module(tiny_root, role="pretrain")
    seen: dict[str, set[str]] = {}
    for part in ("train", "val", "test"):
        loader = getattr(internal, f"{part}_dataloader")()
        seen[part] = {patient for batch in loader for patient in batch["patient_id"]}
    assert not (seen["train"] & seen["val"] | seen["train"] & seen["test"] | seen["val"] & seen["test"])
    roles = {part: {CENTERS[patient.split("-")[0]] for patient in people} for part, people in seen.items()}
    assert roles == {"train": {"internal"}, "val": {"internal"}, "test": {"internal", "external"}}
    people = {patient for batch in pretrain.train_dataloader() for patient in batch["patient_id"]}
    assert {CENTERS[patient.split("-")[0]] for patient in people} == {"pretrain"}
    with pytest.raises(DataError, match="Nobody is in the test part"):
        pretrain.test_dataloader()


def test_evaluation_sees_every_phase_once_and_training_one_at_random(tiny_root: Path) -> None:
    module = _module(tiny_root)
    tested = Counter(patient for batch in module.test_dataloader() for patient in batch["patient_id"])
    assert set(tested.values()) == {2}
    trained = Counter(patient for batch in module.train_dataloader() for patient in batch["patient_id"])
    assert set(trained.values()) == {1}
    assert sum(module.class_counts) == len(trained)


def test_only_the_fractions_shards_are_read(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datamodules.volumes.shards import VolumeSet

    opened: set[str] = set()
    read = VolumeSet.read

    def spy(self: VolumeSet, position: int) -> object:
        opened.add(str(self.index.loc[position, "patient_id"]))
        return read(self, position)

    monkeypatch.setattr(VolumeSet, "read", spy)
    module = _module(tiny_root, fraction=0.7)
    list(module.train_dataloader())
    patients = module.plan.patients
    assert opened == set(patients.loc[patients["part"] == "train", "patient_id"])
    assert (patients["part"] == "unused").sum() > 0


def test_workers_load_the_same_samples(tiny_root: Path) -> None:
    def samples(workers: int) -> list[tuple[str, int, float]]:
        loader = _module(tiny_root, num_workers=workers).train_dataloader()
        return [
            (patient, int(seed), float(image.float().mean()))
            for batch in loader
            for patient, seed, image in zip(batch["patient_id"], batch["seed"], batch["image"], strict=True)
        ]

    assert samples(0) == samples(2)


def test_a_single_phase_is_arterial_before_venous(tiny_root: Path) -> None:
    module = _module(tiny_root, phases="single")
    for loader in (module.train_dataloader(), module.test_dataloader()):
        batches = list(loader)
        assert all((batch["phase"] == PHASES.index("arterial")).all() for batch in batches)
        patients = [patient for batch in batches for patient in batch["patient_id"]]
        assert len(patients) == len(set(patients))


def test_the_single_phase_falls_back_in_order(tiny_root: Path) -> None:
    module = _module(tiny_root, phases="single")
    index = module.plan.volumes.index
    lost = (index["phase"] == "arterial") & index["patient_id"].str.startswith("I1")
    module.plan.volumes.index = index[~lost].reset_index(drop=True)
    phases = module.plan.volumes.index["phase"].tolist()
    visits = module.visits("train")
    taken = {
        str(module.plan.kidneys.loc[kidney, "patient_id"])[:2]: phases[positions[0]]
        for kidney, positions in zip(visits.kidney, visits.volumes, strict=True)
    }
    assert taken == {"I1": "venous", "I2": "arterial"}


def test_fused_samples_hold_every_phase_with_a_mask(tiny_root: Path) -> None:
    fused, plain = _module(tiny_root, phases="all"), _module(tiny_root)
    batch = next(iter(fused.test_dataloader()))
    rows = len(batch["image"])
    assert batch["image"].shape == (rows, len(PHASES), 1, *CONTRACT.grid)
    have = [phase in ("arterial", "venous") for phase in PHASES]
    assert batch["available"].tolist() == [have] * rows
    assert (batch["image"][~batch["available"]] == 0).all()
    single = {
        (patient, int(phase)): image
        for other in plain.test_dataloader()
        for patient, phase, image in zip(other["patient_id"], other["phase"], other["image"], strict=True)
    }
    for row, patient in enumerate(batch["patient_id"]):
        for phase in (1, 2):
            assert torch.equal(batch["image"][row, phase], single[patient, phase])
    changed = fused.on_after_batch_transfer(batch, 0)["image"]
    assert changed.shape == (rows, len(PHASES), 1, 8, 10, 10)


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_runs_on_any_fraction_have_equal_steps(tiny_root: Path, fraction: float) -> None:
    module = _module(tiny_root, fraction=fraction, samples_per_epoch=40)
    loader = module.train_dataloader()
    assert len(loader) == 10
    drawn = Counter(patient for batch in loader for patient in batch["patient_id"])
    assert sum(drawn.values()) == 40
    # Nobody is drawn once more before all are drawn once.
    assert max(drawn.values()) - min(drawn.values()) <= 1
    with pytest.raises(DataError, match="samples_per_epoch=0"):
        _module(tiny_root, samples_per_epoch=0).train_dataloader()


def test_another_contract_is_refused_with_what_there_is(tiny_root: Path) -> None:
    module = _module(
        tiny_root, contract=PreprocessingContract(grid=(8, 12, 13)), augmentation=AugmentationConfig((8, 8, 8))
    )
    with pytest.raises(DataError, match="holds the finished volume sets"):
        module.setup("fit")


def test_no_path_in_hyper_parameters(tiny_root: Path) -> None:
    assert str(tiny_root.parent) not in repr(dict(_module(tiny_root).hparams))


def test_folds_and_roles_are_not_mixed_up(tiny_root: Path, tiny_folds_root: Path) -> None:
    with pytest.raises(DataError, match=r"name one with data\.fold"):
        _module(tiny_folds_root).setup("fit")
    with pytest.raises(DataError, match="no folds"):
        _module(tiny_root, fold=0).setup("fit")


def test_labels_of_the_index_kidney_and_eligibility(tiny_root: Path) -> None:
    label = Label("renal_r", "renal_r", [1, 2, 3], ["small", "medium", "large"], table="kidneys")
    assert len(_module(tiny_root, label=label).class_counts) == 3
    eligible = Label("aggr", "aggressiveness", [0, 1], ["no", "yes"], eligible={"malignancy": [1]})
    module = _module(tiny_root, label=eligible)
    assert set(module.plan.patients["malignancy"]) == {1}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"column": "malignant"}, "column 'malignant' is not in patients"),
        ({"classes": [0]}, "expected at least two"),
        ({"eligible": {"grade": [1]}}, "eligibility names"),
    ],
)
def test_bad_labels_are_refused(options: dict[str, object], sentence: str) -> None:
    settings = {"name": "x", "column": "malignancy", "classes": [0, 1], "class_names": ["a", "b"]}
    with pytest.raises(DataError, match=sentence):
        Label(**{**settings, **options})  # type: ignore[arg-type]


def test_values_outside_the_classes_are_refused(tiny_root: Path) -> None:
    label = Label("sex", "sex", ["male", "x"], ["m", "x"])
    with pytest.raises(DataError, match="sex holds"):
        _module(tiny_root, label=label).setup("fit")
    nobody = Label("pn", "stage_pn", ["0", "1"], ["free", "metastatic"])
    with pytest.raises(DataError, match="no patient of cohort tiny"):
        _module(tiny_root, label=nobody).setup("fit")
