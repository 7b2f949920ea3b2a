"""MedGemma's whole path on a tiny model of its kind: what it is shown and writes, and what is said where it is not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.volumes.contract import PreprocessingContract
from experiments.generation import journal, medgemma
from experiments.generation.generate import _job, _present, reports_of
from experiments.generation.medgemma import load, report_in
from experiments.generation.slices import PromptPart, Viewing, axial_slices, pictures, question
from experiments.generation.systems import Options, WritingJob
from experiments.runs.console import configure_output
from lightning_modules.core.errors import ModelError
from lightning_modules.networks.joint.decoding import Decoding
from tests.experiments.aligned_tiny import extra_flags, with_reports
from tests.experiments.generation.gemma_tiny import SIDE, make_medgemma


@pytest.fixture(scope="module")
def job(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> WritingJob:
    """The tested kidneys of four patients, and a tiny MedGemma for them."""
    folder = tmp_path_factory.mktemp("medgemma")
    configure_output()
    root = with_reports(Path(shutil.copytree(tiny_root, folder / "tiny")))
    weights = make_medgemma(folder / "weights")
    given = {"medgemma": str(weights), "medgemma.slices": "2", "medgemma.pixels": str(SIDE)}
    options = Options(folder / "runs", decoding=Decoding(6), arguments=given)
    return _job(Cohort.load(root), root, "demo", options, 4, extra_flags(folder))


@pytest.fixture(scope="module")
def first(job: WritingJob) -> pd.DataFrame:
    """The reports of all of them, one kidney at a time."""
    return reports_of("medgemma", job)


def test_from_slices_to_reports_whatever_the_batch(job: WritingJob, first: pd.DataFrame) -> None:
    options = replace(job.options, arguments=job.options.arguments | {"medgemma.batch": "3"})
    second = reports_of("medgemma", replace(job, options=options))
    assert len(first) == len(job.kidneys) >= 4
    assert first["text"].tolist() == second["text"].tolist()
    assert len(set(first["text"])) > 1
    assert (first["tokens"] <= 6).all()
    np.testing.assert_allclose(first["mean_logprob"], second["mean_logprob"], rtol=1e-3)


def test_questions_of_unequal_length_do_not_meet(job: WritingJob) -> None:
    model = load(Path(job.options.arguments["medgemma"]))
    viewing = Viewing("medgemma", 2, SIDE)
    rows, sides = job.kidneys["row"].tolist(), job.kidneys["side"].tolist()
    whole, other = (question(job, rows[place], sides[place], viewing).parts for place in (0, 1))
    short = other[:1] + other[-4:]  # one slice only
    together = model.write([whole, short], Decoding(5))
    for alone, beside in zip((whole, short), together, strict=True):
        single = model.write([alone], Decoding(5))[0]
        assert single.tokens == beside.tokens
        np.testing.assert_allclose(single.logprobs, beside.logprobs, rtol=1e-3, atol=1e-4)
    blind = [part if part.image is None else PromptPart(image=np.zeros_like(part.image)) for part in whole]
    seen = model.write([blind], Decoding(5))[0]
    assert not np.allclose(seen.logprobs[:1], together[0].logprobs[:1], atol=1e-3)
    assert len(model.write([short, whole], Decoding(6, beams=2))) == 2


def test_it_goes_on_in_the_middle(
    job: WritingJob, first: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = replace(job, folder=tmp_path, scope="settings")
    shown: list[int] = []

    def interrupted(job: WritingJob, row: int, *rest: object) -> object:
        shown.append(row)
        if len(shown) == 3:
            raise KeyboardInterrupt
        return question(job, row, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(medgemma, "question", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reports_of("medgemma", own)
    pd.testing.assert_frame_equal(reports_of("medgemma", own), first)
    assert len(shown) == len(job.kidneys) + 1  # two of them before the interruption
    with (tmp_path / journal.UNFINISHED).open("r+") as file:
        file.write("?")
    with pytest.raises(DataError, match=r"unfinished\.jsonl in .* is damaged at line 1"):
        reports_of("medgemma", own)


def test_what_is_not_here_says_so(
    job: WritingJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RENAL_WEIGHTS", str(tmp_path))
    for name in ("OPENAI_API_KEY", "RENAL_ENDPOINT_URL", "RENAL_CT_CHAT_URL", "RENAL_RADFM_URL"):
        monkeypatch.delenv(name, raising=False)
    options = Options(tmp_path)
    assert _present(None, options) == ["planned", "planned_shuffled", "template", "nearest", "normal"]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Left out: ")]
    assert [line.split()[2] for line in lines] == [
        f"SYSTEM={name}" for name in ("medgemma", "gpt4o", "ct_chat", "radfm", "endpoint")
    ]
    with pytest.raises(DataError, match="Health AI Developer Foundations terms of use"):
        _present(["medgemma"], options)
    with pytest.raises(DataError, match="set OPENAI_API_KEY"):
        _present(["writer", "gpt4o"], options)
    monkeypatch.setenv("RENAL_ENDPOINT_URL", "http://localhost:1/v1")
    with pytest.raises(DataError, match="does not say which model"):
        _present(["endpoint"], options)
    for arguments, sentence in (
        ({"endpoint.colour": "red"}, "has no argument colour; it has model, windows"),
        ({"endpoint.slices": "many"}, "expected a whole number"),
        ({"endpoint.windows": "bone"}, "expected one of soft_tissue"),
        ({"endpoints.model": "m"}, "Did you mean endpoint"),
    ):
        with pytest.raises(DataError, match=sentence):
            _present(["endpoint"], Options(tmp_path, arguments={"endpoint.model": "m"} | arguments))
    monkeypatch.setenv("RENAL_ENDPOINT_URL", "http://name:secret@localhost:1/v1")
    with pytest.raises(DataError, match="The address in RENAL_ENDPOINT_URL is not one of a server") as error:
        _present(["endpoint"], Options(tmp_path, arguments={"endpoint.model": "m"}))
    assert "secret" not in str(error.value)


def test_damaged_weights_are_refused(job: WritingJob, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(job.options.arguments["medgemma"], tmp_path / "weights"))
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if "projector" in name))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"weights lack 1, first .*projector"):
        load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="could not be loaded"):
        load(folder)


def test_a_thought_is_no_report() -> None:
    assert report_in("<unused94>thought\nA mass?<unused95>There is\n a mass.") == "There is a mass."
    assert report_in("<unused94>thought\nA mass and") == ""
    assert report_in(" No lesion. ") == "No lesion."


def test_slices_are_seen_as_a_radiologist_does() -> None:
    contract = PreprocessingContract(extent_mm=(80.0, 40.0, 80.0), grid=(8, 4, 8))
    volume = torch.full((8, 4, 8), -1000, dtype=torch.int16)
    volume[7, 3, 7] = 40  # the uppermost slice, anterior, on the patient's right
    taken = axial_slices(volume.numpy(), 4)
    assert taken.shape == (4, 4, 8)
    assert (taken[0] == volume[7].numpy()[::-1, ::-1]).all()
    assert axial_slices(volume.numpy(), 99).shape == (8, 4, 8)
    image = pictures(taken, contract, Viewing("medgemma", 4, 8))[0]
    assert image.shape == (4, 8, 3)
    assert image[0, 0].tolist() == [round(255 * 1064 / 2048), round(255 * 175 / 350), round(255 * 40 / 80)]
    assert image[3, 7].tolist() == [round(255 * 24 / 2048), 0, 0]
    grey = pictures(taken, contract, Viewing("soft_tissue", 4, 16))[0]
    assert grey.shape == (8, 16, 3)
    assert (grey == grey[..., :1]).all()
