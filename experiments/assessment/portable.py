"""All that an assessment needs of its models as one folder that travels: to a colleague, or to the Hugging Face hub."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import ModelHubMixin

from datamodules.cohort.trained_on import TrainedOn
from datamodules.files import read_json_mapping, write_json
from datamodules.volumes.contract import PreprocessingContract
from experiments.assessment.assessment_page import held_out
from experiments.assessment.assessor import Assessed, Assessor
from experiments.assessment.draft import Draft
from experiments.assessment.task_models import Models
from experiments.attribution.tested_maps import MAPS
from experiments.doubt.calibrators import Calibrator, ChosenCalibrator
from experiments.doubt.prediction_sets import PredictionSets
from experiments.doubt.reference import LIKENESS, LIKENESS_CONFIG
from experiments.doubt.scan_gate import open_gate
from experiments.doubt.task_doubt import Validated
from experiments.encoders.attribute_reader import AttributeReader
from experiments.registry import TASKS
from lightning_modules.core.errors import ModelError
from lightning_modules.export.attribute_heads import HEADS, HEADS_CONFIG, load_heads
from lightning_modules.export.hub import hub_folder
from lightning_modules.export.image import CONFIG, CONTRACT, WEIGHTS, load_exported
from lightning_modules.export.layout import CARD
from lightning_modules.export.task_head import load_task_head, save_task_head

ASSESSMENT, TASK_HEADS = "assessment.json", "tasks"
FORMAT = 1
_FIELDS = (
    "encoder", "encoder_sha256", "tasks", "held_out", "calibration", "absent", "courses", "tested_maps",
    "draft", "origin", "facts",
)  # fmt: skip
_ENCODER = (WEIGHTS, CONFIG, CONTRACT, HEADS, HEADS_CONFIG, LIKENESS, LIKENESS_CONFIG, MAPS)
"""Files of the exported encoder that travel; whom it was trained on does not, but for a hash."""


class PortableAssessor(ModelHubMixin, library_name="renal-vlm-suite", tags=["renal-cancer", "computed-tomography"]):
    """An assessor as a folder: `from_pretrained`, `save_pretrained` and `push_to_hub` are those of huggingface_hub.

    Tensors are safetensors and everything else is JSON, so that nothing in a folder is executed. No patient travels: of
    whom the models were trained on a hash, of the validation patients their scores of their own class, sorted.

        found = PortableAssessor.from_pretrained("folder")(Path("study"), masks=[Path("mask.nii.gz")])

    Args:
        assessor: The models.
        card: Model card in Markdown; one by `card_of` when left out.
    """

    # Taken as given: the mixin would copy the models, a dataclass, into a configuration of its own.
    _hub_mixin_config: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, assessor: Assessor, card: str = "") -> None:
        self.assessor = assessor
        self.card = card or card_of(assessor)

    @property
    def attributes(self) -> bool:
        """Whether the attribute heads travel: those that lie beside the encoder of the tasks."""
        return (self.assessor.models.folder / HEADS).is_file()

    def __call__(self, *scan: Any, **how: Any) -> Assessed:
        """Assess one patient, as `Assessor` does."""
        return self.assessor(*scan, **how)

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the folder; `assessment.json` is written last, so that a folder with it is complete."""
        models, folder = self.assessor.models, Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ASSESSMENT).unlink(missing_ok=True)
        for name in _ENCODER:
            if (models.folder / name).is_file():
                shutil.copyfile(models.folder / name, folder / name)
        for task, head in models.heads.items():
            save_task_head(folder / TASK_HEADS / task, head)
        (folder / CARD).write_text(self.card, encoding="utf-8")
        content = {
            "format": FORMAT,
            "encoder": models.name,
            "encoder_sha256": models.sha256,
            "tasks": list(models.heads),
            "held_out": {task: dict(found) for task, found in models.held_out.items()},
            "calibration": {task: _plain(one) for task, one in models.certainty.items()},
            "absent": dict(models.absent),
            "courses": {task: dict(found) for task, found in models.courses.items()},
            "tested_maps": dict(models.tested_maps),
            "draft": self.assessor.draft.to_dict(),
            "origin": self.assessor.origin,
            "facts": dict(self.assessor.facts),
        }
        write_json(folder / ASSESSMENT, content)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        intensity: str = "acquired",
        outside_training: bool = False,
        **_: Any,
    ) -> PortableAssessor:
        """Read a folder, or a repository of the hub.

        Raises:
            ModelError: if there is neither, or a file is absent, damaged, or belongs to another encoder.
            DataError: if `assessment.json` is not JSON.
        """
        folder = Path(model_id).expanduser()
        if not folder.is_dir():
            folder = hub_folder(
                folder.name,
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
        return cls(_read(folder, intensity, outside_training), card)


def _plain(certainty: Validated) -> dict[str, Any]:
    chosen, sets = certainty.chosen, certainty.sets
    own = [np.sort(sets.score[sets.target == number, number]).tolist() for number in range(sets.score.shape[1])]
    return {"validation_patients": chosen.n, **chosen.calibrator.to_dict(), "scores_of_own_class": own}


def _validated(content: Mapping[str, Any]) -> Validated:
    own = [np.asarray(scores, dtype=np.float64) for scores in content["scores_of_own_class"]]
    target = np.repeat(np.arange(len(own)), [len(scores) for scores in own])
    score = np.zeros((len(target), len(own)))
    score[np.arange(len(target)), target] = np.concatenate(own)
    chosen = ChosenCalibrator(Calibrator.of_dict(content), {}, content["validation_patients"])
    return Validated(chosen, PredictionSets(score, target))


def _read(folder: Path, intensity: str, outside_training: bool) -> Assessor:
    if not (folder / ASSESSMENT).is_file():
        raise ModelError(f"{folder.name} holds no {ASSESSMENT}; expected what `make export` writes.")
    content = read_json_mapping(folder / ASSESSMENT)
    if content.get("format") != FORMAT:
        raise ModelError(f"{folder.name} has format {content.get('format')}; expected {FORMAT}.")
    absent = [name for name in _FIELDS if name not in content]
    if absent:
        raise ModelError(f"{folder.name}: {ASSESSMENT} has no {', '.join(absent)}; fetch or export it again.")
    encoder, exported = load_exported(folder)
    if exported.sha256 != content["encoder_sha256"]:
        raise ModelError(
            f"{folder.name} holds encoder {exported.sha256[:12]}; its tasks belong to "
            f"{content['encoder_sha256'][:12]}. Fetch or export it again."
        )
    contract = PreprocessingContract.from_dict(exported.contract)
    heads = {task: load_task_head(folder / TASK_HEADS / task, exported.sha256) for task in content["tasks"]}
    certainty = {task: _validated(one) for task, one in content["calibration"].items()}
    models = Models(
        content["encoder"], folder, encoder, exported.sha256, contract, heads, content["held_out"], certainty,
        content["absent"], content["courses"], content["tested_maps"],
    )  # fmt: skip
    reader = None
    if (folder / HEADS).is_file():
        reader = AttributeReader(encoder, load_heads(folder), exported.contract, TrainedOn.nobody(), folder)
    draft = Draft.of_dict(content["draft"])
    gate = open_gate(folder, encoder, models.augmentation)
    return Assessor(models, reader, gate, None, intensity, outside_training, content["origin"], content["facts"], draft)


def card_of(assessor: Assessor) -> str:
    """The model card: what it is for and what not, what it learned from, and how well it did.

    Args:
        assessor: The models.
    """
    models, facts = assessor.models, assessor.facts
    data = read_json_mapping(models.folder / CONFIG).get("training_data_sha256", "")
    rows = []
    for task, head in models.heads.items():
        found, sure = models.held_out.get(task, {}), models.certainty.get(task)
        how = "survival, a Cox model" if head.outcome == "survival" else ", ".join(map(str, head.classes))
        held = "calibrated on " + str(sure.chosen.n) + " validation patients" if sure else "not calibrated"
        rows.append(f"| {TASKS[task].title} | {how} | {held_out(found)} | {held} |")
    return "\n".join(
        [
            "---",
            "library_name: renal-vlm-suite",
            "tags: [renal-cancer, computed-tomography]",
            "---",
            "# Assessment of a renal mass on CT",
            "",
            "**For research only; not a medical device.**",
            "",
            "## Intended use",
            "Research on CT of the kidneys with a mask of kidney and lesion: nephrometry by geometry, and scores of "
            "the tasks below, for patients like those that it learned from. A gate says which kidneys are not, and no "
            "class of them is said.",
            "",
            "## Limits",
            "- No diagnosis, no treatment decision, no screening; not for children or transplants.",
            "- Survival is meaningful for malignant tumours alone, and has no interval for one patient.",
            "- Calibration and sets hold for patients like the validation patients of internal centres.",
            "- It does not find kidneys: a mask, SEG, RTSTRUCT or box shows where they are.",
            "",
            "## Trained on",
            f"{assessor.origin} Encoder `{models.name}`, pretraining {facts.get('pretrained', 'not known')}; SHA-256 "
            f"of its weights {models.sha256}, of the record of its training data {data or 'not known'}. "
            f"Intensities: {facts.get('intensity', 'not known')}.",
            "",
            "## On held-out patients",
            "| task | classes | result | calibration |",
            "|---|---|---|---|",
            *rows,
            "",
            "## Load",
            "    from pathlib import Path",
            "    from renal_vlm import PortableAssessor",
            '    assessor = PortableAssessor.from_pretrained("folder or owner/name")',
            '    found = assessor(Path("study"), masks=[Path("study/mask.nii.gz")]).content',
            "",
        ]
    )
