"""`make doctor`: what of this machine and installation works, and how to fix what does not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from datamodules.errors import Finding

PACKAGES = (
    "torch",
    "lightning",
    "torchmetrics",
    "torchio",
    "monai",
    "transformers",
    "peft",
    "bitsandbytes",
    "pycox",
    "optuna",
    "mlflow",
    "litdata",
    "jsonargparse",
    "lifelines",
)
_NEEDED_GIB = 5
_WRONG_BF16 = (90800, 91100)
"""Versions of cuDNN from 9.8 to before 9.11, see github.com/pytorch/pytorch/issues/163539 and 166643."""


def check_python() -> Finding:
    """Python 3.11."""
    version = platform.python_version()
    if sys.version_info[:2] == (3, 11):
        return Finding("PASS", f"Python {version}", "Python")
    return Finding("FAIL", f"Python {version}", "Python", "3.11", "make the environment with Python 3.11")


def check_packages() -> Finding:
    """Every package of the stack is installed."""
    missing = []
    for name in PACKAGES:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding(
            "FAIL",
            f"not installed: {', '.join(missing)}",
            "packages",
            "the whole stack",
            f"run `make setup`, or without a checkout `pip install --no-deps {' '.join(missing)}`",
        )
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "lightning", "mlflow"))
    return Finding("PASS", f"{len(PACKAGES)} packages ({versions})", "packages")


def check_device() -> Finding:
    """GPU and the precision that suits it."""
    import torch

    from experiments.runs.trainer import auto_precision

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        return Finding("PASS", f"{names}; precision {auto_precision()}", "GPU")
    build = torch.version.cuda
    what = f"none visible to torch {torch.__version__}; precision {auto_precision()}, {torch.get_num_threads()} threads"
    if build is None or not shutil.which("nvidia-smi"):
        return Finding("PASS", what, "GPU")
    return Finding(
        "WARN", what, "GPU", "a working driver", "nvidia-smi is there: check driver and CUDA_VISIBLE_DEVICES"
    )


def check_known_faults() -> Finding:
    """Libraries that are known to compute wrongly together, or to ask for more memory than they need."""
    import torch

    from experiments.runs.trainer import auto_precision

    version = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    if version is None or auto_precision() != "bf16-mixed":
        return Finding("PASS", "no bf16 convolution is computed by cuDNN here", "known faults")
    shown = f"cuDNN {version // 10000}.{version // 100 % 100}"
    if _WRONG_BF16[0] <= version < _WRONG_BF16[1]:
        return Finding(
            "WARN",
            f"{shown} computes some 3D convolutions in bf16 wrongly, and takes three times their memory",
            "known faults",
            "cuDNN below 9.8, or 9.11 and later",
            "update torch, or train with --trainer.precision=16-mixed; `make gpu-check` tries yours",
        )
    return Finding("PASS", f"{shown} has no fault that is known here", "known faults")


def check_bitsandbytes() -> Finding:
    """4-bit quantisation runs."""
    import bitsandbytes.functional as quantisation
    import torch

    try:
        weight = torch.linspace(-1, 1, 4096).reshape(64, 64)
        packed, state = quantisation.quantize_4bit(weight, quant_type="nf4")
        error = (quantisation.dequantize_4bit(packed, state) - weight).abs().max().item()
    except (RuntimeError, AttributeError, OSError) as found:
        return Finding(
            "FAIL", f"nf4 failed ({found})", "bitsandbytes", "a round trip", "reinstall it with `make setup`"
        )
    if error > 0.2:
        return Finding(
            "FAIL", f"nf4 errs by {error:.2f}", "bitsandbytes", "below 0.2", "reinstall it with `make setup`"
        )
    return Finding("PASS", "nf4 quantises and restores", "bitsandbytes")


def check_disk(runs: Path) -> Finding:
    """Room for cohorts and runs."""
    folder = runs if runs.exists() else Path()
    free = shutil.disk_usage(folder).free / 2**30
    if free < _NEEDED_GIB:
        return Finding("WARN", f"{free:.1f} GiB free", "disk", f"at least {_NEEDED_GIB} GiB", "free some space")
    return Finding("PASS", f"{free:.0f} GiB free", "disk")


def check_store(runs: Path) -> Finding:
    """The MLflow store answers."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    from experiments.runs.tracking import store_client

    runs.mkdir(parents=True, exist_ok=True)
    try:
        count = len(store_client(runs).search_experiments())
    except (MlflowException, SQLAlchemyError) as error:
        reason = str(error).splitlines()[0]
        return Finding("FAIL", f"no answer ({reason})", "MLflow store", "an open store", "check MLFLOW_TRACKING_URI")
    where = "server" if os.environ.get("MLFLOW_TRACKING_URI") else "SQLite file in the runs folder"
    return Finding("PASS", f"{where} with {count} experiments", "MLflow store")


def check_data(data: Path) -> Finding:
    """The cohort's tables."""
    from datamodules.cohort.cohort import Cohort

    if not (data / "cohort.json").is_file():
        return Finding("WARN", "no cohort yet", f"cohort {data.name}", "a cohort", "run `make cohort` or `make import`")
    cohort, findings = Cohort.inspect(data)
    failed = [finding for finding in findings if finding.level == "FAIL"]
    if cohort is None or failed:
        return Finding("FAIL", f"{len(failed)} failures", f"cohort {data.name}", "none", "run `make data-check`")
    return Finding(
        "PASS", f"{len(cohort['patients'])} patients in {len(cohort['centers'])} centres", f"cohort {data.name}"
    )


def check_cohort_file(data: Path) -> Finding:
    """Whether there is a cohort, unread."""
    if (data / "cohort.json").is_file():
        return Finding("PASS", "is there, not read", f"cohort {data.name}")
    return Finding("WARN", "no cohort yet", f"cohort {data.name}", "a cohort", "run `make cohort` or `make import`")


def doctor(
    data: Path = Path("data/demo"),
    runs: Path = Path("runs"),
    out: Path | None = None,
    fast: bool = False,
    deep: bool = False,
) -> int:
    """Check Python, packages, GPU and precision, quantisation, disk, MLflow store and cohort.

    Args:
        data: Folder of the cohort.
        runs: Folder of all runs.
        out: JSON file for the findings.
        fast: Leave out what needs torch, MLflow or the cohort's tables: an answer in a second.
        deep: Run `gpu-check` afterwards, some minutes: every stage on this device, and how fast it is.

    Returns:
        1 when a finding is a FAIL, else 0.
    """
    checks: list[Callable[[], Finding]] = [check_python, check_packages, lambda: check_disk(runs)]
    if fast:
        checks.append(lambda: check_cohort_file(data))
    else:
        checks += [
            check_device,
            check_known_faults,
            check_bitsandbytes,
            lambda: check_store(runs),
            lambda: check_data(data),
        ]
    findings = [check() for check in checks]
    width = max(len(finding.where) for finding in findings)
    for finding in findings:
        fix = f"; {finding.fix}" if finding.fix else ""
        print(f"{finding.level}  {finding.where:{width}}  {finding.what}{fix}")
    if out is not None:
        from datamodules.files import write_json

        write_json(out, [finding.to_dict() for finding in findings])
    failed = any(finding.level == "FAIL" for finding in findings)
    if deep:
        from experiments.gpu_check.gpu_check import gpu_check

        failed = gpu_check() != 0 or failed
    return 1 if failed else 0
