"""Layers of a configuration, in their order, parsed once."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.registry import compose
from experiments.runs import configuration as module
from experiments.runs.configuration import Configuration, datamodule_of
from experiments.runs.suite_cli import SuiteCLI

NAMES = {"profile": "demo", "encoder": "scratch", "task": "malignancy"}


def test_each_layer_is_over_those_before_it(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("optimizer: {lr: 0.2}\n")
    bare = Configuration.of("finetune", values={"data.init_args.root": "x"}, **NAMES)
    axes = [path.parent.name for path in bare.files]
    assert axes == ["configs", "profile", "stage", "finetune", "encoder", "task"]
    given = bare.resolved()["optimizer"]["lr"]
    valued = bare.over(values={"optimizer.lr": 0.1})
    filed = valued.over(flags=[f"--config={file}"])
    flagged = filed.over(flags=["--optimizer.lr=0.3"])
    rates = [found.resolved()["optimizer"]["lr"] for found in (bare, valued, filed, flagged)]
    assert rates == [given, 0.1, 0.2, 0.3]
    assert given not in rates[1:]


def test_a_later_file_wins_over_an_earlier_one(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("optimizer: {lr: 0.2, weight_decay: 0.5}\n")
    second.write_text("optimizer: {lr: 0.4}\n")
    files = (*compose("finetune", **NAMES), first, second)
    found = Configuration(files, {"data.init_args.root": "x"}).resolved()["optimizer"]
    assert (found["lr"], found["weight_decay"]) == (0.4, 0.5)


def test_a_value_of_none_is_left_out() -> None:
    configuration = Configuration.of("finetune", values={"data.init_args.fold": None, "run_dir": "y"}, **NAMES)
    assert configuration.arguments()[-1] == "--run_dir=y"
    assert not any("fold" in argument for argument in configuration.arguments())


def test_it_is_parsed_once_and_built_anew(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []

    class Counted(SuiteCLI):
        def parse_arguments(self, *arguments: object) -> None:
            parsed.append(1)
            super().parse_arguments(*arguments)

    monkeypatch.setattr(module, "SuiteCLI", Counted)
    values = {"data.init_args.root": tiny_root, "contract.grid": [8, 12, 12], "augmentation.crop": [8, 10, 10]}
    configuration = Configuration.of("finetune", values=values, **NAMES)
    configuration.resolved()
    first, second = configuration.build(), configuration.build()
    assert datamodule_of(configuration).label.name == "malignancy"
    assert parsed == [1]
    assert first.model is not second.model
    assert first.datamodule is not second.datamodule
    for (name, one), other in zip(first.model.state_dict().items(), second.model.state_dict().values(), strict=True):
        assert one.equal(other), name
