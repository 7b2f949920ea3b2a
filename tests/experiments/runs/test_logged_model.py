"""An exported folder is a model of MLflow: with card and signature, once, and found again where the runs were moved."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from mlflow.models import Model
from mlflow.tracking import MlflowClient

from datamodules.volumes.contract import PreprocessingContract
from experiments.runs import outbox
from experiments.runs.logged_model import NOTE, ExportedModel, image_signature
from experiments.runs.tracking import experiment_id, make_logger, store_client, tracking_uri
from lightning_modules.export.image import load_exported, save_encoder
from lightning_modules.networks.image.encoders import EncoderConfig, build_encoder

EXPERIMENT, SEEN = "renal/mine/pretrain", (1, 16, 20, 20)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / EXPERIMENT / "image-s42"
    config = EncoderConfig(width=4, depth=10)
    torch.manual_seed(0)
    save_encoder(
        folder / "encoder", build_encoder(config), config, PreprocessingContract().to_dict(), "# Card\n\nOf **nobody**."
    )
    return folder


def _models(runs: Path) -> list[Any]:
    client = store_client(runs)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return list(client.search_logged_models([experiment.experiment_id]))


def _log(runs: Path, run: Path) -> str:
    logger = make_logger(runs, run, EXPERIMENT, "image-s42", {"stage": "image"})
    features = int(load_exported(run / "encoder")[0].feature_dim)  # type: ignore[arg-type]
    model = ExportedModel("encoder", "load_exported", image_signature(SEEN, features))
    logger.experiment.log_model(logger.run_id, model)
    logger.experiment.set_terminated()
    return str(logger.run_id)


def test_a_model_has_card_and_signature_and_is_what_was_exported(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    run_id = _log(runs, run)
    (model,) = _models(runs)
    assert (model.name, model.source_run_id, str(model.status)) == ("encoder", run_id, "READY")
    assert model.tags[NOTE] == "# Card\n\nOf **nobody**."
    assert [one.model_id for one in store_client(runs).get_run(run_id).outputs.model_outputs] == [model.model_id]
    moved = tmp_path / "elsewhere"
    shutil.move(runs, moved)
    experiment_id(store_client(moved), EXPERIMENT, moved)  # as the next run does
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
    mlflow.set_tracking_uri(tracking_uri(moved))
    (model,) = _models(moved)
    there = Path(mlflow.artifacts.download_artifacts(model.model_uri, dst_path=str(tmp_path / "got")))
    described = Model.load(str(there))
    assert str(tmp_path) not in (there / "MLmodel").read_text()
    assert described.flavors == {"renal_vlm": {"loader": "load_exported"}}
    network, _ = load_exported(there)
    (given,), (gives,) = described.signature.inputs.inputs, described.signature.outputs.inputs
    image = torch.rand(2, *given.shape[1:])
    assert tuple(given.shape) == (-1, *SEEN)
    with torch.inference_mode():
        features = network(image)
    assert features.numpy().dtype == gives.type
    assert features.shape[1:] == gives.shape[1:]


def test_a_model_that_was_half_sent_is_completed_and_not_made_twice(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, failed = MlflowClient.log_model_artifacts, []

    def fails_once(client: MlflowClient, model_id: str, *rest: Any) -> None:
        if not failed:
            failed.append(model_id)
            raise OSError("No space left on device")
        sent(client, model_id, *rest)

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", fails_once)
    monkeypatch.setattr(outbox, "_RETRY_S", (0.05,))
    _log(tmp_path / "runs", run)
    _log(tmp_path / "runs", run)
    (model,) = _models(tmp_path / "runs")
    assert failed == [model.model_id]
    assert str(model.status) == "READY"
