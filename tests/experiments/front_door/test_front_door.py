"""What a user types: refused before anything is done where it is wrong, and every printed recipe right."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from experiments.cli import check, main
from experiments.encoders.exported import best_encoder
from experiments.front_door.commands import COMMANDS, SHORT, definition
from experiments.front_door.help import document
from experiments.front_door.options import FROM_MAKE, from_words, make_words
from experiments.runs.console import configure_output
from experiments.runs.folders import ENCODER_FOLDER, stage_folder
from experiments.runs.pretrained import Pretrained, pretrained_from
from lightning_modules.export.image import WEIGHTS

ROOT = Path(__file__).parents[3]
ROOMS = ("callbacks", "datamodules", "experiments", "lightning_modules")
NEAR = [path for room in ROOMS for path in (ROOT / room).rglob("*.md")]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *NEAR, ROOT / "cluster/train.sbatch"]
RECIPES = [page for page in PAGES if page.name != "EXTEND.md"]  # its names are the reader's
CODE = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
HEAVY = {"torch", "lightning", "monai", "torchio", "mlflow", "pandas", "numpy", "jsonargparse"}
_VALUE = r"""(?:'[^']*'|"[^"]*"|[^\s`|,;)&]+)"""
_RECIPE = re.compile(rf"\b(?:make|renal-vlm) ([a-z][a-z-]+)((?: [A-Za-z_][\w.]*={_VALUE})*)")
_PLACEHOLDER = re.compile(r"\.\.\.|[<{]|^NAME$|^FOLDER$")


def test_what_is_read_from_the_source_is_what_the_function_takes() -> None:
    for name, place in COMMANDS.items():
        module, function = place.split(":")
        signature = inspect.signature(getattr(importlib.import_module(module), function))
        command = definition(name)
        assert [option.name for option in command.options] == list(signature.parameters)
        for option, parameter in zip(command.options, signature.parameters.values(), strict=True):
            assert (option.default is None) == (parameter.default is inspect.Parameter.empty), (name, option.name)
            assert option.meaning, (name, option.name)
        assert command.purpose.endswith("."), name


