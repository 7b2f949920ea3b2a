"""Commands beside the work: the page of all runs, the picture of a phantom, what the hot paths cost."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

from datamodules.errors import DataError
from experiments.front_door.commands import ROOT


def ui(runs: Path = Path("runs"), port: int = 5000) -> int:
    """Open MLflow on the runs: http://localhost:PORT. A link for each task with a curve opens its chart.

    Args:
        runs: Folder of all runs.
        port: Port of the page.
    """
    store = f"sqlite:///{runs.absolute()}/mlflow.db"
    if (runs / "mlflow.db").is_file():
        from experiments.front_door.curve_links import curve_links

        for name, link in curve_links(store, port).items():
            print(f"Curves of {name}: {link}", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store, "--port", str(port)]
    # Its jobs judge chat models; without them four processes fewer are started, and nothing of a training is missed.
    return subprocess.call(command, env={"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ})


def figure(
    data: Path = Path("data/demo"), patient: str | None = None, out: Path = Path("docs/demo_patient.png")
) -> int:
    """Draw a patient of the phantom cohort: four phases with the lesion outlined.

    Args:
        data: Folder of the phantom cohort.
        patient: Patient; one with four phases and a well visible lesion by default.
        out: Picture to write.
    """
    from experiments.cohorts.phantom_figure import demo_figure

    demo_figure(data, patient, out)
    return 0


def benchmarks(bench: str = "data", quick: bool = False, out: Path | None = None) -> int:
    """Measure a hot path side by side in one run, and say what bounds it.

    Args:
        bench: Which one: data, train, contrastive, onnx.
        quick: A few repeats only; the figures are then rough.
        out: JSON file for every figure; by default beside the benchmark's code.
    """
    from experiments.registry import BENCHMARKS, choose

    name = BENCHMARKS[choose("BENCH", bench, dict(BENCHMARKS))]
    if not (ROOT / "tests" / "benchmarks").is_dir():
        raise DataError("The benchmarks stand beside the tests and are not installed; measure in a checkout.")
    sys.path.insert(0, str(ROOT))  # a package that somebody installed may bring a `tests` of its own
    module = importlib.import_module(name)
    module.run(quick=quick, **({} if out is None else {"out": out}))
    return 0
