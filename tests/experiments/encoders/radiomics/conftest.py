"""A cohort whose kidneys hold lesions."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def lesion_root(tiny_copy: Path) -> Path:
    """The tiny cohort with a lesion in every left kidney, whose size differs between patients."""
    for number, path in enumerate(sorted(tiny_copy.glob("volumes/*/masks/*.npz"))):
        with np.load(path) as stored:
            maps = {name: stored[name].copy() for name in stored.files}
        for name, labels in maps.items():
            if name.endswith("left"):
                labels[2:6, 4 : 7 + number % 3, 4:9] = 2
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **maps)
        path.write_bytes(buffer.getvalue())
    for path in tiny_copy.glob("volumes/*/files.parquet"):
        path.unlink()  # as of a cohort that was made before there were checksums
    return tiny_copy


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Patient and side of every kidney that is measured, one process."""
    from experiments.encoders.radiomics import cache

    calls: list[tuple[str, str]] = []
    real = cache.visit_features

    def counting(volumes, visit, settings):  # type: ignore[no-untyped-def]
        calls.append((visit.patient_id, visit.side))
        return real(volumes, visit, settings)

    monkeypatch.setattr(cache, "visit_features", counting)
    monkeypatch.setattr(cache, "default_workers", lambda: 1)
    return calls
