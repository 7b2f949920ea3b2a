"""The gate: distances against scipy, thresholds on fresh data, faults that must be found, files that must fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf

from datamodules.augmentation import AugmentationConfig, VolumeAugmentation
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.identity import digests
from datamodules.cohort.trained_on import TrainedOn
from datamodules.importers.builder import build_cohort
from datamodules.importers.one_scan import ScanKidney, ScanView
from datamodules.volumes.shards import VolumeSet
from experiments.doubt.fitted_reference import thresholds
from experiments.doubt.gaussians import FEWEST, Gaussians
from experiments.doubt.reference import LIKENESS, LIKENESS_CONFIG, read_reference
from experiments.doubt.scan_gate import Gate, open_gate
from experiments.doubt.verdict import headline, speaks
from lightning_modules.core.errors import ModelError
from lightning_modules.export.image import save_encoder
from lightning_modules.export.layout import SEAL
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder
from tests.tiny import CONTRACT, TinySource

ENCODER = EncoderConfig(depth=10, width=4)
AUGMENTATION = VolumeAugmentation(CONTRACT, AugmentationConfig(crop=(8, 10, 10)))


class BrightArterial(TinySource):
    """Patients whose arterial phase is brighter than the venous one, as kidneys are."""

    def load(self, patient_id, contract):  # type: ignore[no-untyped-def]
        record = super().load(patient_id, contract)
        shift = {"arterial": 90, "venous": 30}
        volumes = [replace(one, image=(one.image + shift[one.phase]).astype(np.int16)) for one in record.volumes]
        return replace(record, volumes=volumes)


def training_patients(cohort: Cohort) -> list[str]:
    """Those of the pretraining centres."""
    patients = cohort.patients()
    return list(patients.loc[(patients["role"] == "pretrain") & (patients["split"] == "train"), "patient_id"])


def trained_on(cohort: Cohort) -> TrainedOn:
    """The record of an encoder that has seen all of their volumes."""
    index = VolumeSet.find(cohort.root).index
    rows = index[index["patient_id"].isin(training_patients(cohort))]
    names = rows["patient_id"].astype(str).tolist()
    seen = TrainedOn.nobody().rows.iloc[:0]
    frame = seen.reindex(range(len(rows))).assign(patient=digests(names), volume=rows["crc32"].to_numpy(dtype=np.int64))
    return TrainedOn(frame)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Cohort, Gate]:
    """An exported encoder with its gate, and the cohort that it was trained on."""
    root = tmp_path_factory.mktemp("gate")
    build_cohort(BrightArterial(per_center=50), root / "tiny", CONTRACT, workers=1)
    cohort = Cohort.load(root / "tiny")
    torch.manual_seed(0)
    encoder = build_encoder(ENCODER).eval()
    save_encoder(root / "encoder", encoder, ENCODER, CONTRACT.to_dict(), "card")
    gate = open_gate(root / "encoder", encoder, AUGMENTATION, cohort, trained_on(cohort))
    assert gate.reference is not None
    assert gate.reference.kidneys == (2 * len(training_patients(cohort)), 36)
    return root / "encoder", cohort, gate


def kidneys(cohort: Cohort, role: str) -> list[ScanKidney]:
    """Kidneys of the centres of a role, as a scan gives them."""
    volumes = VolumeSet.find(cohort.root)
    patients = cohort.patients()
    chosen = volumes.index[volumes.index["patient_id"].isin(patients.loc[patients["role"] == role, "patient_id"])]
    found = []
    for (_, side), rows in chosen.groupby(["patient_id", "side"]):
        views = tuple(ScanView(row["phase"], volumes.read(row["position"])) for row in rows.to_dict("records"))
        found.append(ScanKidney(str(side), views, None, {}))
    return found


def changed(kidney: ScanKidney, **fields: object) -> ScanKidney:
    return replace(kidney, views=tuple(replace(view, **fields) for view in kidney.views))  # type: ignore[arg-type]


def test_untouched_scans_of_other_centres_are_within_and_every_fault_is_named(made: tuple[Path, Cohort, Gate]) -> None:
    _, cohort, gate = made
    found = kidneys(cohort, "external")
    inside = [gate.judge(kidney, "rendered") for kidney in found]
    assert np.mean([verdict.outside for verdict in inside]) < 0.12
    view = found[0].views[0]
    assert view.phase == "arterial"
    cut, metal = view.image.copy(), view.image.copy()
    cut[5:], metal[:, :, :9] = CONTRACT.pad_hu, 3000
    faults = {
        "intensities": changed(found[0], image=(view.image + 1024).astype(np.int16)),
        "noise": changed(found[0], image=(view.image // 4).astype(np.int16)),
        "phase": replace(found[0], views=(replace(view, phase="venous"),)),
        "edge": changed(found[0], image=cut),
        "dense bodies": changed(found[0], image=metal),
    }
    for name, kidney in faults.items():
        verdict = gate.judge(kidney, "rendered")
        said = {finding.check: finding for finding in verdict.findings}
        assert verdict.outside, name
        assert said[name].outside, name
        assert said[name].sentence in verdict.headline
        assert not speaks(verdict, outside_training=False)
    wrong = gate.judge(faults["phase"], "rendered")
    assert "said to be venous" in wrong.headline
    assert "most like arterial" in wrong.headline
    assert "1024" not in headline(inside[:1])
    assert speaks(wrong, outside_training=True)


def test_what_cannot_be_measured_is_asked_by_rules(made: tuple[Path, Cohort, Gate]) -> None:
    _, cohort, gate = made
    kidney = next(one for one in kidneys(cohort, "external") if not gate.judge(one, "rendered").outside)
    assert "phantoms with rendered intensities" in gate.judge(kidney).headline
    assert "phase is not known" in gate.judge(changed(kidney, phase=None), "rendered").headline
    far = changed(kidney, phase=None, image=(kidney.views[0].image + 1024).astype(np.int16))
    assert "like none of those in training" in gate.judge(far, "rendered").headline
    rare = gate.judge(replace(kidney, views=(replace(kidney.views[0], phase="delayed"),)), "rendered")
    assert f"fewer than {FEWEST} series of the phase delayed" in rare.headline
    assert gate.reference is not None
    assert gate.reference.facts.slice_mm is None
    facts = replace(gate.reference.facts, slice_mm=5.0)
    stating = replace(gate, reference=replace(gate.reference, facts=facts))
    assert "Slices are 10.0 mm thick" in stating.judge(changed(kidney, slice_mm=10.0), "rendered").headline
    assert not stating.judge(changed(kidney, slice_mm=5.0), "rendered").outside
    unknown = replace(gate, reference=None).judge(kidney, "rendered")
    assert unknown.outside
    assert "not known what the model learned from" in unknown.headline


def test_a_phase_that_nobody_stated_is_read_from_the_image_with_its_certainty(made: tuple[Path, Cohort, Gate]) -> None:
    _, cohort, gate = made
    right, sure = [], []
    for kidney in kidneys(cohort, "external"):
        hidden = changed(kidney, phase=None)
        for number, view in enumerate(kidney.views):
            assert gate.phase_of([kidney], number) is None  # stated
            found = gate.phase_of([hidden], number)
            assert found is not None
            if found["phase"] is None:
                continue  # unlike every phase
            right.append(found["phase"] == view.phase)
            sure.append(found["certainty"])
            assert hidden.with_phase(number, found["phase"]).views[number].phase == found["phase"]
    assert len(right) > 300
    assert np.mean(right) > 0.95
    assert np.mean(right) >= np.mean(sure) - 0.05
    strange = changed(kidney, phase=None, image=(kidney.views[0].image + 1024).astype(np.int16))
    assert gate.phase_of([strange], 0) == {"phase": None, "certainty": None, "read_from": "hounsfield units"}
    assert replace(gate, reference=None).phase_of([strange], 0) is None


def test_the_reference_is_read_again_and_belongs_to_its_weights(
    made: tuple[Path, Cohort, Gate], tmp_path: Path
) -> None:
    folder, cohort, gate = made
    again = open_gate(folder, gate.encoder, AUGMENTATION)
    for kidney in kidneys(cohort, "external")[:6]:
        assert again.judge(kidney) == gate.judge(kidney)
    assert again.reference is not None
    assert again.reference.facts == gate.reference.facts
    for name in (*(path.name for path in folder.iterdir()),):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    torch.manual_seed(1)
    save_encoder(tmp_path, build_encoder(ENCODER), ENCODER, CONTRACT.to_dict(), "card")
    assert read_reference(tmp_path) is None
    save_encoder(tmp_path, gate.encoder, ENCODER, CONTRACT.to_dict(), "card")
    assert read_reference(tmp_path) is not None
    (tmp_path / LIKENESS).write_bytes(b"no tensors")
    with pytest.raises(ModelError, match="is damaged"):
        read_reference(tmp_path)
    (tmp_path / LIKENESS).write_bytes((folder / LIKENESS).read_bytes())
    content = json.loads((folder / LIKENESS_CONFIG).read_text())
    (tmp_path / LIKENESS_CONFIG).write_text(json.dumps({**content, "facts": {**content["facts"], "dense_ml": 1e9}}))
    with pytest.raises(ModelError, match=rf"not as they were written.*delete {LIKENESS_CONFIG}"):
        read_reference(tmp_path)
    del content[SEAL]  # as of an export before there were seals
    for facts in ({"intensity": "rendered"}, {**content["facts"], "slice_mm": [1]}, {**content["facts"], "phantom": 0}):
        (tmp_path / LIKENESS_CONFIG).write_text(json.dumps({**content, "facts": facts}))
        with pytest.raises(ModelError, match="delete both files"):
            read_reference(tmp_path)


def test_no_threshold_of_nan_lets_a_kidney_pass(made: tuple[Path, Cohort, Gate], tmp_path: Path) -> None:
    """Nothing is above NaN. What is damaged is measured again where the cohort is here, and refused where not."""
    folder, cohort, gate = made
    shutil.copytree(folder, tmp_path / "encoder")
    assert gate.reference is not None
    replace(gate.reference, threshold=np.full(4, np.nan)).write(tmp_path / "encoder")
    with pytest.raises(ModelError, match="threshold is not finite"):
        open_gate(tmp_path / "encoder", gate.encoder, gate.augmentation)
    mended = open_gate(tmp_path / "encoder", gate.encoder, gate.augmentation, cohort, trained_on(cohort))
    assert mended.reference is not None
    np.testing.assert_array_equal(mended.reference.threshold, gate.reference.threshold)
    assert read_reference(tmp_path / "encoder") is not None


def test_no_patient_is_in_the_files(made: tuple[Path, Cohort, Gate]) -> None:
    folder, cohort, _ = made
    content = (folder / LIKENESS_CONFIG).read_bytes() + (folder / LIKENESS).read_bytes()
    assert not any(name.encode() in content for name in cohort["patients"]["patient_id"])


def test_too_small_a_cohort_gives_no_reference_and_says_so(
    tiny_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = build_encoder(ENCODER).eval()
    save_encoder(tmp_path, encoder, ENCODER, CONTRACT.to_dict(), "card")
    with caplog.at_level("INFO", "renal_suite"):
        gate = open_gate(tmp_path, encoder, AUGMENTATION, Cohort.load(tiny_root), TrainedOn.nobody())
    assert gate.reference is None
    assert not (tmp_path / LIKENESS).exists()
    assert "holds 0 kidneys that the encoder was trained on" in caplog.text


def test_distances_are_those_of_scipy_by_group() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, 3], [80, 60, 5])
    values = rng.normal(size=(145, 4)) @ rng.normal(size=(4, 4)) * [1, 100, 0.01, 5] + group[:, None]
    fitted = Gaussians.fit(values, group, 4)
    assert [fitted.known(number) for number in range(4)] == [True, True, False, False]
    kept = values[group != 3]
    scale = values.std(axis=0)
    for number in (0, 1):
        own = (kept[group[group != 3] == number] - fitted.mean[number]) / scale
        inverse = np.linalg.inv(LedoitWolf(assume_centered=True).fit(own).covariance_)
        expected = [mahalanobis(row / scale, fitted.mean[number] / scale, inverse) for row in values]
        np.testing.assert_allclose(np.sqrt(fitted.squares(values)[:, number]), expected, rtol=1e-8)
    assert np.isinf(fitted.squares(values)[:, 2:]).all()
    again = Gaussians.of_tensors(fitted.tensors("part"), "part")
    np.testing.assert_array_equal(again.squares(values), fitted.squares(values))


def test_the_checks_together_let_as_many_alarms_through_as_was_asked_and_each_its_part() -> None:
    rng = np.random.default_rng(1)

    def draw(count: int) -> np.ndarray:
        return np.column_stack([rng.normal(size=count), rng.standard_cauchy(count), rng.exponential(size=count) ** 3])

    limit = thresholds(draw(4000), 0.05)
    alarms = draw(40_000) > limit
    assert alarms.any(axis=1).mean() == pytest.approx(0.05, abs=0.012)
    np.testing.assert_allclose(alarms.mean(axis=0), 0.05 / 3, atol=0.008)
