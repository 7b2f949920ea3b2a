"""The page on additions, done as it says in a copy of the checkout."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest
import yaml

from datamodules.files import read_parquet, write_parquet
from datamodules.importers.builder import build_cohort
from tests.datamodules.importers.nifti_phantom import labels, save, scan_hu
from tests.tiny import CONTRACT, TINY, TinySource

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/EXTEND.md"
_BLOCK = re.compile(r"(?m)^(?P<lead>[A-Z].*):\n\n(?P<block>(?:(?: {4}.*)?\n)+)")
_FILE = re.compile(r"`([\w/]+\.(?:py|yaml))`")

pytestmark = pytest.mark.slow


def _added(root: Path) -> list[str]:
    """Do to a checkout what the page says; gives the files that were changed or made."""
    files = []
    for found in _BLOCK.finditer(PAGE.read_text(encoding="utf-8")):
        lead, block = found["lead"], textwrap.dedent(found["block"]).strip("\n") + "\n"
        named = _FILE.search(lead)
        if named is None:
            continue
        path = root / named[1]
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        if lead.startswith("A new file"):
            assert not path.exists()
            text = block
        elif "within" in lead:
            (table,) = re.findall(r"within `(\w+)`", lead)
            head = re.search(rf"(?m)^{table}: .*{{\n", text)
            assert head is not None
            text = text[: head.end()] + textwrap.indent(block, "    ") + text[head.end() :]
        elif "among the imports" in lead:
            text = text.replace("\nimport torch\n", f"\nimport torch\n{block}", 1)
        else:
            assert lead.startswith("At the end of")
            text += "\n" + textwrap.indent(block, "  ")
        path.write_text(text, encoding="utf-8")
        files.append(named[1])
    return files


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    for name in ("datamodules", "lightning_modules", "callbacks", "experiments", "renal_vlm"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "Makefile"):
        shutil.copy(ROOT / name, root)
    assert len(_added(root)) == 11
    return root


def _run(root: Path, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, *words], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def recipes() -> dict[str, list[str]]:
    """The commands of the page, by what they name first."""
    lines = re.findall(r"(?m)^    make (.+)$", PAGE.read_text(encoding="utf-8"))
    return {shlex.split(line)[-1 if "finetune" in line else 1]: shlex.split(line) for line in lines}


def test_tasks_encoders_and_baselines_are_trained_and_tested(
    checkout: Path, tmp_path: Path, recipes: dict[str, list[str]]
) -> None:
    root = tmp_path / "tiny"
    build_cohort(TinySource(per_center=24), root, CONTRACT, workers=1)  # enough of both stages in the training part
    frame, header = read_parquet(root / "patients.parquet")
    number = pd.Series(range(len(frame)), index=frame.index)
    stages = number.mod(4).map(dict(enumerate(("1a", "3a", "2", "4")))).where(number % 12 != 11, "X")
    frame["stage_pt"] = stages.where(frame["malignancy"] == 1).astype("string")
    frame["tumor_size_mm"], frame["age_years"] = 20.0 + 10.0 * (number % 7), 50.0 + number % 11
    write_parquet(root / "patients.parquet", frame, header)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    shared = (f"DATA={root}", f"RUNS={tmp_path / 'runs'}", f"ARGS=--config={tmp_path / 'tiny.yaml'}")
    expected = {
        "TASK=advanced_stage": "advanced_stage/scratch-finetune-f1-s42",
        "ENCODER=densenet": "malignancy/densenet-finetune-f1-s42",
        "ENCODER=age_and_size": "malignancy/age_and_size-finetune-f1-s42",
    }
    for last, folder in expected.items():
        _run(checkout, "-m", "experiments", *recipes[last], *shared)
        table = pd.read_csv(tmp_path / "runs/renal/tiny" / folder / "results.csv").set_index("group")
        assert table.loc["pooled external", "n"] > 10
    told = pd.read_parquet(tmp_path / "runs/renal/tiny/advanced_stage/scratch-finetune-f1-s42/predictions.parquet")
    stage = told["patient_id"].map(frame.set_index("patient_id")["stage_pt"])
    assert (told["target"] == stage.str[0].isin(["3", "4"])).all()
    assert "X" not in set(stage)


def test_a_source_leaves_out_whom_it_names(checkout: Path, tmp_path: Path, recipes: dict[str, list[str]]) -> None:
    rows = []
    for number in range(6):
        name = f"p{number}"
        save(tmp_path / f"{name}.nii.gz", scan_hu(number))
        save(tmp_path / f"{name}_mask.nii.gz", labels())
        rows.append((name, f"{name}-1", f"{name}-1-a", "north", "internal", "venous", f"{name}.nii.gz"))
    columns = ["patient_id", "study_id", "series_id", "center", "role", "phase", "image"]
    manifest = pd.DataFrame(rows, columns=columns).assign(mask=[f"p{number}_mask.nii.gz" for number in range(6)])
    manifest.to_csv(tmp_path / "manifest.csv", index=False)
    ages = pd.DataFrame({"patient_id": [f"p{number}" for number in range(6)], "age_years": [50, 60, 12, 70, 55, ""]})
    ages.assign(malignancy=[0, 1] * 3).to_csv(tmp_path / "patients.csv", index=False)
    words = [
        word.replace("manifest.csv", str(tmp_path / "manifest.csv")).replace("data/adults", str(tmp_path / "adults"))
        for word in recipes["KIND=adults"]
    ]
    _run(checkout, "-m", "experiments", *words, "WORKERS=1")
    done = pd.read_parquet(tmp_path / "adults/import.parquet").set_index("patient_id")
    assert done.index[done["status"] == "skipped"].tolist() == ["p2", "p5"]
    assert (done["status"] == "imported").sum() == 4


def test_an_attribute_is_read_from_reports_and_gets_a_head(checkout: Path) -> None:
    program = textwrap.dedent(
        """
        from datamodules.reports.reader.rules import RuleExtractor
        from datamodules.reports.schema import load_schema
        schema = load_schema()
        print(schema.classes["cortical_scar"])
        for text in ("Left kidney with a cortical scar. Right kidney normal.", "Left kidney without renal scarring."):
            found = [one for one in RuleExtractor(schema).extract([text])[0] if one.attribute == "cortical_scar"]
            print([(one.side, one.value) for one in found])
        """
    )
    shown = _run(checkout, "-c", program)
    assert shown.splitlines()[-3:] == ["('yes', 'no')", "[('left', 'yes')]", "[('left', 'no')]"]
