"""`maps` from the command line, and what of it one patient is shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest

from datamodules.augmentation import AugmentationConfig, VolumeAugmentation
from datamodules.importers.one_scan import Place as Shown
from datamodules.importers.one_scan import read_scan
from experiments.aligned.one_scan.scan import stated
from experiments.aligned.one_scan.scan_maps import said_attributes
from experiments.assessment.assessor import Assessor
from experiments.assessment.patient_files import one_patient
from experiments.assessment.portable import PortableAssessor
from experiments.attribution.network_questions import of_attributes, of_head
from experiments.attribution.shown_maps import shown_maps, write_map
from experiments.attribution.tested_maps import MAPS, POINTING, attribute_weights, head_weights, read_tested
from experiments.cli import main
from lightning_modules.export.attribute_heads import load_heads
from lightning_modules.export.image import load_exported
from lightning_modules.export.task_head import HEAD_FOLDER, load_task_head
from tests.experiments.assessment.place import CROP, Place
from tests.tiny import CONTRACT

pytestmark = pytest.mark.slow
RUN, EXPORT = "renal/few/os/stage1-probe-f1-s42", "renal/few/pretrain/image-s42/encoder"


def run(place: Place, *more: str) -> int:
    where = [f"--data={place.data}", f"--runs={place.runs}", f"--config={place.data.parent / 'tiny.yaml'}"]
    return main(["maps", "--encoder=stage1", *where, *more])


def test_maps_are_tested_and_the_result_lies_beside_the_model(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place, "--task=os", "--kidneys=3", "--random_kidneys=2", "--attributes=lesion_present") == 0
    said = capsys.readouterr().out
    assert "not shown" in said  # by random weights and three kidneys nothing is proved
    assert "MB" in said
    folder = place.runs / "renal/few/os/stage1-maps-probe-f1-s42"
    table = pd.read_csv(folder / "maps.csv")
    own = table[(table["question"] == "os") & (table["method"] == "regions")].set_index("statistic")
    assert own.loc[POINTING, "n"] == 3
    assert {"value", "low", "high", "n", "interval"} <= set(table)
    assert set(table["method"]) == {"gradient", "occlusion", "regions"}
    assert (folder / "maps.png").stat().st_size > 10_000
    lost = pd.read_csv(folder / "erased.csv")
    assert "lesion beyond as much parenchyma" in set(lost["statistic"])
    text = (place.runs / RUN / MAPS).read_text()
    assert "E1-" not in text
    content = json.loads(text)
    assert set(content["questions"]) == {"os"}
    assert content["questions"]["os"]["regions"]["failed"]
    encoder = place.runs / EXPORT
    assert (
        not (encoder / MAPS).exists()
        or "attribute lesion_present" in json.loads((encoder / MAPS).read_text())["questions"]
    )
    tested = read_tested(place.runs / RUN, head_weights(place.runs / RUN, load_exported(encoder)[1].sha256))
    assert tested == content


def test_one_patient_is_shown_what_passed_in_the_frame_of_the_scan(place: Place, tmp_path: Path) -> None:
    encoder, exported = load_exported(place.runs / EXPORT)
    head = load_task_head(place.runs / RUN / HEAD_FOLDER, exported.sha256)
    questions = [of_head(head, "Overall survival"), *of_attributes(load_heads(place.runs / EXPORT))]
    augmentation = VolumeAugmentation(CONTRACT, AugmentationConfig(crop=CROP))
    patient = place.files / "E1-0001"
    images = {path.name.split(".")[0]: path for path in patient.glob("*.nii.gz") if "mask" not in path.name}
    kidneys, _ = read_scan(images, CONTRACT, Shown((patient / "mask.nii.gz",)))
    said = {"os": None, "attribute margin": None}
    assert shown_maps(kidneys[0], encoder, augmentation, questions, None, said) == []

    def passed(method: str, value: float, shown: bool = True) -> dict[str, object]:
        return {method: {"shown": shown, "failed": [], "figures": {POINTING: {"value": value}}}}

    tested = {
        "questions": {
            "os": passed("regions", 0.9) | passed("occlusion", 0.95, shown=False),
            "attribute margin": passed("occlusion", 0.9),
        }
    }
    found = shown_maps(kidneys[0], encoder, augmentation, questions, tested, said)
    assert [(one.question, one.method) for one in found] == [("os", "regions"), ("attribute margin", "occlusion")]
    assert found[0].answer in ("higher risk", "lower risk")
    margin = found[1].answer
    other = next(answer for answer in ("smooth", "irregular") if answer != margin)
    for answer, shown in ((margin, 1), (other, 0)):  # of an answer that is not said there is no map
        own = shown_maps(kidneys[0], encoder, augmentation, questions, tested, {"attribute margin": answer})
        assert len(own) == shown
    for number, one in enumerate(found):
        assert one.values.shape == CONTRACT.grid
        assert np.abs(one.values).max() > 0
        path = tmp_path / f"{number}.nii.gz"
        write_map(path, one, kidneys[0], CONTRACT)
        image = nibabel.load(path)
        assert np.array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), one.values)
        located = kidneys[0].located
        assert located is not None
        middle = image.affine @ [*(np.array(image.shape) / 2 - 0.5), 1]
        assert middle[:3] == pytest.approx(located.center(CONTRACT.region))


def passing(n: int = 40) -> dict[str, Any]:
    point = {"value": 0.9, "low": 0.8, "high": 0.95, "n": n, "interval": "percentile bootstrap"}
    return {"shown": True, "failed": [], "figures": {POINTING: point}}


def test_an_assessment_shows_what_passed_and_nothing_else(place: Place, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(place.runs, runs)
    encoder, run = runs / EXPORT, runs / RUN
    failed = passing() | {"shown": False, "failed": ["points at 10% of the lesions, less than 80%"]}
    about = {"format": 1, "weights": attribute_weights(encoder), "erased": {}}
    own = {"attribute lesion_present": {"regions": passing(38)}, "attribute margin": {"regions": failed}}
    (encoder / MAPS).write_text(json.dumps(about | {"questions": own}))
    about["weights"] = head_weights(run, load_exported(encoder)[1].sha256)
    (run / MAPS).write_text(json.dumps(about | {"questions": {"os": {"occlusion": passing()}}}))

    def assessed(out: str) -> dict[str, Any]:
        where = [f"--data={place.data}", f"--runs={runs}", "--cases=false", "--outside_training=true"]
        assert main(["assess", f"--source={place.files / 'E1-0002'}", f"--out={tmp_path / out}", *where]) == 0
        content = json.loads((tmp_path / out / "assessment.json").read_text())
        return next(kidney for kidney in content["kidneys"] if kidney["index"])

    kidney = assessed("one")
    seen = kidney["lesion"]["score"] >= 0.5  # the mask shows a lesion: of "no" nothing is shown
    expected = {("os", "occlusion")} | ({("attribute lesion_present", "regions")} if seen else set())
    assert {(one["question"], one["method"]) for one in kidney["maps"]} == expected
    page = (tmp_path / "one/assessment.html").read_text()
    assert page.count("Such maps point at the lesion in 90% (80% to 95%)") == 2 * len(expected)  # text and alternative
    for one in kidney["maps"]:
        assert one["largest_in"] in ("lesion", "kidney", "elsewhere")
        assert nibabel.load(tmp_path / "one" / one["file"]).shape == CONTRACT.grid[::-1]
    loaded = PortableAssessor(Assessor.of_runs(place.data, runs, cases=False, outside_training=True))
    loaded.save_pretrained(tmp_path / "folder")
    patient = one_patient(place.files / "E1-0002")
    travelled = PortableAssessor.from_pretrained(tmp_path / "folder", outside_training=True)
    found = travelled(patient.image, patient.masks).content
    assert next(one for one in found["kidneys"] if one["index"])["maps"] == kidney["maps"]
    # A test of other weights counts for nothing, and the maps of before go with it.
    (run / MAPS).write_text(json.dumps(about | {"weights": "0" * 16, "questions": {"os": {"occlusion": passing()}}}))
    (encoder / MAPS).unlink()
    (tmp_path / "one/assessment.json").unlink()
    assert assessed("one")["maps"] == []
    assert not list((tmp_path / "one").glob("map_*"))
    assert "maps that passed" not in (tmp_path / "one/assessment.html").read_text()


def test_that_there_is_a_lesion_is_said_first_and_has_a_map(place: Place) -> None:
    """It stands beside the attributes, not among them."""
    read = {"lesion_present": {"value": "no", "scores": {"yes": 0.4, "no": 0.6}}}
    read["margin"] = {"value": "smooth", "scores": {"smooth": 0.7, "irregular": 0.3}}
    drawn = stated({"has_lesion": True}, read, {})
    assert said_attributes(drawn) == {"attribute margin": "smooth", "attribute lesion_present": "yes"}
    assert said_attributes(stated({"has_lesion": False}, read, {})) == {}


def test_what_cannot_be_asked_is_said(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(place, "--task=rfs") == 2
    assert "is not finished; run `make finetune TASK=rfs" in capsys.readouterr().err
    assert run(place, "--task=os", "--attributes=colour") == 2
    assert "Cohort few has no attributes" in capsys.readouterr().err
    assert run(place, "--task=os", "--methods=dreams") == 2
    assert "METHODS=dreams is no map of this encoder: gradient, occlusion, regions" in capsys.readouterr().err
    assert run(place, "--task=os", "--kidneys=0") == 2
    assert "expected at least 1" in capsys.readouterr().err
