"""The linear model of a downstream task on frozen features, as a folder: what a finished probe leaves for new patients.

It is of use with the very encoder whose features it was fitted on, and says by a hash which one that is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lightning_modules.core.errors import ModelError
from lightning_modules.export.layout import Layout

HEAD, HEAD_CONFIG, HEAD_FOLDER = "head.safetensors", "head.json", "head"
TASK_HEAD = Layout(
    "Task head",
    HEAD_CONFIG,
    HEAD,
    ("task", "outcome", "classes", "endpoint", "phases", "crop", "patients", "events", "encoder_sha256"),
    "make finetune MODE=probe",
    kind="task_head",
)


@dataclass(frozen=True)
class TaskHead:
    """A logistic regression, or a Cox model with its baseline hazard.

    Args:
        task: Name of the task.
        outcome: `classification`, or `survival`.
        classes: Names of the classes, in order; none of a survival task.
        endpoint: rfs, dss or os; empty of a classification.
        phases: How the task's DataModule takes the phases of a visit.
        crop: Voxels D x H x W that the encoder was shown.
        patients: Number of patients it was fitted on.
        events: Of those, by class, or with an event.
        encoder_sha256: Hash of the weights whose features it reads.
        mean: float64 [F], taken from a feature.
        scale: float64 [F], by which the rest is divided.
        weight: float64 [C, F], one row a class; one row of a Cox model.
        bias: float64 [C]; of a Cox model the log-risk that is taken from a patient's, [1].
        months: float64 [T], times of the baseline hazard; empty of a classification.
        hazard: float64 [T], cumulative baseline hazard at the log-risk `-bias`.
        risk_cuts: float64 [G - 1], log-risks that part the training patients into groups of equal size.
    """

    task: str
    outcome: Literal["classification", "survival"]
    classes: tuple[str, ...]
    endpoint: str
    phases: str
    crop: tuple[int, int, int]
    patients: int
    events: tuple[int, ...]
    encoder_sha256: str
    mean: torch.Tensor
    scale: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    months: torch.Tensor
    hazard: torch.Tensor
    risk_cuts: torch.Tensor

    def scores(self, feature: torch.Tensor) -> torch.Tensor:
        """Score of every class, adding up to one; float64 [N, C].

        Args:
            feature: float [N, F], averaged over the views of a patient.
        """
        return (self._standardised(feature) @ self.weight.T + self.bias).softmax(dim=1)

    def log_risk(self, feature: torch.Tensor) -> torch.Tensor:
        """Higher where the event comes sooner, float64 [N], of features as of `scores`."""
        return self._standardised(feature) @ self.weight[0]

    def survival(self, log_risk: torch.Tensor) -> torch.Tensor:
        """Breslow's curve at `months`, float64 [N, T], of log-risks [N]."""
        return torch.exp(-(log_risk + self.bias).exp()[:, None] * self.hazard)

    def risk_group(self, log_risk: torch.Tensor) -> torch.Tensor:
        """Group by the cuts of the training patients, int64 [N]; 0 is the lowest risk."""
        return torch.bucketize(log_risk.double(), self.risk_cuts)

    def _standardised(self, feature: torch.Tensor) -> torch.Tensor:
        if feature.shape[1] != len(self.mean):
            raise ModelError(
                f"The head of task {self.task} was given {feature.shape[1]} features; it reads {len(self.mean)}."
            )
        return (feature.double() - self.mean) / self.scale


_TENSORS = ("mean", "scale", "weight", "bias", "months", "hazard", "risk_cuts")


def save_task_head(folder: Path, head: TaskHead) -> None:
    """Write a head; its tensors are written last, so that a folder with them is complete.

    Args:
        folder: Folder to write.
        head: The head.
    """
    config: dict[str, Any] = {name: getattr(head, name) for name in TASK_HEAD.fields}
    TASK_HEAD.write(folder, config, {name: getattr(head, name).contiguous() for name in _TENSORS})


def load_task_head(folder: Path, encoder_sha256: str) -> TaskHead:
    """Read a head; nothing in it is executed.

    Args:
        folder: Its folder.
        encoder_sha256: Hash of the weights of the encoder at hand.

    Raises:
        ModelError: if it is absent, damaged, or that of other weights.
    """
    config, _, state, _ = TASK_HEAD.read(folder)
    if config["encoder_sha256"] != encoder_sha256:
        raise ModelError(
            f"The head of task {config['task']} belongs to encoder {str(config['encoder_sha256'])[:12]}, and the one "
            f"at hand is {encoder_sha256[:12]}; run `make finetune TASK={config['task']} MODE=probe` again, with TAG= "
            "where the name is taken."
        )
    absent = [name for name in _TENSORS if name not in state]
    if absent:
        raise ModelError(f"The head of task {config['task']} lacks {', '.join(absent)}; run the probe again.")
    values: dict[str, Any] = {name: config[name] for name in TASK_HEAD.fields}
    try:
        values |= {name: tuple(config[name]) for name in ("classes", "crop", "events")}
        values |= {name: state[name].double() for name in _TENSORS}
        head = TaskHead(**values)
        _check(head)
    except (TypeError, ValueError) as error:
        raise ModelError(f"The head of task {config['task']} is damaged ({error}); run the probe again.") from error
    return head


def _check(head: TaskHead) -> None:
    """Refuse what does not belong together.

    Raises:
        ValueError: naming it.
    """
    survival = head.outcome == "survival"
    rows = 1 if survival else len(head.classes)
    shapes = {"mean": head.mean.shape, "scale": head.mean.shape, "weight": (rows, *head.mean.shape), "bias": (rows,)}
    shapes |= {"months": head.hazard.shape, "risk_cuts": (len(head.risk_cuts),)}
    for name, shape in shapes.items():
        if tuple(getattr(head, name).shape) != tuple(shape):
            raise ValueError(f"{name} has the shape {tuple(getattr(head, name).shape)}, expected {tuple(shape)}")
    wrong = [name for name in _TENSORS if not getattr(head, name).isfinite().all()]
    if wrong or not (head.scale > 0).all():
        raise ValueError(f"{(*wrong, 'scale')[0]} holds numbers that it cannot hold")
    if not survival and head.outcome != "classification":
        raise ValueError(f"outcome {str(head.outcome)[:40]!r}")
    if not all(isinstance(name, str) for name in (*head.classes, head.task, head.endpoint, head.phases)):
        raise ValueError("a name is no text")
    if len(head.crop) != 3 or not all(isinstance(size, int) and size > 0 for size in head.crop):
        raise ValueError(f"crop {str(head.crop)[:40]}")