def test_the_makefile_knows_every_command() -> None:
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    listed = re.search(r"^COMMANDS := (.*)$", text, flags=re.MULTILINE)
    assert listed is not None
    assert set(listed[1].split()) == {*COMMANDS, *SHORT}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["TASK=nonsense"], "TASK=nonsense is not known; choose one of renal_r, renal_e"),
        (["TASK=RFS"], "Did you mean TASK=rfs?"),
        (["TAKS=rfs"], "TAKS=rfs is not known to `make finetune`. Did you mean TASK?"),
        (["Task=rfs"], "Task=rfs is not known to `make finetune`. Did you mean TASK?"),
        (["ENCODER=scrach"], "Did you mean scratch?"),
        (["PROFILE=huge"], "PROFILE=huge is not known; choose one of demo"),
        (["FRACTION=20%"], "write FRACTION=0.2"),
        (["FRACTION=0,2"], "write FRACTION=0.2"),
        (["FRACTION=20"], "for 20 % write FRACTION=0.2"),
        (["FRACTION=nan"], "expected a share above 0"),
        (["FRACTION=0"], "expected a share above 0"),
        (["SEED=1.5"], "SEED=1.5: expected a whole number"),
        (["NODES=0"], "NODES=0: expected at least 1"),
        (["ARGS=--sede=1"], "Did you mean --seed?"),
        (["ARGS=--seed"], "--seed needs a value"),
        (["DATA=/nowhere/mine"], "DATA=mine: no such folder; expected a cohort"),
    ],
)
def test_a_wrong_word_is_refused_before_anything_is_done(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    done = _make(tmp_path, "finetune", *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [".venv", "Makefile"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["finetune", "TASK=rfs", "optimizer.lr=much"], 'Parser key "optimizer.lr"'),
        (["finetune", "TASK=all", "ENCODER=stage1", "trainer.nothing=1"], "trainer.nothing"),
        (["curve", "TASK=rfs", "MODE=probe", "trainer.nothing=1"], "trainer.nothing"),
        (["sweep", "PARAMS=absent.yaml"], "PARAMS=absent.yaml is not known"),
        (["finetune", "PARAMS=absent.yaml"], "absent.yaml does not exist"),
        (["pretrain", "STAGES=image", "trainer.max_epochs=x"], "Stage image does not take"),
        (["pretrain", "trainer.nothing=1"], "does not take"),
        (["zeroshot", "TASK=malignancy"], "run `make cohort` or an importer first"),
        (["generate"], "run `make cohort` or an importer first"),
    ],
)
def test_no_cohort_is_drawn_for_what_is_refused_afterwards(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert sentence in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_values_reach_the_command_as_they_were_typed(tmp_path: Path) -> None:
    (tmp_path / "seen.py").write_text("import os\nprint(os.environ['MAKEFLAGS'])\n")
    (tmp_path / "Makefile").write_text(f"all:\n\t@{sys.executable} seen.py\n")
    typed = {
        "OUT": "a folder/ü $HOME",
        "OPTIONS": "{sites: 'sites of all.csv', x: [1, 2]}",
        "SOURCE": 'back\\slash \\ and "quotes" ; rm x',
        "optimizer.lr": "1e-4",
        "TAG": "",
    }
    words = [f"{name}={value}" for name, value in typed.items()]
    done = subprocess.run(
        ["make", "-s", "-j2", *words], cwd=tmp_path, capture_output=True, text=True, check=True, env=_bare()
    )
    assert make_words(done.stdout.rstrip("\n")) == typed


def test_no_word_of_another_make_is_read() -> None:
    assert check(["finetune", "--task=rfs"]) == ["finetune", "--task=rfs"]


def test_the_environment_is_not_read(tmp_path: Path) -> None:
    done = _make(tmp_path, "-n", "finetune", "TASK=rfs", DATA="elsewhere", TAG="mine", LAUNCH="srun", PYTEST="-x")
    assert done.returncode == 0
    assert "elsewhere" not in done.stdout
    assert "srun" not in done.stdout


def test_the_words_of_make_are_taken_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RENAL_WEIGHTS", raising=False)
    assert check(["finetune", "TASK=rfs", "--fraction", "0.2"]) == check(["finetune", "--task=rfs", "FRACTION=0.2"])
    assert check(["encoders", "WEIGHTS=here"]) == ["encoders"]
    assert os.environ.pop("RENAL_WEIGHTS") == "here"
    assert check(["embed", "SOURCE=a.nii.gz", "--box", "left=0 0 0 1 1 1"])[2].startswith("--box=left=0 0 0")
    with pytest.raises(DataError, match=r"TAKS=rfs is not known to `make finetune`.*TASK"):
        check(["finetune", "TAKS=rfs"])
    with pytest.raises(DataError, match="'rfs' follows finetune"):
        check(["finetune", "rfs"])


def test_each_target_of_a_call_takes_its_own_words() -> None:
    flags = " -- TASK=rfs STAGES=image optimizer.lr=0.1 DATA=data/x"
    targets = ["pretrain", "finetune"]
    assert sorted(from_words("pretrain", make_words(flags), targets)) == [
        "--data=data/x",
        "--optimizer.lr=0.1",
        "--stages=image",
    ]
    assert sorted(from_words("finetune", make_words(flags), targets)) == [
        "--data=data/x",
        "--optimizer.lr=0.1",
        "--task=rfs",
    ]
    with pytest.raises(DataError, match="STAGES=image is not known to `make finetune`"):
        from_words("finetune", make_words(flags), ["finetune"])


def test_settings_pass_through_in_every_spelling() -> None:
    expected = ["finetune", "--task=rfs", '--extra=["--optimizer.lr=1e-4"]']
    assert check(["finetune", "--task=rfs", "--optimizer.lr=1e-4"]) == expected
    assert check(["finetune", "--task", "rfs", "--optimizer.lr", "1e-4"]) == expected
    assert check(["finetune", "TASK=rfs", "optimizer.lr=1e-4"]) == expected
    assert check(["finetune", "--task=rfs", '--extra=["--optimizer.lr=1e-4"]']) == expected
    with pytest.raises(DataError, match="is no option of compare"):
        check(["compare", "--optimizer.lr=1e-4"])


def test_lists_and_switches_are_written_as_a_user_would() -> None:
    assert check(["curve", "--fractions=0.1, 0.2", "--encoders=scratch,size"]) == [
        "curve", "--fractions=[0.1, 0.2]", "--encoders=[scratch, size]",
    ]  # fmt: skip
    assert check(["data-check", "--deep"]) == ["data-check", "--deep=true"]
    assert check(["data-check", "--deep=yes", "--out=x.json"]) == ["data-check", "--deep=true", "--out=x.json"]
    with pytest.raises(DataError, match="DEEP=maybe: expected true or false"):
        check(["data-check", "--deep=maybe"])
    assert check(["finetune", "--task=rfs", "--task=os"]) == ["finetune", "--task=os"]


def test_a_home_folder_is_meant_by_its_sign() -> None:
    assert check(["report", "--out=~/x"]) == ["report", f"--out={Path.home() / 'x'}"]


def test_short_names_are_the_command_with_options() -> None:
    assert check(["pretrain-image", "--seed=1"]) == ["pretrain-image", "--stages=[image]", "--seed=1"]


def test_what_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "--kind=dicom"]) == 2
    assert "import needs SOURCE=, OUT=" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["help"], ["--help"], [], ["help", "finetune"], ["finetune", "--help"], ["doctor", "--fast"], ["finetun"]]
)
def test_help_and_refusals_import_nothing_heavy(words: list[str]) -> None:
    """Held by what is imported, not by time: every one of these takes a second or more."""
    program = (
        "import sys, experiments.cli as cli\n"
        f"code = cli.main({words!r})\n"
        f"heavy = {HEAVY!r} & set(sys.modules)\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == (2 if words == ["finetun"] else 0), done.stderr
    assert done.stdout if words != ["finetun"] else "Did you mean finetune?" in done.stderr


def test_help_lists_every_command_and_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == 0
    shown = capsys.readouterr().out
    for name in (*COMMANDS, *SHORT):
        assert re.search(rf"^  {name} ", shown, flags=re.MULTILINE), name
    for name in COMMANDS:
        assert main(["help", name]) == 0
        page = capsys.readouterr().out
        for option in definition(name).options:
            assert option.name == "extra" or f"\n  {option.name.upper()} " in page, (name, option.name)


def test_the_page_of_commands_is_that_of_the_code() -> None:
    written = (ROOT / "docs" / "COMMANDS.md").read_text(encoding="utf-8")
    assert written.strip() == document().strip(), "run `python -m experiments help --markdown > docs/COMMANDS.md`"


def test_pretrainings_have_one_name() -> None:
    assert pretrained_from("s42") == Pretrained(42)
    assert pretrained_from("s7-my.tag") == Pretrained(7, "my.tag")
    assert str(Pretrained(7, "my.tag")) == "s7-my.tag"
    for name in ("42", "s", "s42-", "s42/x", "s42-../x", "S42"):
        with pytest.raises(DataError, match="expected s and its SEED"):
            pretrained_from(name)


def _recipes(text: str) -> list[tuple[str, str]]:
    return [(found[1], found[2]) for found in _RECIPE.finditer(text) if found[1] in COMMANDS or found[1] in SHORT]


def _checked(name: str, words: str) -> None:
    """Parse a recipe as the front door would; a value that stands for another is not looked at."""
    typed = dict(word.partition("=")[::2] for word in shlex.split(words))
    for word, value in typed.items():
        if word != "ARGS" and _PLACEHOLDER.search(value):
            from_words(name, {word: "x"}, [name])
    plain = {word: value for word, value in typed.items() if word == "ARGS" or not _PLACEHOLDER.search(value)}
    flags = from_words(name, make_words(_makeflags(plain)), [name])
    given = {flag[2:].partition("=")[0] for flag in flags}
    needed = [option for option in definition(name).options if option.default is None and option.name not in given]
    check([name, *flags, *(f"--{option.name}={(option.choices or ('x',))[0]}" for option in needed)])


def _makeflags(typed: dict[str, str]) -> str:
    escaped = (name + "=" + re.sub(r"([\\ ])", r"\\\1", value) for name, value in typed.items())
    return " -- " + " ".join(escaped)


@pytest.mark.parametrize("page", RECIPES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_recipe_of_a_page_is_right(page: Path) -> None:
    for name, words in _recipes(page.read_text(encoding="utf-8")):
        _checked(name, words)


def test_every_recipe_that_a_sentence_prints_is_right() -> None:
    found = 0
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None
            if isinstance(node, ast.JoinedStr):
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
            for name, words in _recipes(text or ""):
                found += bool(words)
                _checked(name, words)
    assert found > 20


def test_every_target_that_a_page_names_exists() -> None:
    known = {*COMMANDS, *SHORT, "test", "test-all", "chaos", "lint", "setup", "docs", "release", "clean", "help"}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        quoted = re.findall(r"(?:^    |`|&& )make ([a-z][a-z-]+)", text, flags=re.MULTILINE)
        assert set(quoted) <= known, page.name


def _bare(**variables: str) -> dict[str, str]:
    """The environment without what a make that runs these tests may have put there."""
    own = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MAKE_TARGETS")}
    return {**own, **variables}


def _make(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call make in a folder that holds its Makefile and an environment, and nothing that a command could have made."""
    shutil.copy(ROOT / "Makefile", folder)
    binaries = folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" "$@"\n')
    (binaries / "python").chmod(0o755)
    assert FROM_MAKE in (folder / "Makefile").read_text()
    old = ["-o", ".venv/.ready"]
    (folder / ".venv" / ".ready").touch()
    return subprocess.run(
        ["make", *old, *words], cwd=folder, capture_output=True, text=True, check=False, env=_bare(**environment)
    )


def test_the_best_encoder_is_the_first_that_was_trained(
    tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = Cohort.load(tiny_root)
    configure_output()
    assert best_encoder(tmp_path, cohort, "s42") == "scratch"
    assert "`make pretrain` trains better ones" in capsys.readouterr().out
    for expected, stage in (("stage1", "image"), ("aligned", "alignment")):
        folder = stage_folder(tmp_path, cohort, stage, 7, None, "mine") / ENCODER_FOLDER
        folder.mkdir(parents=True)
        (folder / WEIGHTS).touch()
        assert best_encoder(tmp_path, cohort, "s7-mine") == expected
        assert best_encoder(tmp_path, cohort, "s7") == "scratch"


def test_the_page_of_runs_starts_no_jobs_of_chat_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []
    monkeypatch.setattr(subprocess, "call", lambda command, env: started.append((command, env)) or 0)
    monkeypatch.delenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", raising=False)
    assert main(["ui", f"--runs={tmp_path}", "--port=5123"]) == 0
    monkeypatch.setenv("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "true")  # who sets it means it
    assert main(["ui", f"--runs={tmp_path}"]) == 0
    assert [env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] for _, env in started] == ["false", "true"]
    assert started[0][0][-1] == "5123"
