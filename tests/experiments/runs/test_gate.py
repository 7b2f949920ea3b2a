"""Hostile configurations: whatever they name, nothing of it is run, and each ends in one sentence with exit code 2."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from datamodules.errors import DataError
from datamodules.plain_yaml import DEEPEST, MOST_NODES, parse_yaml
from experiments.cli import main
from experiments.registry import compose
from experiments.runs.gate import allowed

ROOT = Path(__file__).parents[3]
_FILES = compose("finetune", profile="demo", encoder="scratch", task="malignancy")
_LAMBDA = "lightning.pytorch.callbacks.LambdaCallback"
_STOPPING = "lightning.pytorch.callbacks.EarlyStopping"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, on the module search path, with a module that leaves a file when anything imports it."""
    code = (
        "from pathlib import Path\n"
        "Path(__file__).with_name('RAN').touch()\n"
        "from lightning.pytorch import Callback, LightningDataModule, LightningModule\n"
        "class E(Callback): pass\n"
        "class M(LightningModule): pass\n"
        "class D(LightningDataModule): pass\n"
        "def f(*_): pass\n"
    )
    (tmp_path / "evil_module.py").write_text(code)
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({"class_path": "evil_module.E"}))
    (tmp_path / "others.yaml").write_text(yaml.safe_dump([{"class_path": "evil_module.E"}]))
    (tmp_path / "nested.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": str(tmp_path / "other.yaml")}}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("evil_module", None)  # of a test before this one
    assert importlib.util.find_spec("evil_module") is not None  # it could be imported
    return tmp_path


