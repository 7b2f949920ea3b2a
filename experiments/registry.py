"""The names that a user may choose: tasks, encoders, profiles, stages. Each is an entry here and one YAML file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from datamodules.errors import DataError
from lightning_modules.networks.image.published.releases import RELEASES

if TYPE_CHECKING:  # the command line is checked before pandas and torch are imported
    from datamodules.cohort.labels import Label

CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class TaskEntry:
    """A downstream task.

    Args:
        title: What it is called in tables.
        definition: What is predicted, for whom, in clinical terms.
        source: Where the definition is from.
        kind: `classification` or `survival`; decides what is trained, and the metric.
        words: Its classes in words by their names, where those are points and say nothing by themselves.
        prompts: Task of two classes whose prompts stand for it, of a survival task for a low and a high risk; its own
            where left out.
    """

    title: str
    definition: str
    source: str
    kind: Literal["classification", "survival"] = "classification"
    words: Mapping[str, str] = field(default_factory=dict)
    prompts: str = ""


@dataclass(frozen=True)
class EncoderEntry:
    """An image encoder.

    Args:
        title: What it is called in tables.
        weights: Where its weights come from.
        licence: Licence of the weights.
        citation: What to cite.
        stage: Pretraining stage that exports the weights for a cohort; None where none is needed.
        columns: Columns of the cohort's tables that it reads in the place of images, all known before surgery.
        release: Published weights that it takes, a name of `networks.image.published.releases.RELEASES`, with network,
            feature dimension, source and checksum; its preprocessing contract is in its YAML file.
        radiomics: Whether it reads radiomics, by the settings of `radiomics.yaml`; beside its features where it has
            weights.
        model: What is fitted on frozen features, radiomics or columns: `linear`, or `boosting` of trees.
        prompts: Whether a linear model on its frozen features starts from the prompts of the task, which need no label.
    """

    title: str
    weights: str
    licence: str
    citation: str
    stage: str | None = None
    columns: tuple[str, ...] = ()
    release: str = ""
    radiomics: bool = False
    model: Literal["linear", "boosting"] = "linear"
    prompts: bool = False

    @property
    def tabular(self) -> bool:
        """Whether a model is fitted on a table of its features in every mode, since no network can be trained."""
        return bool(self.columns) or self.radiomics or self.model == "boosting" or self.prompts

    @property
    def baseline(self) -> bool:
        """Whether it owes nothing to the pretraining stages of this suite."""
        return self.stage is None


@dataclass(frozen=True)
class StageEntry:
    """A pretraining stage; the module of its name under `experiments/pretraining/stages` runs it.

    Args:
        title: What it is called in tables.
        default: Whether `make pretrain` runs it.
        parts: The runs that it consists of, each a file under `configs/stage`; one of the stage's name where left out.
        variant_of: Stage that it is an ablation of: the same module and files, with its own file under
            `configs/variant` on top.
        start: Encoder of the registry whose weights it starts from; None for a stage without images.
        task: Downstream task whose labels it learns from.
    """

    title: str
    default: bool = True
    parts: tuple[str, ...] = ()
    variant_of: str | None = None
    start: str | None = "scratch"
    task: str | None = None

    def files(self, name: str, profile: str) -> list[list[Path]]:
        """The configuration files of each of its runs.

        Args:
            name: Its own name.
            profile: Size of the run.
        """
        parts = self.parts or (self.variant_of or name,)
        variant = name if self.variant_of else None
        return [compose(part, profile=profile, variant=variant, encoder=self.start, task=self.task) for part in parts]


_RENAL = "Kutikov and Uzzo, J Urol 2009;182:844"
_RENALCLIP = "Tao et al., Nature Communications 2026"
_RADIOMICS = "Zwanenburg et al., Radiology 2020;295:328; mirp, J Open Source Softw 2024;9:6413"

TASKS: dict[str, TaskEntry] = {
    "renal_r": TaskEntry(
        "R.E.N.A.L. radius",
        "Largest diameter of the index lesion: 4 cm or less, more than 4 and less than 7 cm, 7 cm or more.",
        _RENAL,
        words={"1": "4 cm or less", "2": "more than 4 and less than 7 cm", "3": "7 cm or more"},
    ),
    "renal_e": TaskEntry(
        "R.E.N.A.L. exophytic part",
        "50 % or more exophytic, less than 50 %, wholly endophytic, against the convex hull of the kidney.",
        _RENAL,
        words={"1": "50 % or more exophytic", "2": "less than 50 % exophytic", "3": "wholly endophytic"},
    ),
    "renal_n": TaskEntry(
        "R.E.N.A.L. nearness",
        "Distance to the renal sinus or collecting system: 7 mm or more, more than 4 and less than 7 mm, 4 mm or less.",
        _RENAL,
        words={
            "1": "7 mm or more from the sinus",
            "2": "more than 4 and less than 7 mm from the sinus",
            "3": "4 mm or less from the sinus",
        },
    ),
    "renal_a": TaskEntry(
        "R.E.N.A.L. anterior or posterior",
        "In front of the kidney's coronal plane, behind it, or neither (x).",
        _RENAL,
        words={"x": "neither anterior nor posterior"},
    ),
    "renal_l": TaskEntry(
        "R.E.N.A.L. location",
        "Outside the polar lines, crossing one, or more than half across, between them or crossing the midline.",
        _RENAL,
        words={
            "1": "outside the polar lines",
            "2": "crossing a polar line",
            "3": "more than half across a polar line, between them or crossing the midline",
        },
    ),
    "malignancy": TaskEntry(
        "Malignancy",
        "Malignant against benign in pathology, for the kidney of the index lesion.",
        _RENALCLIP,
    ),
    "aggressiveness": TaskEntry(
        "Aggressiveness",
        "Any of WHO/ISUP grade 3-4, pT3 or higher, N1, M1, necrosis, sarcomatoid or rhabdoid differentiation, against "
        "indolent or benign; what was not assessed counts as not present.",
        _RENALCLIP,
    ),
    "subtype": TaskEntry(
        "Subtype",
        "Histology of the index lesion: clear cell, papillary or chromophobe carcinoma, oncocytoma, or another benign "
        "lesion (angiomyolipoma, cyst, mixed epithelial and stromal tumour). Rarer kinds, and what pathology does not "
        "classify, are of no class.",
        "WHO Classification of Tumours, 5th ed. 2022; Moch et al., Eur Urol 2022;82:458",
        words={
            "clear_cell": "clear cell carcinoma",
            "papillary": "papillary carcinoma",
            "chromophobe": "chromophobe carcinoma",
            "other_benign": "other benign lesion",
        },
    ),
    "isup": TaskEntry(
        "ISUP group",
        "WHO/ISUP grade 3-4 against 1-2, of malignant tumours that were graded; chromophobe carcinoma is not.",
        "Delahunt et al., Am J Surg Pathol 2013;37:1490",
        words={"low_grade": "ISUP 1-2", "high_grade": "ISUP 3-4"},
    ),
    "rfs": TaskEntry(
        "Recurrence-free survival",
        "Months to recurrence or death of cancer, of malignant tumours without metastases before treatment.",
        _RENALCLIP,
        kind="survival",
        prompts="aggressiveness",
    ),
    "dss": TaskEntry(
        "Disease-specific survival",
        "Months to death of cancer, of malignant tumours.",
        _RENALCLIP,
        kind="survival",
        prompts="aggressiveness",
    ),
    "os": TaskEntry(
        "Overall survival",
        "Months to death of any cause, of malignant tumours.",
        _RENALCLIP,
        kind="survival",
        prompts="aggressiveness",
    ),
}

ENCODERS: dict[str, EncoderEntry] = {
    "scratch": EncoderEntry("3D CNN from scratch", "random", "Apache-2.0", "He et al., CVPR 2016; MONAI"),
    "regions": EncoderEntry(
        "Region encoder from random weights",
        "random: the network that stage image trains, without what it learned",
        "Apache-2.0",
        "Isensee et al., Nature Methods 2021; MONAI",
    ),
    "stage1": EncoderEntry(
        "Attribute-pretrained encoder",
        "stage image of this suite, trained on the cohort's pretraining centres",
        "that of the cohort",
        "Tao et al., Nature Communications 2026",
        stage="image",
    ),
    "stage1_boosting": EncoderEntry(
        "Attribute-pretrained encoder, gradient boosting",
        "stage image of this suite; boosted trees on its frozen features, no mask is given",
        "that of the cohort",
        "Tao et al., Nature Communications 2026; scikit-learn",
        stage="image",
        model="boosting",
    ),
    "stage1_prompts": EncoderEntry(
        "Attribute-pretrained encoder, from the prompts",
        "stage image of this suite; a linear model on what it reads, pulled towards the prompts, no mask is given",
        "that of the cohort",
        "Tao et al., Nature Communications 2026; Kumar et al., ICLR 2022",
        stage="image",
        prompts=True,
    ),
    "aligned": EncoderEntry(
        "Encoder aligned with reports",
        "stage alignment of this suite, trained on the cohort's pretraining centres from stage 1",
        "that of the cohort",
        _RENALCLIP,
        stage="alignment",
    ),
    "aligned_base_text": EncoderEntry(
        "Encoder aligned with the un-adapted language model",
        "stage alignment_base_text of this suite: the ablation of stage 2",
        "that of the cohort",
        _RENALCLIP,
        stage="alignment_base_text",
    ),
    "aligned_one_stage": EncoderEntry(
        "Encoder aligned from random weights",
        "stage alignment_one_stage of this suite: the ablation of stage 1",
        "that of the cohort",
        _RENALCLIP,
        stage="alignment_one_stage",
    ),
    "aligned_infonce": EncoderEntry(
        "Encoder aligned by plain InfoNCE",
        "stage alignment_infonce of this suite: the ablation of the knowledge-aware loss",
        "that of the cohort",
        "Radford et al., ICML 2021",
        stage="alignment_infonce",
    ),
    "aligned_lora": EncoderEntry(
        "Encoder aligned with a text encoder that is trained along",
        "stage alignment_lora of this suite: image encoder and text adapters move together",
        "that of the cohort",
        "Radford et al., ICML 2021; Hu et al., ICLR 2022",
        stage="alignment_lora",
    ),
    "supervised": EncoderEntry(
        "Encoder pretrained on malignancy labels",
        "stage supervised of this suite, the control of attribute pretraining",
        "that of the cohort",
        "He et al., CVPR 2016; MONAI",
        stage="supervised",
    ),
    "size": EncoderEntry(
        "Tumour size alone",
        "none: logistic or Cox regression on the cohort's tables, no image is read",
        "that of the cohort",
        "Cox, J R Stat Soc B 1972; scikit-learn",
        columns=("tumor_size_mm",),
    ),
    "clinical": EncoderEntry(
        "Clinical variables known before surgery",
        "none: logistic or Cox regression on the cohort's tables, no image is read",
        "that of the cohort",
        "Cox, J R Stat Soc B 1972; scikit-learn",
        columns=("age_years", "sex", "bmi_kg_m2", "tumor_size_mm", "lesion_count"),
    ),
    "radiomics": EncoderEntry(
        "Radiomics, gradient boosting",
        "none: boosted trees on features measured inside the masks of lesion and kidney",
        "that of the cohort",
        _RADIOMICS,
        radiomics=True,
        model="boosting",
    ),
    "radiomics_linear": EncoderEntry(
        "Radiomics, linear model",
        "none: logistic or Cox regression on features measured inside the masks of lesion and kidney",
        "that of the cohort",
        _RADIOMICS,
        radiomics=True,
    ),
    "radiomics_stage1": EncoderEntry(
        "Radiomics and attribute-pretrained encoder",
        "stage image of this suite, beside features measured inside the masks",
        "that of the cohort",
        _RADIOMICS,
        stage="image",
        radiomics=True,
        model="boosting",
    ),
    "radiomics_aligned": EncoderEntry(
        "Radiomics and encoder aligned with reports",
        "stage alignment of this suite, beside features measured inside the masks",
        "that of the cohort",
        _RADIOMICS,
        stage="alignment",
        radiomics=True,
        model="boosting",
    ),
}

PUBLISHED: dict[str, str] = {
    "ct_fm": "ct_fm",
    "merlin": "merlin",
    "merlin_astra": "merlin_astra",
    "merlin_astra_half": "merlin_astra",
    "ct_clip": "ct_clip",
    "renalclip": "renalclip",
}
"""Encoders with the weights of others, and whose; several may read the same weights with other input."""

ENCODERS |= {
    name: EncoderEntry(
        RELEASES[release].title + (", half the extent" if name.endswith("_half") else ""),
        RELEASES[release].source,
        RELEASES[release].licence,
        RELEASES[release].citation,
        release=release,
    )
    for name, release in PUBLISHED.items()
}

STAGES: dict[str, StageEntry] = {
    "image": StageEntry("Image encoder, supervised by report attributes and masks", start="regions"),
    "text": StageEntry(
        "Text encoder, adapted to reports by QLoRA", parts=("mntp", "simcse", "attribute_contrast"), start=None
    ),
    "alignment": StageEntry("Alignment of image and text encoder", start="stage1"),
    "alignment_base_text": StageEntry(
        "Ablation: alignment with the un-adapted language model", False, variant_of="alignment", start="stage1"
    ),
    "alignment_one_stage": StageEntry(
        "Ablation: alignment from a random image encoder", False, variant_of="alignment", start="regions"
    ),
    "alignment_infonce": StageEntry(
        "Ablation: alignment by plain InfoNCE", False, variant_of="alignment", start="stage1"
    ),
    "alignment_lora": StageEntry(
        "Variant: alignment that trains the text encoder along", False, variant_of="alignment", start="stage1"
    ),
    "report": StageEntry(
        "Report writer: image tokens into a language model",
        False,
        parts=("report_projector", "report_adapters"),
        start="aligned",
    ),
    "supervised": StageEntry("Control: image encoder, supervised by malignancy", default=False, task="malignancy"),
}

PROFILES: dict[str, str] = {
    "demo": "two CPU cores, minutes",
    "study": "two CPU cores, an hour and a half, on the cohort of the demo",
    "small": "one GPU with 16 GB",
    "paper": "the published recipe, four GPUs with 80 GB",
}

MODES: dict[str, str] = {
    "finetune": "encoder and head are trained",
    "probe": "a linear model on the features of the frozen encoder, seconds a fit",
}

BENCHMARKS: dict[str, str] = {
    "data": "tests.benchmarks.data",
    "train": "tests.benchmarks.train",
    "contrastive": "tests.benchmarks.contrastive",
    "onnx": "tests.benchmarks.exported",
}
"""Module of every benchmark, beside the tests in the repository; its `run(quick, out)` measures, writes and prints."""


def choose(kind: str, name: str, choices: dict[str, object]) -> str:
    """The name itself, if it is one of the choices.

    Raises:
        DataError: listing the choices, and the nearest one.
    """
    if name in choices:
        return name
    hint = did_you_mean(name, choices)
    raise DataError(f"{kind}={name} is not known; choose one of {', '.join(choices)}.{hint}")


def did_you_mean(name: str, names: Iterable[str], sign: str = "") -> str:
    """A question for the nearest name, with a blank before it; empty where none is near.

    Args:
        name: What was written.
        names: What there is.
        sign: What stands before a name, as `--`.
    """
    near = difflib.get_close_matches(name, list(names), n=1)
    return f" Did you mean {sign}{near[0]}?" if near else ""


def axis_file(axis: str, name: str) -> Path:
    """The YAML file of one choice, for example `task/malignancy.yaml`."""
    return CONFIGS / axis / f"{name}.yaml"


WITHOUT_MASKS: dict[str, object] = {
    "data.init_args.anatomy": False,
    "model.init_args.anatomy_weight": 0.0,
    "model.init_args.refit_steps": 0,
}
"""Flags of the stage image for those who read its kidneys with an encoder of their own, and need no mask."""


def class_words(task: str, name: str) -> str:
    """A class of a task in words."""
    return TASKS[task].words.get(name, name)


def prompts_of(task: str) -> str:
    """The task whose prompts stand for a task: its own, or the one that its entry names."""
    return TASKS[task].prompts or task


def task_label(task: str) -> Label:
    """The label of a task, from the file that fine-tuning takes it from."""
    import yaml

    from datamodules.cohort.labels import Label

    content = yaml.safe_load(axis_file("task", task).read_text(encoding="utf-8"))
    return Label(**content["data"]["init_args"]["label"])


def schedule_file(stage: str, profile: str) -> Path:
    """How long a stage trains in a profile: as in the demo where the profile `study` has no file of its own."""
    own = axis_file("stage", f"{stage}/{profile}")
    return axis_file("stage", f"{stage}/demo") if profile == "study" and not own.is_file() else own


def encoder_files(name: str) -> list[Path]:
    """The YAML files of an encoder: of one that a stage trains, those of the encoder that the stage started from.

    Of encoders without a network those of what they read instead: `radiomics.yaml`, `columns.yaml`.
    """
    entry = ENCODERS[name]
    if entry.columns:
        return [axis_file("encoder", "columns")]
    radiomics = [axis_file("encoder", "radiomics")] if entry.radiomics else []
    if entry.stage is None:
        return radiomics or [axis_file("encoder", name)]
    start = STAGES[entry.stage].start
    if start is None:
        raise DataError(f"ENCODER={name}: its stage {entry.stage} reads no images; name another stage in the registry.")
    return [*radiomics, *encoder_files(start)]


def compose(
    stage: str, *, profile: str, encoder: str | None, task: str | None = None, variant: str | None = None
) -> list[Path]:
    """The files of a run in the order in which they override each other.

    Args:
        stage: Name of a file under `configs/stage`; its schedules lie in the folder of that name.
        profile: Size of the run.
        encoder: Image encoder; None for a stage without images.
        task: Downstream task; None for a stage without one.
        variant: Ablation of the stage, or how it starts from pretrained weights.

    Returns:
        base, profile, stage, schedule (how long that stage trains in that profile), variant, encoder, task.

    Raises:
        DataError: if a name is unknown, listing the choices.
    """
    files = [
        CONFIGS / "base.yaml",
        axis_file("profile", choose("PROFILE", profile, dict(PROFILES))),
        axis_file("stage", stage),
        schedule_file(stage, profile),
    ]
    if variant is not None:
        files.append(axis_file("variant", variant))
    if encoder is not None:
        files += encoder_files(choose("ENCODER", encoder, dict(ENCODERS)))
    if task is not None:
        files.append(axis_file("task", choose("TASK", task, dict(TASKS))))
    return files
