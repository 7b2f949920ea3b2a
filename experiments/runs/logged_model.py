"""An exported folder as a model of MLflow: what goes in and comes out, the card, and the files, for its page of models.

MLflow runs nothing of it: the folder holds tensors and text, and `renal_vlm` has the function that loads it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.entities import LoggedModelOutput, LoggedModelStatus
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.tracking import MlflowClient
from mlflow.types.schema import ColSpec, Schema, TensorSpec

from lightning_modules.export.layout import CARD

NOTE, PARENT = "mlflow.note.content", "mlflow.parentRunId"
"""Tags that MLflow's page reads: the description in Markdown, and the run that a run stands beneath."""


@dataclass(frozen=True)
class ExportedModel:
    """What a run exported.

    Args:
        folder: Name of the exported folder within the run's folder, and of the model.
        loader: Function of `renal_vlm` that loads it.
        signature: What goes in and comes out, as the functions below give it.
    """

    folder: str
    loader: str
    signature: Mapping[str, Any]


def image_signature(seen: Sequence[int], features: int) -> dict[str, Any]:
    """That of an image encoder: images float32 [B, C, D, H, W] in 0 to 1, C to W in `seen`, to features [B, F]."""
    image = TensorSpec(np.dtype(np.float32), (-1, *seen), "image")
    return _signature(Schema([image]), Schema([TensorSpec(np.dtype(np.float32), (-1, features))]))


def text_signature(features: int) -> dict[str, Any]:
    """That of a text encoder: reports to embeddings float32 [B, F]."""
    return _signature(Schema([ColSpec("string", "report")]), Schema([TensorSpec(np.dtype(np.float32), (-1, features))]))


def writer_signature(seen: Sequence[int]) -> dict[str, Any]:
    """That of a report writer: images float32 [B, C, D, H, W] in 0 to 1, C to W in `seen`, to reports."""
    image = TensorSpec(np.dtype(np.float32), (-1, *seen), "image")
    return _signature(Schema([image]), Schema([ColSpec("string", "report")]))


def _signature(inputs: Schema, outputs: Schema) -> dict[str, Any]:
    found: dict[str, Any] = ModelSignature(inputs, outputs).to_dict()
    return found


def log_model(client: MlflowClient, run_id: str, run: Path, exported: ExportedModel) -> None:
    """Give MLflow a model of a run. One that is there is not made again; one that was half sent is completed.

    Args:
        client: Client of the store.
        run_id: The run that trained it.
        run: The run's folder.
        exported: The model.
    """
    folder = run / exported.folder
    experiment = client.get_run(run_id).info.experiment_id
    known = client.search_logged_models([experiment], filter_string=f"source_run_id = '{run_id}'")
    model = next((found for found in known if found.name == exported.folder), None)
    if model is None:
        card = (folder / CARD).read_text(encoding="utf-8")
        model = client.create_logged_model(experiment, exported.folder, run_id, {NOTE: card})
    if model.status == LoggedModelStatus.READY:
        return
    signature = ModelSignature.from_dict(dict(exported.signature))
    described = Model(run_id=run_id, signature=signature, model_id=model.model_id)
    described.add_flavor("renal_vlm", loader=exported.loader)
    client.log_model_artifacts(model.model_id, str(folder))
    with tempfile.TemporaryDirectory() as scratch:
        described.save(Path(scratch) / MLMODEL_FILE_NAME)
        client.log_model_artifacts(model.model_id, scratch)
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
