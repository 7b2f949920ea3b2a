"""Radiomics are measured once, whatever interrupts them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.errors import DataError
from datamodules.volumes.shards import VolumeSet, shard_name
from experiments.encoders.radiomics import cache
from experiments.encoders.radiomics.cache import cache_file, radiomics_table
from experiments.runs.baseline import RadiomicsSettings

SETTINGS = RadiomicsSettings({"lesion": ["morphology", "statistics"], "kidney": ["statistics"]}, spacing_mm=0)


def _positions(volumes: VolumeSet, patients: int) -> list[int]:
    left = volumes.index[volumes.index["side"] == "left"]
    ids = sorted(left["patient_id"].unique())[:patients]
    return [int(value) for value in left.loc[left["patient_id"].isin(ids), "position"]]


def test_a_kidney_is_measured_once_in_any_order(lesion_root: Path, tmp_path: Path, measured: list) -> None:
    volumes = VolumeSet.find(lesion_root)
    positions = _positions(volumes, 3)
    table = radiomics_table(volumes, positions, tmp_path, SETTINGS)
    assert len(measured) == 3
    assert np.isfinite(table.to_numpy()).all()
    again = radiomics_table(volumes, [*positions[::-1], positions[0]], tmp_path, SETTINGS)
    assert len(measured) == 3
    pd.testing.assert_frame_equal(again.iloc[:-1], table.iloc[::-1])
    # The phases of a study share their mask, so its shape; what is measured in them differs.
    first = table.iloc[:2]
    assert first["lesion:morph_volume"].iloc[0] == first["lesion:morph_volume"].iloc[1]
    assert first["lesion:stat_mean"].iloc[0] != first["lesion:stat_mean"].iloc[1]
    # Other settings and other masks are other features.
    other = RadiomicsSettings(SETTINGS.masks, spacing_mm=0, bin_width_hu=10)
    assert cache_file(tmp_path, volumes, other) != cache_file(tmp_path, volumes, SETTINGS)
    before = cache_file(tmp_path, volumes, SETTINGS)
    path = next((volumes.folder / "masks").glob("*.npz"))
    whole = path.read_bytes()
    with np.load(path) as stored:
        labels = {name: stored[name] for name in stored.files}
    next(iter(labels.values()))[0, 0, 0] = 2  # of the same size on the disk, or not
    np.savez_compressed(path, **labels)  # type: ignore[arg-type]
    assert cache_file(tmp_path, volumes, SETTINGS) != before
    path.write_bytes(whole[:-40])
    with pytest.raises(DataError, match=r"Masks .* are damaged .* run `make import` again"):
        cache_file(tmp_path, volumes, SETTINGS)
    path.write_bytes(whole)


def test_what_was_measured_before_an_interruption_is_kept(
    lesion_root: Path, tmp_path: Path, measured: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    volumes = VolumeSet.find(lesion_root)
    positions = _positions(volumes, 4)
    whole = radiomics_table(volumes, positions, tmp_path / "whole", SETTINGS)
    measured.clear()
    counting = cache.visit_features

    def dying(volumes, visit, settings):  # type: ignore[no-untyped-def]
        if len(measured) == 2:
            raise KeyboardInterrupt
        return counting(volumes, visit, settings)

    with monkeypatch.context() as patch:
        patch.setattr(cache, "visit_features", dying)
        with pytest.raises(KeyboardInterrupt):
            radiomics_table(volumes, positions, tmp_path / "cut", SETTINGS)
    assert len(measured) == 2
    again = radiomics_table(volumes, positions, tmp_path / "cut", SETTINGS)
    assert len(measured) == 4
    assert len(set(measured)) == 4
    pd.testing.assert_frame_equal(again, whole)


@pytest.mark.slow
def test_processes_measure_the_same(lesion_root: Path, tmp_path: Path) -> None:
    volumes = VolumeSet.find(lesion_root)
    positions = _positions(volumes, 2)
    alone = radiomics_table(volumes, positions, tmp_path / "one", SETTINGS, workers=1)
    pd.testing.assert_frame_equal(radiomics_table(volumes, positions, tmp_path / "two", SETTINGS, workers=2), alone)


def test_a_missing_mask_is_missing_and_no_mask_at_all_is_refused(
    lesion_root: Path, tmp_path: Path, measured: list, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments.runs.console import configure_output

    configure_output()
    volumes = VolumeSet.find(lesion_root)
    positions = _positions(volumes, 2)
    lost = str(volumes.index.loc[volumes.index["position"] == positions[0], "patient_id"].iloc[0])
    (volumes.folder / "masks" / f"{shard_name(lost)}.npz").unlink()
    table = radiomics_table(volumes, positions, tmp_path, SETTINGS)
    assert table.iloc[:2].isna().all(axis=None)
    assert table.iloc[2:].notna().all(axis=None)
    assert f"2 of 4 volumes are not measured in full, the first: {lost}" in capsys.readouterr().out
    for path in (volumes.folder / "masks").glob("*.npz"):
        path.unlink()
    with pytest.raises(DataError, match="holds no masks"):
        radiomics_table(volumes, positions, tmp_path, SETTINGS)
