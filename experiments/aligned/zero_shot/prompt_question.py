"""The zero-shot question of a task, whose answer can be mapped."""

from __future__ import annotations

import torch

from datamodules.cohort.labels import Label
from experiments.aligned.shared_space import SharedSpace
from experiments.aligned.zero_shot.prompt_scores import class_means
from experiments.aligned.zero_shot.prompt_sets import load_prompts
from experiments.attribution.network_questions import NetworkQuestion, of_prompts
from experiments.registry import TASKS
from lightning_modules.networks.joint.aligned_model import AlignedModel


def prompt_question(space: SharedSpace, model: AlignedModel, task: str, label: Label) -> NetworkQuestion:
    """What an aligned model is asked by the prompts of a task, its classes in the order of a label.

    Args:
        space: Embeds the prompts.
        model: The model of the space on the CPU, where maps are made; that of the space itself may be on a GPU.
        task: The task.
        label: Its label.

    Raises:
        DataError: if the task has no prompts, or they are not those of the label's classes.
    """
    texts, code = load_prompts(task).ordered(label.classes).prompts()
    text = torch.from_numpy(class_means(space.texts(texts, whole=True), code))
    return of_prompts(model, task, TASKS[task].title, tuple(label.class_names), text)
