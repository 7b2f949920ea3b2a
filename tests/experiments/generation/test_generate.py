"""From an aligned encoder to scored reports on a tiny cohort; who is shown whose images."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from datamodules.augmentation import AugmentationConfig
from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.files import read_parquet
from datamodules.reports.sides import side_reports
from datamodules.writing import ReportImageDataModule, prompt_of
from experiments.generation.evaluate import score_reports
from experiments.generation.generate import generate
from experiments.generation.records import read_generated
from experiments.generation.shuffled import other_patients
from experiments.pretraining.stages import image, report
from experiments.pretraining.stages.common import Pretraining
from experiments.registry import STAGES
from experiments.runs.console import configure_output
from experiments.runs.folders import stage_folder, system_folder
from experiments.runs.locks import held
from lightning_modules.export.writer import load_report_writer
from tests.experiments.aligned_tiny import CROP, FLAGS, REGIONS, export, fill_cache, with_reports
from tests.tiny import CONTRACT
from tests.tiny_text import make_base

pytestmark = pytest.mark.slow

PLAIN = AugmentationConfig(crop=CROP)
SYSTEMS = ["template", "nearest", "writer", "shuffled", "planned", "planned_shuffled"]


def test_images_of_other_patients_stay_on_their_side_and_in_their_centre() -> None:
    rows = [
        {"patient_id": f"p{number // 2}", "side": ("left", "right")[number % 2], "center": "ab"[number // 8]}
        for number in range(16)
    ]
    kidneys = pd.DataFrame(rows)
    places = other_patients(kidneys, 0)
    shown = kidneys.iloc[places].reset_index(drop=True)
    assert (shown["patient_id"] != kidneys["patient_id"]).all()
    assert (shown[["side", "center"]] == kidneys[["side", "center"]]).all(axis=None)
    assert sorted(places) == list(range(16))
    alone = pd.DataFrame({"patient_id": ["p", "q"], "side": ["left", "right"], "center": "a"})
    assert other_patients(alone, 0).tolist() == [1, 0]
    with pytest.raises(DataError, match="one patient only"):
        other_patients(alone.iloc[:1], 0)


def test_a_prompt_names_side_and_phase() -> None:
    assert prompt_of("CT of the {side} kidney, {phase} phase.", "left", "non_contrast") == (
        "CT of the left kidney, non-contrast phase."
    )
    assert prompt_of("{side}, {phase} phase", "right", None) == "right, several phases"


def test_batches_hold_the_report_of_their_kidney(tiny_copy: Path) -> None:
    root = with_reports(tiny_copy)
    module = ReportImageDataModule(root, contract=CONTRACT, augmentation=PLAIN, batch_size=4)
    texts = side_reports(Cohort.load(root)).set_index(["patient_id", "side"])["text"]
    for batch in module.loader("test"):
        for patient, side, text, prompt in zip(
            batch["patient_id"], batch["side"], batch["report"], batch["prompt"], strict=True
        ):
            assert text == texts[patient, side]
            assert f"the {side} kidney" in prompt
            assert "phase." in prompt
    with pytest.raises(DataError, match=r"lacks \{phase\} phase"):
        ReportImageDataModule(root, template="{side}", contract=CONTRACT, augmentation=PLAIN)


def test_a_seeded_part_of_the_validation_kidneys_selects(tiny_copy: Path) -> None:
    root = with_reports(tiny_copy)

    def kidneys(**options: int) -> dict[str, list[tuple[str, str]]]:
        found = ReportImageDataModule(root, contract=CONTRACT, augmentation=PLAIN, **options).plan.kidneys  # type: ignore[arg-type]
        keys = found[["patient_id", "side"]].astype(str).agg(tuple, axis=1)
        return {part: keys[found["part"] == part].tolist() for part in ("train", "val", "test", "unused")}

    whole, few, again = kidneys(), kidneys(validation_kidneys=1), kidneys(validation_kidneys=1)
    assert few == again
    assert len(whole["val"]) > 1 == len(few["val"])
    assert sorted(few["val"] + few["unused"]) == sorted(whole["val"])
    assert (few["train"], few["test"]) == (whole["train"], whole["test"])
    with pytest.raises(DataError, match="validation_kidneys=0"):
        kidneys(validation_kidneys=0)


@pytest.fixture(scope="module")
def job(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A tiny cohort, its runs with every stage that the systems need, and the base."""
    import shutil

    folder = tmp_path_factory.mktemp("generation")
    root = with_reports(Path(shutil.copytree(tiny_root, folder / "tiny")))
    runs, base = folder / "runs", make_base(folder / "base")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(FLAGS))
    short = [f"--config={folder / 'tiny.yaml'}", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
    cohort = Cohort.load(root)
    image.run(Pretraining(data=root, runs=runs, devices="1", extra=tuple(short)), cohort, None)
    export(stage_folder(runs, cohort, "alignment", 42, None) / "encoder", encoder=REGIONS)
    small = ["--text.layers=2", "--text.lora_rank=2", f"--text.base={base}"]
    as_exported = [
        "--encoder.width=8",
        "--encoder.deep_width=null",
        "--encoder.stem_size=7",
        "--encoder.region_width=4",
    ]
    report.run(Pretraining(data=root, runs=runs, devices="1", extra=(*short, *small, *as_exported)), cohort, None)
    fill_cache(runs, cohort.info.name, side_reports(cohort)["text"].tolist())
    return root, runs, base


def test_from_images_to_scored_reports(
    job: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, runs, base = job
    configure_output()
    cohort = Cohort.load(root)
    stage = stage_folder(runs, cohort, "report", 42, None)
    first, second = (
        load_report_writer(stage / name / "writer", str(base), "cpu")[0] for name in STAGES["report"].parts
    )
    assert not first.text.adapter
    assert second.text.adapter
    checkpoint = torch.load(stage / "report_adapters/checkpoints/best.ckpt", weights_only=True)
    assert str(base) not in str(checkpoint["hyper_parameters"])
    assert not any("image_encoder" in name for name in checkpoint["state_dict"])

    flags = [f"--config={runs.parent / 'tiny.yaml'}"]
    generate(SYSTEMS, root, runs=runs, max_tokens=8, base=str(base), extra=flags)
    tables = {name: read_generated(system_folder(runs, cohort, name, 42) / "generated.parquet") for name in SYSTEMS}
    keys = ["patient_id", "study_id", "side"]
    for table in tables.values():
        assert table[keys].equals(tables["writer"][keys])
        assert set(table["role"]) <= {"internal", "external"}
    training = set(side_reports(cohort)["text"])
    assert set(tables["nearest"]["text"]) <= training
    assert tables["template"]["text"].str.contains("kidney").all()
    facts = read_parquet(system_folder(runs, cohort, "planned", 42) / "facts.parquet")[0]
    assert not facts.duplicated([*keys, "attribute"]).any()
    assert facts["probability"].between(0, 1).all()
    assert len(facts[keys].drop_duplicates()) == len(tables["planned"])
    tokens = read_parquet(system_folder(runs, cohort, "writer", 42) / "tokens.parquet")[0]
    means = tokens.groupby(keys)["logprob"].mean().reset_index()["logprob"]
    pd.testing.assert_series_equal(
        means.astype(float), tables["writer"]["mean_logprob"].astype(float), check_names=False
    )
    with pytest.raises(DataError, match="No training report of cohort tiny says that a left kidney has no lesion"):
        generate(["normal"], root, runs=runs, extra=flags)  # every left kidney of this cohort has one
    capsys.readouterr()
    generate(["writer"], root, runs=runs, max_tokens=8, base=str(base), extra=flags)
    assert "finished already" in capsys.readouterr().out
    with pytest.raises(DataError, match="other settings"):
        generate(["writer"], root, runs=runs, max_tokens=9, base=str(base), extra=flags)

    score_reports(data=root, runs=runs, replicates=20)
    shown = capsys.readouterr().out
    assert "facts, micro F1" in shown
    folder = system_folder(runs, cohort, "scores", 42)
    results = pd.read_csv(folder / "results.csv")
    assert set(results["system"]) == set(SYSTEMS)
    assert (folder / "scores.png").stat().st_size > 10_000
    assert not any(patient in (folder / "results.csv").read_text() for patient in cohort["patients"]["patient_id"])


def test_bad_requests_are_refused(job: tuple[Path, Path, Path], tmp_path: Path) -> None:
    root, _, _ = job
    with pytest.raises(DataError, match="SYSTEM=writr is not known"):
        generate(["writr"], root, runs=tmp_path)
    with pytest.raises(DataError, match="no reports by any system"):
        score_reports(data=root, runs=tmp_path)
    flags = [f"--config={job[1].parent / 'tiny.yaml'}"]
    with pytest.raises(DataError, match="make pretrain STAGES=report"):
        generate(["writer"], root, runs=tmp_path, extra=flags)


def test_two_commands_at_once_write_a_report_once(
    job: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, runs, _ = job
    configure_output()
    flags = [f"--config={runs.parent / 'tiny.yaml'}"]
    shutil.copytree(runs, tmp_path / "runs", ignore=shutil.ignore_patterns("reports"))
    folder = system_folder(tmp_path / "runs", Cohort.load(root), "nearest", 42)
    generate(["nearest"], root, runs=tmp_path / "runs", extra=flags)
    written = folder.rename(tmp_path / "written")
    claim = folder.with_name(f".{folder.name}.lock")
    with ThreadPoolExecutor() as pool:
        with held(claim):
            second = pool.submit(generate, ["nearest"], root, runs=tmp_path / "runs", extra=flags)
            with pytest.raises(TimeoutError):
                second.result(timeout=5)
            assert not folder.exists()
            written.rename(folder)
            capsys.readouterr()
        assert second.result(timeout=60) == 0
    assert "finished already" in capsys.readouterr().out
    assert not claim.exists()
