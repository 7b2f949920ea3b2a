"""The figures of a quality sheet: equality with NumPy, counts that add up, and faults that are found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from datamodules.cohort.cohort import Cohort
from datamodules.importers.builder import build_cohort
from datamodules.importers.records import PatientRecord
from datamodules.quality.volume_figures import ALL_PHASES, Intensities, Quality, joined, measure
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.shards import VolumeSet
from tests.tiny import CONTRACT, TinySource


@dataclass(frozen=True)
class BodySource(TinySource):
    """The tiny cohort with enhanced kidneys in fat, and a fault in centre P1."""

    fault: str = ""

    @property
    def fingerprint(self) -> str:
        return self.fault

    def load(self, patient_id: str, contract: PreprocessingContract) -> PatientRecord:
        record = super().load(patient_id, contract)
        kidney = {mask.side: mask.labels > 0 for mask in record.masks}
        volumes = []
        for volume in record.volumes:
            image = np.where(kidney[volume.side], 150, -100) + volume.image // 4
            image[:, :2] += 150  # muscle
            if patient_id.startswith("P1"):
                image = self._spoilt(image, kidney[volume.side], contract.pad_hu)
            volumes.append(replace(volume, image=image.astype(np.int16)))
        return replace(record, volumes=volumes)

    def _spoilt(self, image: np.ndarray, kidney: np.ndarray, pad_hu: int) -> np.ndarray:
        faults = {"unscaled": image + 1024, "inverted": -image, "padded": np.where(kidney, image, pad_hu)}
        return faults[self.fault]


def quality_of(root: Path, **options: int) -> Quality:
    return measure(Cohort.load(root), VolumeSet.find(root), **options)


def test_percentiles_and_shares_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    images = [rng.normal(-50, 200, (8, 10, 10)).astype(np.int16) for _ in range(3)]
    images[0][0] = -1000
    parts = [Intensities(), Intensities()]
    for image, part in zip(images, (parts[0], parts[1], parts[1]), strict=True):
        part.add(image, None, -1000)
    total = joined(parts)
    inside = np.concatenate([image[image != -1000] for image in images])
    for percent in (1, 50, 99):
        assert total.percentile(percent) == np.percentile(inside, percent, method="inverted_cdf")
    assert (total.voxels, total.padding, total.volumes, total.cut, total.constant) == (2400, 100, 3, 1, 0)
    edges = np.arange(-600, 601, 10)
    expected = np.histogram(inside, np.append(edges[:-1], edges[-1]) - 0.5)[0] / len(inside)
    np.testing.assert_allclose(total.densities(edges), expected)
    assert Intensities().percentile(50) is None


def test_a_constant_volume_is_counted() -> None:
    found = Intensities()
    found.add(np.full((4, 4, 4), 40, np.int16), None, -1000)
    found.add(np.full((4, 4, 4), -1000, np.int16), None, -1000)
    assert found.constant == 2


def test_the_table_adds_up_to_the_cohort(tiny_root: Path) -> None:
    cohort, volumes = Cohort.load(tiny_root), VolumeSet.find(tiny_root)
    calls: list[tuple[int, int]] = []
    found = measure(cohort, volumes, progress=lambda done, total: calls.append((done, total)))
    table = found.table
    whole, parts = table[table["phase"] == ALL_PHASES], table[table["phase"] != ALL_PHASES]
    assert whole["patients"].sum() == len(cohort["patients"])
    assert whole["kidneys"].sum() == len(cohort["kidneys"])
    assert whole["volumes"].sum() == parts["volumes"].sum() == len(volumes)
    assert whole["volumes_read"].sum() == found.read == len(volumes)
    assert calls == [(number, len(volumes)) for number in range(1, len(volumes) + 1)]
    assert table["spacing_d_median_mm"].isna().all()
    assert found.extent == f"all {len(volumes)} volumes"


def test_a_sample_is_seeded_and_says_what_it_is(tiny_root: Path) -> None:
    one, again, other = (quality_of(tiny_root, per_group=3, seed=seed) for seed in (1, 1, 2))
    assert one.read == 3 * 2 * 5
    assert one.extent == "30 of 240 volumes, at most 3 a centre and phase"
    assert one.table.equals(again.table)
    assert not one.table.equals(other.table)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "flags"),
    [
        ("unscaled", ["no fat", "unscaled?", "shifted?", "expected 50 to 300"]),
        ("inverted", ["inverted?", "expected 50 to 300"]),
        ("padded", ["% padding"]),
    ],
)
def test_a_planted_fault_is_flagged_and_clean_centres_are_not(tmp_path: Path, fault: str, flags: list[str]) -> None:
    build_cohort(BodySource(fault=fault), tmp_path / "bodies", CONTRACT, workers=1)
    found = quality_of(tmp_path / "bodies")
    stated = "; ".join(found.flags("P1"))
    assert stated.startswith("arterial: ")
    assert [flag for flag in flags if flag not in stated] == []
    assert ("inverted?" in stated) == (fault == "inverted")
    assert [flag for center in ("I1", "I2", "E1", "E2") for flag in found.flags(center)] == []


def test_damaged_and_absent_volumes_are_flagged(tiny_copy: Path) -> None:
    volumes = VolumeSet.find(tiny_copy)
    first = volumes.index.iloc[0]
    shard = volumes.folder / "shards" / str(first["shard"])
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(bytes(content))
    volumes.index = volumes.index[volumes.index["patient_id"] != "E2-003"]
    found = measure(Cohort.load(tiny_copy), volumes)
    assert any("1 damaged volumes" in flag for flag in found.flags("P1"))
    assert "1 patients without a volume" in found.flags("E2")
