"""What a network is asked about a kidney: the logits of a task, an attribute or a prompt, out of its features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lightning_modules.core.errors import ModelError
from lightning_modules.downstream.task import Downstream
from lightning_modules.export.attribute_heads import AttributeHeads
from lightning_modules.export.task_head import TaskHead
from lightning_modules.networks.joint.aligned_model import AlignedModel

HIGH, LOW = "higher risk", "lower risk"
_ATTRIBUTE = "attribute "


def attribute_key(attribute: str) -> str:
    """Key of the maps of an attribute."""
    return f"{_ATTRIBUTE}{attribute}"


def prompt_key(task: str) -> str:
    """Key of the maps of a task's prompts."""
    return f"prompt {task}"


@dataclass(frozen=True)
class NetworkQuestion:
    """One question, answered from features alone.

    Args:
        name: Key of its maps, such as `malignancy`, `attribute necrosis` or `prompt malignancy`.
        title: What it is called.
        answers: Names of its classes; of a risk `HIGH` and `LOW`.
        logits: Maps float features [N, F] to float logits [N, C], with a gradient.
    """

    name: str
    title: str
    answers: tuple[str, ...]
    logits: Callable[[torch.Tensor], torch.Tensor]

    @property
    def attribute(self) -> str | None:
        """The attribute that is asked for; None of another question."""
        return self.name.removeprefix(_ATTRIBUTE) if self.name.startswith(_ATTRIBUTE) else None

    def evidence(self, feature: torch.Tensor, answer: int) -> torch.Tensor:
        """Log-odds of an answer, float [N], from features float [N, V, F] of the views of kidneys.

        Logits are averaged over the views, as patients' predictions are. Of a risk they are its distance to the level
        of the training patients.
        """
        count, views = feature.shape[:2]
        logits = self.logits(feature.flatten(0, 1)).unflatten(0, (count, views)).mean(dim=1)
        others = [number for number in range(logits.shape[1]) if number != answer]
        return logits[:, answer] - logits[:, others].logsumexp(dim=1)

    @torch.no_grad()
    def answer(self, feature: torch.Tensor) -> int:
        """The likeliest answer for one kidney, from the features float [1, V, F] of its views."""
        return max(range(len(self.answers)), key=lambda number: float(self.evidence(feature, number)[0]))


Asked = Sequence[tuple[NetworkQuestion, int]]
"""Questions, each with the answer whose evidence is followed."""


def of_head(head: TaskHead, title: str) -> NetworkQuestion:
    """The question of a linear probe's head."""
    if head.outcome == "survival":
        return NetworkQuestion(
            head.task, title, (HIGH, LOW), lambda feature: _sides(_linear(head, feature) + head.bias)
        )
    return NetworkQuestion(head.task, title, head.classes, lambda feature: _linear(head, feature) + head.bias)


def of_network(module: Downstream, name: str, title: str, answers: tuple[str, ...]) -> NetworkQuestion:
    """The question of a fine-tuned network, about the features of its encoder.

    Args:
        module: The network, in evaluation mode.
        name: Task.
        title: What it is called.
        answers: Names of its classes; empty of a survival task, whose risk is held against 0.

    Raises:
        ModelError: if it weights phases by attention, or its outputs are no log-risk and no class.
    """
    outputs = int(module.head[-1].out_features)  # type: ignore[index]
    if module.fusion.kind != "mean" or outputs != (len(answers) or 1):
        raise ModelError(
            f"The network of task {name} has {outputs} outputs and fuses phases by {module.fusion.kind}; maps are made "
            "of classes or one log-risk, averaged over phases."
        )
    if answers:
        return NetworkQuestion(name, title, answers, module.head)
    return NetworkQuestion(name, title, (HIGH, LOW), lambda feature: _sides(module.head(feature)))


def of_attributes(heads: AttributeHeads) -> list[NetworkQuestion]:
    """The questions of the attribute heads of stage 1, averaged over the contrast phases where these are told."""
    sizes = [len(values) for values in heads.classes.values()]

    def logits(place: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def of(feature: torch.Tensor) -> torch.Tensor:
            if not heads.phases:
                return heads(feature).split(sizes, dim=1)[place]
            told = [torch.full((len(feature),), number, device=feature.device) for number in range(len(heads.phases))]
            mean = torch.stack([heads(feature, phase) for phase in told]).mean(dim=0)
            return mean.split(sizes, dim=1)[place]

        return of

    return [
        NetworkQuestion(attribute_key(name), name.replace("_", " "), tuple(values), logits(place))
        for place, (name, values) in enumerate(heads.classes.items())
    ]


def of_prompts(
    model: AlignedModel, task: str, title: str, answers: tuple[str, ...], text: torch.Tensor
) -> NetworkQuestion:
    """The zero-shot question of a task.

    Args:
        model: The aligned model.
        task: Task whose prompts they are.
        title: What it is called.
        answers: Names of the classes.
        text: float [C, d], mean unit vector of the prompts of each class.
    """
    scale = model.scale().detach()
    return NetworkQuestion(
        prompt_key(task),
        f"{title}, by prompts",
        answers,
        lambda feature: scale * (model.embed_features(feature).to(text.dtype) @ text.T),
    )


def _linear(head: TaskHead, feature: torch.Tensor) -> torch.Tensor:
    return ((feature.double() - head.mean) / head.scale) @ head.weight.T


def _sides(risk: torch.Tensor) -> torch.Tensor:
    """Logits of a higher and a lower risk, whose difference is the log-risk, of risks [N, 1]."""
    return torch.cat([risk / 2, -risk / 2], dim=1)
