"""Models that travel: the folder says what the runs say, through the hub as from the disk, and names no patient."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub.hub_mixin
import pytest

from experiments.assessment.assessor import Assessor
from experiments.assessment.patient_files import one_patient
from experiments.assessment.portable import ASSESSMENT, PortableAssessor
from experiments.cli import main
from lightning_modules.core.errors import ModelError
from tests.experiments.assessment.place import TASKS, Place

pytestmark = pytest.mark.slow
REPOSITORY = "somebody/renal-mass"


@pytest.fixture(scope="module")
def assessor(place: Place) -> Assessor:
    return Assessor.of_runs(place.data, place.runs, cases=False, outside_training=True)


@pytest.fixture(scope="module")
def folder(assessor: Assessor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("portable") / "model"
    PortableAssessor(assessor).save_pretrained(target)
    return target


class Hub:
    """Stands for the server: a folder."""

    def __init__(self, store: Path) -> None:
        self.store, self.made = store, ""

    def create_repo(self, repo_id: str, **_: Any) -> Any:
        self.made = repo_id
        return type("Repository", (), {"repo_id": repo_id})()

    def upload_folder(self, *, repo_id: str, folder_path: str | Path, **_: Any) -> str:
        shutil.copytree(folder_path, self.store / repo_id)
        return f"https://hub/{repo_id}"


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_says_what_the_runs_say(place: Place, assessor: Assessor, folder: Path, kind: type) -> None:
    patient = one_patient(place.files / "E1-0002")
    loaded = PortableAssessor.from_pretrained(kind(folder), outside_training=True)
    found, expected = loaded(patient.image, patient.masks).content, assessor(patient.image, patient.masks).content
    assert found == expected
    index = next(kidney for kidney in found["kidneys"] if kidney["index"])
    assert set(index["tasks"]) == set(TASKS)
    assert "probabilities" in index["tasks"]["malignancy"]
    assert index["attributes"]


def test_it_goes_to_the_hub_and_comes_back(
    place: Place, assessor: Assessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", lambda **_: hub)
    PortableAssessor(assessor).push_to_hub(REPOSITORY)
    assert hub.made == REPOSITORY

    def fetched(repo_id: str, **_: Any) -> str:
        if repo_id != REPOSITORY:
            raise OSError("offline")
        return str(tmp_path / "hub" / repo_id)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    monkeypatch.setattr(
        huggingface_hub.hub_mixin, "hf_hub_download", lambda repo_id, filename, **_: f"{fetched(repo_id)}/{filename}"
    )
    loaded = PortableAssessor.from_pretrained(REPOSITORY)
    assert loaded.assessor.models.sha256 == assessor.models.sha256
    assert not loaded.assessor.outside_training
    with pytest.raises(ModelError, match="was not found on the hub"):
        PortableAssessor._from_pretrained(
            model_id="nobody/nothing", revision=None, cache_dir=None, force_download=False, local_files_only=False,
            token=None,
        )  # fmt: skip


def test_the_folder_is_whole_and_names_nobody(place: Place, folder: Path) -> None:
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert names >= {"README.md", "config.json", "contract.json", "model.safetensors", ASSESSMENT}
    assert {f"tasks/{task}/head.safetensors" for task in TASKS} <= names
    assert not any(name.endswith((".parquet", ".pt", ".ckpt", ".pkl")) for name in names)
    everything = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert not re.search(rb"[PIE]\d-\d{4}", everything)
    assert str(place.data).encode() not in everything
    card = (folder / "README.md").read_text()
    for wanted in ("research only", "Intended use", "Limits", "SHA-256", "validation patients", "Phantom|phantom|few"):
        assert re.search(wanted, card), wanted
    content = json.loads((folder / ASSESSMENT).read_text())
    own = content["calibration"]["malignancy"]["scores_of_own_class"]
    assert sum(map(len, own)) == content["calibration"]["malignancy"]["validation_patients"]
    assert all(scores == sorted(scores) for scores in own)


def test_what_does_not_belong_together_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"holds no assessment\.json"):
        PortableAssessor.from_pretrained(tmp_path / "empty")
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    content = json.loads((other / ASSESSMENT).read_text())
    (other / ASSESSMENT).write_text(json.dumps({**content, "encoder_sha256": "0" * 64}))
    with pytest.raises(ModelError, match="its tasks belong to 000000000000"):
        PortableAssessor.from_pretrained(other)
    (other / ASSESSMENT).write_text(json.dumps({name: content[name] for name in content if name != "calibration"}))
    with pytest.raises(ModelError, match="has no calibration"):
        PortableAssessor.from_pretrained(other)
    (other / ASSESSMENT).write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(ModelError, match="format 99"):
        PortableAssessor.from_pretrained(other)


def test_the_command_writes_the_folder_with_onnx(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    where = [f"--out={tmp_path / 'out'}", f"--data={place.data}", f"--runs={place.runs}"]
    assert main(["export", *where, "--onnx=true"]) == 0
    assert re.search(
        r"ONNX differs from torch by \d\.\de-\d\d at most; \d+\.\d\d times as fast", capsys.readouterr().out
    )
    assert (tmp_path / "out/model.onnx").is_file()
    assert main(["export", *where]) == 2
    assert "holds an export already" in capsys.readouterr().err