def _bomb(levels: int = 9) -> str:
    names = [f"n{level}" for level in range(levels)]
    lines = [f"{names[0]}: &{names[0]} [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in pairwise(names)]
    return "\n".join(lines)


CONFIGS: dict[str, object] = {
    "class in a list": {"trainer": {"callbacks": [{"class_path": "evil_module.E"}]}},
    "class in a list, short": {"trainer": {"callbacks": ["evil_module.E"]}},
    "class alone": {"trainer": {"callbacks": "evil_module.E"}},
    "class added": {"trainer": {"callbacks+": "evil_module.E"}},
    "list added": {"trainer": {"callbacks+": [{"class_path": "evil_module.E"}]}},
    "file in the place of a class": {"trainer": {"callbacks": "other.yaml"}},
    "file of a list": {"trainer": {"callbacks": "others.yaml"}},
    "file added": {"trainer": {"callbacks+": "other.yaml"}},
    "file in a list": {"trainer": {"callbacks": ["other.yaml"]}},
    "function of a callable": {
        "trainer": {"callbacks": [{"class_path": _LAMBDA, "init_args": {"on_fit_start": "evil_module.f"}}]}
    },
    "callable by its short name": {
        "trainer": {"callbacks": [{"class_path": "LambdaCallback", "init_args": {"on_fit_start": "evil_module.f"}}]}
    },
    "function in the averaging": {
        "trainer": {
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.StochasticWeightAveraging",
                    "init_args": {"swa_lrs": 0.1, "avg_fn": "evil_module.f"},
                }
            ]
        }
    },
    "model": {"model": {"class_path": "evil_module.M"}},
    "model, short": {"model": "evil_module.M"},
    "data": {"data": {"class_path": "evil_module.D"}},
    "logger": {"trainer": {"logger": {"class_path": "evil_module.E"}}},
    "loggers": {"trainer": {"logger": [{"class_path": "evil_module.E"}]}},
    "strategy": {"trainer": {"strategy": {"class_path": "evil_module.E"}}},
    "strategy, short": {"trainer": {"strategy": "evil_module.E"}},
    "profiler": {"trainer": {"profiler": {"class_path": "evil_module.E"}}},
    "profiler, short": {"trainer": {"profiler": "evil_module.E"}},
    "plugin": {"trainer": {"plugins": ["evil_module.E"]}},
    "accelerator": {"trainer": {"accelerator": "evil_module.E"}},
    "hook of a strategy": {
        "trainer": {
            "strategy": {
                "class_path": "lightning.pytorch.strategies.DDPStrategy",
                "init_args": {"ddp_comm_hook": "evil_module.f"},
            }
        }
    },
    "free arguments": {
        "trainer": {
            "callbacks": [
                {
                    "class_path": _STOPPING,
                    "init_args": {"monitor": "val/auroc"},
                    "dict_kwargs": {"f": {"class_path": "evil_module.E"}},
                }
            ]
        }
    },
    "the standard library": {
        "trainer": {"callbacks": [{"class_path": "subprocess.Popen", "init_args": {"args": "id"}}]}
    },
    "by way of the suite": {"trainer": {"callbacks": [{"class_path": "experiments.runs.tracking.subprocess.Popen"}]}},
    "by way of an allowed class": {"trainer": {"callbacks": [f"{_STOPPING}.__init__.__globals__"]}},
    "a callback of the suite that no configuration may set": {"trainer": {"callbacks": ["callbacks.requeue.Requeue"]}},
    "a new file among the suite's": {"trainer": {"callbacks": ["callbacks.evil_module.E"]}},
    "type expression": {"data": {"class_path": "datamodules.RoiDataModule", "init_args": {"label": "evil_module.f"}}},
    "text that is YAML": {"trainer": {"callbacks": "[{class_path: evil_module.E}]"}},
    "path of a file": {"trainer": {"callbacks": [{"class_path": "evil_module.E", "__path__": "other.yaml"}]}},
    "address": {"trainer": {"callbacks": "http://127.0.0.1:9/other.yaml"}},
    "endless file": {"trainer": {"callbacks": "/dev/zero"}},
}
RAW: dict[str, str] = {
    "tag that calls": "seed_everything: !!python/object/apply:evil_module.f []",
    "tag that names": "trainer: {callbacks: !!python/name:evil_module.E ''}",
    "tag that imports": "trainer: {callbacks: !!python/module:evil_module ''}",
    "bomb": _bomb(),
    "bomb in a text": "trainer: {callbacks: '{" + _bomb().replace("\n", ", ") + "}'}",
    "bomb of merged mappings": "a: &a {k: v}\n"
    + "\n".join(
        f"{b}: &{b} {{<<: [{', '.join([f'*{a}'] * 10)}]}}" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "alias within itself": "trainer: &a {callbacks: [*a]}",
    "depth": "trainer: " + "[" * 5000 + "]" * 5000,
    "length": "trainer: {callbacks: [" + ", ".join(["evil_module.E"] * 50_000) + "]}",
    "number": "seed_everything: " + "9" * 5000,
    "no text": "\xff\xfe\x00",
    "one key twice": "seed_everything: 1\nseed_everything: 2",
    "one key twice, deep": "trainer: {limit_val_batches: 1, max_epochs: 1, limit_val_batches: 2}",
    "two documents": "seed_everything: 1\n---\nseed_everything: 2",
}
FLAGS: dict[str, list[str]] = {
    "flag": ["--trainer.callbacks=evil_module.E"],
    "flag, added": ["--trainer.callbacks+=evil_module.E"],
    "flag, list": ["--trainer.callbacks=[evil_module.E]"],
    "flag, apart": ["--trainer.callbacks", "evil_module.E"],
    "flag, file": ["--trainer.callbacks=other.yaml"],
    "flag, function": [f"--trainer.callbacks+={_LAMBDA}", "--trainer.callbacks.on_fit_start=evil_module.f"],
    "flag, class": ["--model.class_path=evil_module.M"],
    "flag, nested file": ["--config=nested.yaml"],
    "flag, bomb": ["--trainer.callbacks={" + _bomb().replace("\n", ", ") + "}"],
    "flag, one key twice": ["--trainer={max_epochs: 1, max_epochs: 2}"],
    "flag, seed below": ["--seed_everything=-1"],
    "flag, seed above": [f"--seed_everything={2**40}"],
}


def _refused(arguments: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    started = time.monotonic()
    assert main(arguments) == 2
    assert time.monotonic() - started < 30
    assert not (folder / "RAN").exists()
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "Traceback" not in said
    return said


def _with_files(root: Path, folder: Path, *more: str) -> list[str]:
    files = [f"--config={path}" for path in _FILES]
    return ["fit", *files, f"--data.init_args.root={root}", f"--run_dir={folder / 'run'}", *more]


@pytest.mark.parametrize("name", CONFIGS)
def test_no_configuration_runs_what_it_names(
    name: str, folder: Path, tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.yaml").write_text(yaml.safe_dump(CONFIGS[name]))
    _refused(_with_files(tiny_root, folder, "--config=bad.yaml"), folder, capsys)


@pytest.mark.parametrize("name", RAW)
def test_no_yaml_runs_anything_or_takes_for_ever(
    name: str, folder: Path, tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.yaml").write_bytes(RAW[name].encode("latin-1"))
    said = _refused(_with_files(tiny_root, folder, "--config=bad.yaml"), folder, capsys)
    assert "bad.yaml" in said


@pytest.mark.parametrize("name", FLAGS)
def test_no_flag_runs_what_it_names(
    name: str, folder: Path, tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _refused(_with_files(tiny_root, folder, *FLAGS[name]), folder, capsys)


def test_a_file_of_hyper_parameters_passes_the_same_gate(
    folder: Path, tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "best.yaml").write_text(yaml.safe_dump(CONFIGS["file in the place of a class"]))
    arguments = ["finetune", "--task=malignancy", f"--data={tiny_root}", f"--runs={folder / 'runs'}"]
    said = _refused([*arguments, "--params=best.yaml"], folder, capsys)
    assert "names 'evil_module.E'" in said
    (folder / "best.yaml").write_text(_bomb())
    assert "stands for more than" in _refused([*arguments, "--params=best.yaml"], folder, capsys)


def test_variables_of_the_environment_pass_the_same_gate(
    folder: Path, tiny_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from experiments.runs.suite_cli import SuiteCLI

    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    for name, value in (("TRAINER__CALLBACKS", "evil_module.E"), ("MODEL", "evil_module.M")):
        with monkeypatch.context() as patch:
            patch.setenv(f"PL_{name}", value)  # Lightning's prefix
            with pytest.raises(DataError, match=r"names 'evil_module\.\w'"):
                SuiteCLI(_with_files(tiny_root, folder)[1:], run=False, parse_only=True)
    assert not (folder / "RAN").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"command": "import", "arguments": {"source": "/", "out": "x"}}, "holds the command 'import'"),
        ({"command": "review", "arguments": {}}, "holds the command 'review'"),
        ({"command": "fit", "arguments": {"config": "other.yaml"}}, "holds the command 'fit'"),
        ({"command": ["finetune"], "arguments": {}}, "holds the command"),
        ({"command": "finetune", "arguments": {"task": "malignancy", "out": "/x"}}, "holds the argument 'out'"),
        ({"command": "finetune", "arguments": {"task": {"class_path": "evil_module.E"}}}, "holds the argument 'task'"),
        ({"command": "finetune", "arguments": {"task": "rfs", "runs": "/elsewhere"}}, "in which it does not lie"),
        ({"arguments": {}}, "holds the command 'None'"),
        ([], "holds the command 'None'"),
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
    ],
)  # fmt: skip
def test_resume_goes_on_with_training_commands_alone(
    content: object, sentence: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder / "shared" / "run"
    run.mkdir(parents=True)
    (run / "run.json").write_text(content if isinstance(content, str) else json.dumps(content))
    assert sentence in _refused(["resume", str(run), f"--runs={folder / 'runs'}"], folder, capsys)


@pytest.mark.slow
def test_the_flags_of_a_resumed_run_pass_the_gate(
    folder: Path, tiny_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder / "runs" / "run"
    run.mkdir(parents=True)
    arguments = {"task": "malignancy", "data": str(tiny_root), "runs": "elsewhere"}
    for extra, sentence in (
        (["--trainer.callbacks+=evil_module.E"], "names 'evil_module.E'"),
        (
            ["--contract.grid=[8,12,12]", "--augmentation.crop=[8,10,10]", f"--run_dir={folder / 'stolen'}"],
            "Leave run_dir out",
        ),
    ):
        (run / "run.json").write_text(json.dumps({"command": "finetune", "arguments": {**arguments, "extra": extra}}))
        assert sentence in _refused(["resume", str(run), f"--runs={folder / 'runs'}"], folder, capsys)
        assert not (folder / "stolen").exists()
        assert not (folder / "elsewhere").exists()


def _space(folder: Path) -> list[str]:
    (folder / "space.yaml").write_text(_bomb())
    return ["sweep", "--task=malignancy", "--space=space.yaml"]


def _options(folder: Path) -> list[str]:
    value = "{plan: {class_path: evil_module.E}}"
    return ["import", "--kind=manifest", f"--source={folder}", f"--out={folder / 'o'}", f"--options={value}"]


def _options_bomb(folder: Path) -> list[str]:
    value = "{" + _bomb().replace("\n", ", ") + "}"
    return ["import", "--kind=manifest", f"--source={folder}", f"--out={folder / 'o'}", f"--options={value}"]


def _seed(folder: Path) -> list[str]:
    return ["cohort", f"--out={folder / 'o'}", "--seed=-1"]


@pytest.mark.parametrize("command", [_space, _options, _options_bomb, _seed])
def test_other_commands_pass_the_same_gate(
    command: Callable[[Path], list[str]], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _refused(command(folder), folder, capsys)
    assert not (folder / "o").exists()


@pytest.mark.slow
def test_modules_of_the_working_folder_do_not_take_the_place_of_others(tmp_path: Path) -> None:
    for name in ("torch", "callbacks", "datamodules", "yaml", "multiprocessing", "sysconfig"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'a').write({name!r})\n")
    command = [sys.executable, "-m", "experiments"]
    place = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = ["cohort", f"--out={tmp_path / 'cohort'}", "--patients=48", "--pretraining=0", "--workers=2"]
    done = subprocess.run([*command, *arguments], cwd=tmp_path, env=place, capture_output=True, text=True, timeout=300)
    assert not (tmp_path / "RAN").exists(), (tmp_path / "RAN").read_text()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cohort" / "cohort.json").is_file()


def test_everything_that_may_be_named_is_there() -> None:
    for name in allowed():
        module, cls = name.rsplit(".", 1)
        assert isinstance(getattr(importlib.import_module(module), cls), type), name


def test_plain_yaml_within_its_bounds_is_read() -> None:
    text = "a: &a [1, 2]\nb: *a\nc: 'R&D *and* more'\n"
    assert parse_yaml(text, "x.yaml") == {"a": [1, 2], "b": [1, 2], "c": "R&D *and* more"}
    assert len(parse_yaml("\n".join(["- 1"] * (MOST_NODES - 1)), "x.yaml")) == MOST_NODES - 1
    parse_yaml("[" * DEEPEST + "]" * DEEPEST, "x.yaml")
    with pytest.raises(DataError, match=f"nested deeper than {DEEPEST} levels"):
        parse_yaml("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "x.yaml")
