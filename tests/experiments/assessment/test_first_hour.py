"""The notebook of the first hour, run on a few patients."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.experiments.assessment.place import CROP, Place

ROOT = Path(__file__).parents[3]
NOTEBOOK = ROOT / "docs/notebooks/first_hour.ipynb"


@pytest.mark.slow
def test_every_cell_runs_and_shows_what_the_next_one_needs(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    values = {
        "DATA": str(place.data),
        "RUNS": str(place.runs),
        "SCAN": "scan",
        "TASK": "malignancy",
        "FRACTIONS": "1",  # of a few patients no smaller share has both classes
        "SETTINGS": [f"ARGS=--config={place.runs.parent / 'tiny.yaml'}"],
        "CROP": CROP,
    }
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert re.findall(r"(?m)^([A-Z]+) =", cells[0].source) == list(values)
    cells[0].source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = ["".join(str(output) for output in cell.outputs) for cell in cells]
    assert any("internal test" in text and "external E1" in text for text in shown)
    assert any("image/png" in text for text in shown)
    assert any("'left': (" in text and "float32" in text for text in shown)
    assert (tmp_path / "assessment/assessment.html").is_file()


def test_the_stored_outputs_are_those_of_every_cell_and_hold_no_place() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"/(?:home|root|tmp|work|Users)/", text)
    assert "phantom" in text.lower()
