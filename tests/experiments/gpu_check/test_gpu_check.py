"""`gpu-check` on a CPU: what can be checked is, and what needs a GPU is skipped by name; and it fails where it must."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import doctor
from experiments.gpu_check import check_results, computed, figures, gpu_check, ranks
from experiments.gpu_check.check_results import CheckResult
from experiments.gpu_check.gpu_check import CHECKS, run_checks, table
from experiments.gpu_check.subjects import STAGES, Sizes
from lightning_modules.core.precision import full_precision

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def found() -> dict[str, CheckResult]:
    """Every check but the slow ones, at the smallest sizes."""
    checks = [check for check in CHECKS if check not in (ranks.two_ranks, computed.compiled)]
    outcomes_ = run_checks(checks, CPU, 600, Sizes((16, 20, 20), 4, 8))
    assert len({outcome.name for outcome in outcomes_}) == len(outcomes_)
    return {outcome.name: outcome for outcome in outcomes_}


@pytest.mark.slow
def test_nothing_fails_on_a_cpu_and_what_needs_a_gpu_is_named(found: dict[str, CheckResult]) -> None:
    assert [outcome for outcome in found.values() if outcome.status == "FAIL"] == []
    for stage in STAGES:
        assert found[f"{stage}, float32"].status == "PASS"
        assert found[f"{stage}, bf16"].status == found[f"{stage}, fp16"].status == "skipped"
        assert found[f"host syncs, {stage}"].said == "needs a GPU"
    for name in ("channels last", "gradient cache", "resume", "out of memory", "nf4 QLoRA, tiny", "bf16 conv3d"):
        assert found[name].status == "PASS", found[name]
    assert found["stage 1, float32"].figures["volumes_s"] > 0
    assert 0 <= found["input path"].figures["waiting"] <= 1


@pytest.mark.slow
def test_two_ranks_and_a_traced_encoder() -> None:
    outcomes_ = run_checks([ranks.two_ranks, computed.compiled], CPU, 600, Sizes((16, 20, 20), 4, 8))
    status = {outcome.name: outcome.status for outcome in outcomes_}
    assert status == {
        "two ranks, classification": "PASS",
        "two ranks, alignment": "PASS",
        "SyncBatchNorm": "skipped",
        "torch.compile, resnet": "PASS",
        "torch.compile, regions": "PASS",
    }


def test_a_wrong_gradient_cache_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make = computed.alignment

    def wrong(device: torch.device, sizes: Sizes, base: Path, micro_batch: int | None = None) -> Any:
        subject = make(device, sizes, base, micro_batch)
        if micro_batch is not None:
            subject.batch["image"] = subject.batch["image"].flip(0)
        return subject

    monkeypatch.setattr(computed, "alignment", wrong)
    (outcome,) = run_checks([computed.gradient_cache], CPU, 60, Sizes((8, 12, 12), 4, 8))
    assert outcome.status == "FAIL"


def test_a_convolution_that_is_wrong_in_bf16_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    conv3d = torch.nn.functional.conv3d

    def wrong(image: torch.Tensor, weight: torch.Tensor, **options: Any) -> torch.Tensor:
        result = conv3d(image, weight, **options)
        return result.roll(1, dims=2) if image.dtype == torch.bfloat16 else result

    monkeypatch.setattr(computed.functional, "conv3d", wrong)
    found = run_checks([computed.bf16_convolution], CPU, 60)
    assert [outcome.status for outcome in found] == ["FAIL", "FAIL"]


def _breaks(device: torch.device, sizes: Sizes, base: Path) -> Iterator[CheckResult]:
    yield check_results.judged("begun", True, "fine")
    raise RuntimeError("CUDA error: no kernel image is available")


def test_a_check_that_breaks_has_failed_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "CHECKS", (_breaks, figures.out_of_memory))
    out = tmp_path / "found.json"
    assert gpu_check.gpu_check(out, "cpu") == 1
    content = json.loads(out.read_text())
    assert [row["status"] for row in content["checks"]] == ["PASS", "FAIL", "PASS"]
    assert "no kernel image" in content["checks"][1]["said"]
    assert "device_batch" in content["checks"][2]["said"]
    assert "2 passed, 1 failed, 0 skipped" in capsys.readouterr().out
    page = table({"this": content, "another": None})
    assert page == (tmp_path / "found.md").read_text().replace("| CPU, ", "| CPU, ") or "| another |" in page
    assert page.splitlines()[0] == "| check | this | another |"
    assert all(line.endswith("|  |") for line in page.splitlines()[2:])


def test_what_there_is_no_time_for_is_named() -> None:
    (outcome,) = run_checks([figures.quantised], CPU, 0)
    assert (outcome.name, outcome.status) == ("quantised", "skipped")
    assert "MINUTES=" in outcome.said


def test_the_plan_of_an_8_b_base_is_what_qlora_reports() -> None:
    # Dettmers et al. give 5 GB for the weights of LLaMA 7B with double quantisation; Llama 3's vocabulary adds 1 GB.
    assert 4.3 < figures.planned_gib(figures.LANGUAGE_MODELS["8 B"], 16) < 5.2


@pytest.mark.parametrize(
    ("cudnn", "capability", "level"),
    [(90701, 8, "PASS"), (90800, 8, "WARN"), (91002, 9, "WARN"), (91100, 9, "PASS"), (90800, 7, "PASS")],
)
def test_doctor_knows_which_cudnn_computes_bf16_wrongly(
    cudnn: int, capability: int, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=0: (capability, 0))
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: cudnn)
    finding = doctor.check_known_faults()
    assert finding.level == level
    assert (f"cuDNN 9.{cudnn // 100 % 100}" in finding.what) == (capability >= 8)


def test_a_stage_that_is_not_finite_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(device: torch.device, sizes: Sizes, base: Path) -> Any:
        subject = STAGES["classification"](device, sizes, base)
        with full_precision(device):
            subject.batch["image"][0, 0, 0, 0, 0] = float("nan")
        return subject

    monkeypatch.setattr(computed, "STAGES", {"classification": broken})
    (outcome,) = run_checks([computed.stages_in_float32], CPU, 60, Sizes((8, 12, 12), 4, 8))
    assert outcome.status == "FAIL"
