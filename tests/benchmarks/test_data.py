"""The data benchmark: its chains do the same work, a wrong one is refused, and its ratios are those of one round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.errors import DataError
from datamodules.files import read_json
from datamodules.volumes.contract import PreprocessingContract
from tests.benchmarks import checks
from tests.benchmarks.chains import ALL_AXES, REFERENCE, all_chains
from tests.benchmarks.data import RESULTS
from tests.benchmarks.data_page import draw, sentences
from tests.benchmarks.stored_forms import Material, make_material
from tests.benchmarks.timing import interleaved, summarize

CONTRACT = PreprocessingContract()


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return make_material(tmp_path_factory.mktemp("benchmark") / "material", 4, CONTRACT)


def test_both_forms_of_storage_hold_the_same_volumes(material: Material) -> None:
    volumes, (low, high) = material.open(), CONTRACT.window_hu
    for position in range(material.count):
        windowed = ((volumes.read(position).astype(np.float32) - low) / (high - low)).clip(0, 1)
        np.testing.assert_array_equal(np.load(material.array_path(position)), windowed)
    size = material.bytes_per_volume()
    assert size["int16_shard"] <= size["float32_npy"] / 2


def test_every_chain_gives_the_same_kind_of_output(material: Material) -> None:
    outputs = {name: chain([2, 0]) for name, chain in all_chains(material).items()}
    for name, output in outputs.items():
        assert output.shape == (2, 1, *ALL_AXES.crop), name
        assert output.dtype == torch.float32, name
        assert type(output) is torch.Tensor, name
        assert output.std() > 0.1, name
    apart = (outputs["torchio"] - outputs["ours: exact, three axes"]).abs() > 1e-3
    assert apart.float().mean() < 0.05
    torch.testing.assert_close(outputs["ours: default, batch of 1"], outputs["ours: default"])


def test_a_wrong_chain_is_refused(material: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    found = checks.check_chains(material)
    assert len(found) == 6
    monkeypatch.setattr(checks, "phantom", lambda contract, seed: np.zeros(contract.grid, np.int16))
    with pytest.raises(DataError, match="shard against what was written"):
        checks.check_chains(material)


def test_ratios_compare_times_of_one_round() -> None:
    rounds = [{"slow": (8.0, 4.0), "fast": (2.0, 2.0)}, {"slow": (80.0, 4.0), "fast": (10.0, 1.0)}]
    figures = summarize([*rounds, {"slow": (6.0, 4.0), "fast": (2.0, 2.0)}], 2, "slow")
    assert figures["fast"]["ratio_to_reference"] == 4
    assert figures["fast"]["ratio_range"] == [3, 8]
    assert figures["fast"]["ratio_to_reference_processor"] == 2
    assert figures["slow"]["ratio_to_reference"] == 1
    assert figures["fast"]["wall_ms_median"] == 1000


def test_rounds_begin_with_another_function_each_time() -> None:
    calls: list[str] = []
    results = interleaved({name: lambda name=name: calls.append(name) for name in "abc"}, 2)  # type: ignore[misc]
    assert "".join(calls) == "abc" + "abc" + "bca"
    assert [set(result) for result in results] == [set("abc")] * 2


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    results: dict[str, Any] = read_json(RESULTS)
    return results


def test_published_figures_are_of_a_full_run_and_reach_the_targets(published: dict[str, Any]) -> None:
    assert not published["quick"]
    chains = published["chains"]
    assert next(iter(chains)) == REFERENCE
    assert chains["ours: exact, three axes"]["ratio_to_reference"] >= 2
    assert chains["ours: default"]["ratio_to_reference"] >= 4
    assert published["storage"]["shard_share"] <= 0.5
    memory = published["worker_memory_mb"]["ours, int16 from the worker"]
    assert len(memory) == 20
    assert memory[-1]["own"] < 1.05 * memory[1]["own"]


def test_published_figures_can_be_drawn(published: dict[str, Any], tmp_path: Path) -> None:
    draw(published, tmp_path / "data.png")
    assert (tmp_path / "data.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert all("nan" not in sentence for sentence in sentences(published))
