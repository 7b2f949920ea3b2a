"""No warning is suppressed without a reason: what a library warns of is computed otherwise, checked, or said."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import numpy as np
import pytest

from experiments.pretraining.evaluation.attribute_probe import probe_scores

ROOT = Path(__file__).parents[1]
SUPPRESSING = ("simplefilter", "filterwarnings", "errstate", "seterr", "suppress_warnings")
ALLOWED = {
    ("callbacks/pruning.py", "filterwarnings"): "an epoch that is run again keeps its first report, which is the same",
    (
        "datamodules/importers/dicom/values.py",
        "simplefilter",
    ): "records all, and says that there were some",
    ("datamodules/cohort/labels.py", "filterwarnings"): "the cuts that are returned are made unique, as documented",
    (
        "experiments/gpu_check/computed.py",
        "simplefilter",
    ): "records all, and counts waits for the device",
    (
        "lightning_modules/export/onnx_encoder.py",
        "simplefilter",
    ): "the exporter warns of its own parts; what it wrote is compared with torch",
    ("experiments/runs/console.py", "filterwarnings"): "a list of messages, each of which the suite does on purpose",
    (
        "experiments/encoders/radiomics/extract.py",
        "filterwarnings",
    ): "a feature that is not defined becomes NaN and is counted",
    ("experiments/studies/sweep/sampler.py", "simplefilter"): "optuna calls what it offers experimental",
    ("experiments/studies/sweep/storage.py", "simplefilter"): "optuna calls what it offers experimental",
    ("lightning_modules/networks/text/adapters.py", "filterwarnings"): "peft deprecates what only itself calls",
}
"""File and function of every suppression, and why nothing is lost by it."""


def _suppressions(path: Path) -> set[str]:
    calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    names = {call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "") for call in calls}
    return names & set(SUPPRESSING)


def test_every_suppression_of_a_warning_has_its_reason() -> None:
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    found = {
        (name, call)
        for name in files.stdout.split()
        if not name.startswith("tests/")
        for call in _suppressions(ROOT / name)
    }
    assert not found - set(ALLOWED), "compute without the warning, or check what it warns of and give the reason here"
    assert set(ALLOWED) <= found


def test_a_certain_probe_gives_finite_log_probabilities() -> None:
    """scikit-learn's predict_log_proba warns of a division by zero and gives minus infinity."""
    rng = np.random.default_rng(0)
    code = (np.arange(60) % 2)[:, None]
    features = rng.normal(size=(60, 3)) + 10.0 * code
    far = np.array([[1e6, 1e6, 1e6], [-1e6, -1e6, -1e6]])
    scores = probe_scores(features, code, far, [2])
    assert np.isfinite(scores).all()
    assert scores.argmax(axis=1).tolist() == [1, 0]
    three = probe_scores(np.r_[features, features[:30] + 30.0], np.r_[code, np.full((30, 1), 2)], far, [3])
    assert np.isfinite(three).all()
    np.testing.assert_allclose(np.exp(three).sum(axis=1), 1.0)


@pytest.mark.parametrize(
    "name", ["pretraining/evaluation/attribute_probe.py", "statistics/bootstrap.py", "statistics/concordance.py"]
)
def test_the_walk_sees_what_it_looks_for(name: str, tmp_path: Path) -> None:
    source = (ROOT / "experiments" / name).read_text(encoding="utf-8")
    (tmp_path / "file.py").write_text(f"{source}\nwith np.errstate(invalid='ignore'):\n    pass\n", encoding="utf-8")
    assert _suppressions(tmp_path / "file.py") == {"errstate"}
