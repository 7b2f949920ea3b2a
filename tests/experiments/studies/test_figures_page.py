"""Pages get their figures from the runs of their cohort, and from no others."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.identity import REPORTS, DataIdentity, kidney_identity
from datamodules.errors import DataError
from datamodules.reports.sides import side_reports
from experiments.front_door.commands import ROOT, definition
from experiments.runs.console import configure_output
from experiments.studies.figures_page.numbers import shown
from experiments.studies.figures_page.places import Call, fill, read_figures
from experiments.studies.figures_page.results_command import FIGURES, PAGES, results
from tests.experiments.aligned_tiny import with_reports

YAML = """
auroc:
  arguments: [task, strategy]
  table: tiny/{task}/aligned-zeroshot-s42/results.csv
  row: {group: pooled external, strategy: "{strategy}"}
  value: auroc
gain:
  table: tiny/malignancy/aligned-zeroshot-s42/results.csv
  row: {group: pooled external, strategy: mean prompt, n: "270"}
  value: difference
  signed: true
"""
PAGE = """Text <!--= auroc malignancy "mean prompt" -->?<!--/-->, n <!--= auroc.n malignancy "mean prompt" -->?<!--/-->,
<!--= auroc.kidneys malignancy "mean prompt" -->?<!--/-->, <!--= auroc.bare malignancy "mean prompt" -->?<!--/--> and
<!--= gain -->?<!--/-->.
"""


@pytest.fixture
def root(tiny_root: Path, tmp_path: Path) -> Path:
    return with_reports(Path(shutil.copytree(tiny_root, tmp_path / "tiny")))


def record(root: Path, *, part: str = "test") -> DataIdentity:
    texts = side_reports(Cohort.load(root)).assign(part=part)
    return kidney_identity(texts, {REPORTS: [str(text).encode() for text in texts["text"]]})


@pytest.fixture
def runs(root: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "runs/renal/tiny/malignancy/aligned-zeroshot-s42"
    folder.mkdir(parents=True)
    row = {
        "group": "pooled external",
        "strategy": "mean prompt",
        "n": 270,
        "kidneys": 1353,
        "auroc": 0.7652,
        "low": 0.701,
    }
    row |= {"high": 0.8221, "interval": "bootstrap", "difference": 0.0381, "difference_low": -0.0021}
    row |= {"difference_high": 0.0781, "difference_interval": "Newcombe"}
    pd.DataFrame([row, {**row, "group": "internal test"}]).to_csv(folder / "results.csv", index=False)
    record(root).write(folder / "results-data.parquet")
    return tmp_path / "runs"


def written(root: Path, runs: Path, tmp_path: Path, page: str = PAGE, yaml: str = YAML, **options: bool) -> str:
    (tmp_path / "page.md").write_text(page)
    (tmp_path / "figures.yaml").write_text(yaml)
    try:
        results([root], runs, [tmp_path / "page.md"], tmp_path / "figures.yaml", **options)
    finally:
        text = (tmp_path / "page.md").read_text()
    return text


def test_places_get_figure_interval_count_and_sign(root: Path, runs: Path, tmp_path: Path) -> None:
    text = written(root, runs, tmp_path)
    assert (
        re.sub(r"<!--.*?-->", "", text)
        == "Text .765 (.701 to .822), n 270,\n1,353, .765 and\n+.038 (-.002 to +.078)†.\n"
    )
    assert written(root, runs, tmp_path, text) == text


def test_runs_of_other_data_are_refused(root: Path, runs: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(root, tmp_path / "other"))
    table = pd.read_parquet(other / "reports.parquet")
    table.loc[0, "text"] = f"{table.loc[0, 'text']} Another sentence on both kidneys: no stones in either kidney."
    cohort = Cohort.load(other)
    changed = cohort["reports"].assign(text=table["text"].to_numpy())
    replace(cohort, tables={**cohort.tables, "reports": changed}).write()
    with pytest.raises(DataError, match=r"aligned-zeroshot-s42/results.csv is of other data .* reports differ"):
        written(other, runs, tmp_path)
    # Who is tested now and was trained on then.
    record(root, part="train").write(next(runs.rglob("results-data.parquet")))
    with pytest.raises(DataError, match="patients moved to another split"):
        written(root, runs, tmp_path)
    next(runs.rglob("results-data.parquet")).unlink()
    with pytest.raises(DataError, match="does not say of what data it is"):
        written(root, runs, tmp_path)


def test_missing_runs_are_named_and_nothing_is_written(
    root: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_output()
    page = PAGE + "<!--= auroc rfs words -->.9<!--/--> <!--= auroc malignancy words -->.8<!--/-->"
    with pytest.raises(DataError, match="2 figures have no run"):
        written(root, runs, tmp_path, page)
    assert (tmp_path / "page.md").read_text() == page
    shown_text = capsys.readouterr().out
    assert "auroc rfs words: tiny/rfs/aligned-zeroshot-s42/results.csv is not there." in shown_text
    assert "has no row with group pooled external, strategy words" in shown_text
    assert written(root, runs, tmp_path, page, partial=True).count("not run") == 2


@pytest.mark.parametrize(
    ("page", "yaml", "message"),
    [
        ("<!--= auroc malignancy -->?<!--/-->", YAML, "expected 2 arguments behind auroc: task, strategy"),
        ("<!--= aurok -->?<!--/-->", YAML, "figure 'aurok', which is not defined"),
        ("<!--= gain -->?", YAML, "a place that does not end"),
        ("<!--= gain -->?<!--/-->", "gain: {table: a, row: {}}", "found without value"),
        ("<!--= gain -->?<!--/-->", YAML.replace("group: pooled external, strategy: mean prompt, ", ""), "2 rows"),
    ],
)
def test_bad_pages_and_definitions_are_refused(
    root: Path, runs: Path, tmp_path: Path, page: str, yaml: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        written(root, runs, tmp_path, page, yaml)


@pytest.mark.parametrize(
    ("value", "digits", "signed", "text"),
    [
        (0.76543, 3, False, ".765"),
        (-0.0254, 3, False, "-.025"),
        (14.53, 1, False, "14.5"),
        (0.5, 2, True, "+.50"),
        (-0.0001, 3, True, ".000"),
        (1.0, 3, False, "1.000"),
        (np.float64(0.9999), 3, False, "1.000"),
    ],
)
def test_numbers_are_shown_without_a_leading_zero(value: float, digits: int, signed: bool, text: str) -> None:
    assert shown(value, digits, signed) == text


def test_the_pages_of_the_project_ask_for_figures_that_are_defined() -> None:
    figures = read_figures(ROOT / FIGURES)
    used: set[str] = set()

    def show(call: Call) -> str:
        used.add(call.figure.name)
        return call.text

    for page in PAGES:
        assert fill((ROOT / page).read_text(encoding="utf-8"), figures, show, page.name).places
    assert used == set(figures)
    assert definition("results").options
