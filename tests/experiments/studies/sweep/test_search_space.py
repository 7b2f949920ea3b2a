"""Search spaces: what is read, what is refused, and what is said of an optimum at an edge."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from datamodules.errors import DataError
from experiments.runs.configuration import Configuration
from experiments.studies.sweep.search_space import SPACES, check_space, contains, edges, flags, nested, read_space

LR = {"type": "float", "low": 1.0e-4, "high": 1.0e-2, "log": True}


def _parsed(task: str, extra: list[str]) -> dict[str, Any]:
    values = {"data.init_args.root": "x"}
    return Configuration.of(
        "finetune", profile="demo", encoder="scratch", task=task, values=values, flags=extra
    ).resolved()


def _written(tmp_path: Path, content: object) -> str:
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in SPACES.glob("*.yaml")))
def test_every_space_is_taken_by_the_parser(name: str) -> None:
    space = read_space(name)
    own = check_space(space, partial(_parsed, "rfs"))
    assert own["optimizer.lr"] == 1e-3
    if name != "pretrained":  # its rate of the backbone is unset by default
        assert all(contains(found, own[path]) for path, found in space.distributions.items())


@pytest.mark.parametrize(
    ("path", "node", "message"),
    [
        ("optimizer.learning_rate", LR, "the parser knows no optimizer.learning_rate"),
        ("optimizer.wamup", LR, "Did you mean optimizer.warmup?"),
        (
            "model.init_args.balance",
            {"type": "categorical", "choices": ["root", "none"]},
            "knows no model.init_args.balance",
        ),
        (
            "model.init_args.ties",
            {"type": "categorical", "choices": ["efron", "cox"]},
            "refuses model.init_args.ties = cox",
        ),
        ("model.init_args.hidden", LR, "the parser refuses model.init_args.hidden"),
        ("data.init_args.fraction", LR, "data.init_args.fraction may not be searched"),
        ("data.init_args.label.name", LR, "may not be searched"),
        ("contract.grid", LR, "may not be searched"),
        ("model.class_path", {"type": "categorical", "choices": ["os.system", "b"]}, "may not be searched"),
        ("model.init_args.pretrained", {"type": "categorical", "choices": ["a", "b"]}, "may not be searched"),
        ("trainer.limit_val_batches", LR, "may not be searched"),
        ("optimizer.lr", {"low": 0.0, "high": 1.0}, "a mapping with type float, int or categorical"),
        ("optimizer.lr", {"type": "float", "low": 0.0}, "expected high, low"),
        ("optimizer.lr", {"type": "float", "low": 0.0, "high": 1.0, "size": 3}, "at most log, step besides"),
        ("optimizer.lr", {"type": "float", "low": 0.0, "high": 1.0, "log": True}, "with log: true, low above 0"),
        ("optimizer.lr", {"type": "float", "low": 1.0, "high": 0.1}, "expected low < high"),
        ("optimizer.lr", {"type": "float", "low": "1e-4", "high": 0.1}, "write 1.0e-4, not 1e-4"),
        (
            "optimizer.warmup",
            {"type": "float", "low": 0.0, "high": 1.0, "step": 0.3},
            "a step that leads from low to high",
        ),
        ("model.init_args.hidden", {"type": "int", "low": 0.5, "high": 2}, "finite numbers of type int"),
        ("model.init_args.hidden", {"type": "categorical", "choices": [64]}, "at least two choices"),
        ("model.init_args.hidden", {"type": "categorical", "choices": [[1], [2]]}, "at least two choices"),
    ],
)
def test_a_bad_space_is_refused(tmp_path: Path, path: str, node: object, message: str) -> None:
    with pytest.raises(DataError) as refused:
        check_space(read_space(_written(tmp_path, {path: node})), partial(_parsed, "rfs"))
    assert message in str(refused.value)


def test_an_empty_or_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        read_space(_written(tmp_path, {}))
    with pytest.raises(DataError, match="does not exist"):
        read_space(str(tmp_path / "none.yaml"))


def test_values_become_flags_and_a_file_of_the_same_configuration(tmp_path: Path) -> None:
    values = {"optimizer.lr": 1e-05, "model.init_args.hidden": 0, "model.init_args.objective": "deephit"}
    values |= {"optimizer.backbone_lr": None}
    path = tmp_path / "best.yaml"
    path.write_text(yaml.safe_dump(nested(values)))
    by_flags, by_file = _parsed("rfs", flags(values)), _parsed("rfs", [f"--config={path}"])
    assert by_flags == by_file
    assert by_file["optimizer"]["lr"] == 1e-05
    assert by_file["model"]["init_args"]["objective"] == "deephit"


def test_an_optimum_at_an_edge_is_said(tmp_path: Path) -> None:
    nodes = {
        "optimizer.lr": LR,
        "optimizer.weight_decay": {"type": "float", "low": 0.0, "high": 1.0},
        "trainer.max_epochs": {"type": "int", "low": 1, "high": 100},
        "model.init_args.hidden": {"type": "categorical", "choices": [0, 64]},
    }
    space = read_space(_written(tmp_path, nodes))
    inside = {
        "optimizer.lr": 2e-4,
        "optimizer.weight_decay": 0.5,
        "trainer.max_epochs": 50,
        "model.init_args.hidden": 0,
    }
    assert edges(space, inside) == []
    found = edges(space, inside | {"optimizer.lr": 9.9e-3, "trainer.max_epochs": 1})
    assert len(found) == 2
    assert "The best optimizer.lr = 0.0099 stands at the upper edge of its range (0.01)" in found[0]
    assert "trainer.max_epochs = 1 stands at the lower edge" in found[1]


def test_what_could_be_drawn() -> None:
    steps, whole = FloatDistribution(0.0, 0.3, step=0.1), IntDistribution(1, 9)
    assert [contains(steps, value) for value in (0.0, 0.1, 0.3, 0.15, 0.4)] == [True, True, True, False, False]
    assert [contains(whole, value) for value in (1, 9, 0, None, True)] == [True, True, False, False, False]
    assert [contains(CategoricalDistribution([0, "a", None]), v) for v in (0, "a", None, False)] == [
        True,
        True,
        True,
        False,
    ]
