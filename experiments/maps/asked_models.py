"""The networks whose answers are mapped: a linear probe, a fine-tuned network, attribute heads, or prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from datamodules.attributes import attribute_codes
from datamodules.batch import MISSING
from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.reports.schema import load_schema
from datamodules.tasks import RoiDataModule
from experiments.aligned.shared_space import SpaceOptions, load_space
from experiments.aligned.zero_shot.prompt_question import prompt_question
from experiments.attribution.network_questions import NetworkQuestion, of_attributes, of_head, of_network
from experiments.attribution.tested_maps import aligned_weights, attribute_weights, head_weights, weights_of
from experiments.doubt.statements import PRESENT
from experiments.encoders.exported import exported_encoder
from experiments.finetuning.point import Point
from experiments.registry import ENCODERS, TASKS
from experiments.runs.launch import DONE, LAST
from experiments.runs.pretrained import pretrained_from
from experiments.runs.suite_cli import check_checkpoint, read_checkpoint
from lightning_modules.downstream.task import Downstream
from lightning_modules.export.aligned import load_aligned
from lightning_modules.export.attribute_heads import HEADS, load_heads
from lightning_modules.export.image import load_exported
from lightning_modules.export.task_head import HEAD_FOLDER, load_task_head
from lightning_modules.networks.image.published.checkpoint import file_sha256
from lightning_modules.networks.joint.aligned_model import AlignedModel


@dataclass(frozen=True)
class AskedModel:
    """One network and what it is asked.

    Args:
        encoder: In evaluation mode.
        module: DataModule of the task, whose kidneys are tested.
        questions: What it is asked.
        folder: Where the result of the test is kept: beside the model.
        weights: Hash of what answers.
    """

    encoder: nn.Module
    module: RoiDataModule
    questions: Sequence[NetworkQuestion]
    folder: Path
    weights: str

    def truth(self, question: NetworkQuestion, kidneys: Sequence[int]) -> list[int | None]:
        """The true answer for kidneys, rows of the plan; None where there is none to be right about.

        A risk has none; an attribute that the report does not state has -100.
        """
        plan = self.module.plan
        name = question.attribute
        if name == PRESENT:
            return [question.answers.index("yes")] * len(kidneys)  # the mask draws one in each of them
        if name is not None:
            rows, schema = plan.kidneys.loc[list(kidneys)].reset_index(drop=True), load_schema()
            codes = attribute_codes(plan.cohort["attributes"], rows, schema, [name])[:, 0]
            values = schema.classes[name]
            return [MISSING if code == MISSING else question.answers.index(values[code]) for code in codes]
        if self.module.label.kind == "survival":
            return [None] * len(kidneys)
        return [int(plan.fields["target"][kidney]) for kidney in kidneys]


def probed(point: Point, cohort: Cohort, fold: int | None) -> AskedModel:
    """The linear probe of a finished run.

    Raises:
        DataError: if the run is not finished.
        ModelError: if it left no head, or that of other weights.
    """
    folder = _finished(point, cohort, fold)
    encoder, exported = load_exported(_export(point, cohort, fold))
    head = load_task_head(folder / HEAD_FOLDER, exported.sha256)
    module = point.launch(cohort, fold).configuration.build().datamodule
    weights = head_weights(folder, exported.sha256)
    return AskedModel(encoder, module, [of_head(head, TASKS[point.task].title)], folder, weights)


def fine_tuned(point: Point, cohort: Cohort, fold: int | None) -> AskedModel:
    """The network of a finished fine-tuning, with the weights that were tested.

    Raises:
        DataError: if the run is not finished.
        ModelError: if its checkpoint is damaged, or another network's.
    """
    folder = _finished(point, cohort, fold)
    cli = point.launch(cohort, fold).configuration.build()
    path = folder / "checkpoints" / LAST
    content = read_checkpoint(path)
    check_checkpoint(content, cli.model.class_path(), cli.model.contract)
    cli.model.load_state_dict(content["state_dict"])
    model: Downstream = cli.model.eval()
    answers = tuple(cli.datamodule.label.class_names)
    question = of_network(model, point.task, TASKS[point.task].title, answers)
    return AskedModel(model.encoder.eval(), cli.datamodule, [question], folder, weights_of(file_sha256(path)))


def attributes_of(
    point: Point, cohort: Cohort, fold: int | None, names: Sequence[str], probe: AskedModel
) -> AskedModel:
    """The attribute heads beside the exported encoder of a probe, on its kidneys.

    Raises:
        DataError: if there are no heads, or an attribute is not among them.
    """
    folder = _export(point, cohort, fold)
    if not (folder / HEADS).is_file():
        raise DataError(f"ENCODER={point.encoder} has no attribute heads beside it; choose ENCODER=stage1.")
    if "attributes" not in cohort.tables and list(names) != [PRESENT]:
        raise DataError(f"Cohort {cohort.info.name} has no attributes; run `make attributes DATA=` first.")
    known = {question.attribute: question for question in of_attributes(load_heads(folder))}
    absent = [name for name in names if name not in known]
    if absent:
        raise DataError(
            f"ATTRIBUTES={','.join(absent)} is not read by these heads; they know {', '.join(map(str, known))}."
        )
    questions, weights = [known[name] for name in names], attribute_weights(folder)
    return AskedModel(probe.encoder, probe.module, questions, folder, weights)


def prompted(point: Point, cohort: Cohort, fold: int | None) -> AskedModel:
    """The zero-shot classes of a task by an aligned model.

    Raises:
        DataError: if the task has no prompts, or there is no aligned model.
    """
    module = point.launch(cohort, fold).configuration.build().datamodule
    if module.label.kind != "classification":
        raise DataError(f"TASK={point.task} is no classification; prompts name classes.")
    origin = pretrained_from(point.pretrained)
    space = load_space(cohort, SpaceOptions(point.runs, origin.seed, fold, encoder=point.encoder, tag=origin.tag))
    if space.folder is None or not isinstance(space.model, AlignedModel):
        raise DataError(f"ENCODER={point.encoder} is published; maps are made of models that the suite aligned.")
    model = load_aligned(space.folder)
    question = prompt_question(space, model, point.task, module.label)
    weights = aligned_weights(space.folder)
    return AskedModel(model.image_encoder.eval(), module, [question], space.folder, weights)


def _finished(point: Point, cohort: Cohort, fold: int | None) -> Path:
    folder = point.folder(cohort, fold)
    if not (folder / DONE).is_file():
        raise DataError(
            f"{folder.name} is not finished; run `make finetune TASK={point.task} MODE={point.mode} "
            f"ENCODER={point.encoder}` first."
        )
    return folder


def _export(point: Point, cohort: Cohort, fold: int | None) -> Path:
    origin = pretrained_from(point.pretrained)
    folder = exported_encoder(point.runs, cohort, point.encoder, origin.seed, fold, origin.tag)
    if folder is None or not folder.is_dir() or ENCODERS[point.encoder].release:
        raise DataError(f"ENCODER={point.encoder} exports no weights of its own; choose one that a stage trains.")
    return folder
