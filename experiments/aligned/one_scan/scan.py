"""`embed`: one scan in, its embedding, attributes, zero-shot classes and nearest reports out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datamodules.augmentation import AugmentationConfig, VolumeAugmentation
from datamodules.cohort.cohort import Cohort
from datamodules.files import write_json
from datamodules.importers.one_scan import Place, ScanKidney, read_scan
from datamodules.reports.sides import side_reports
from datamodules.volumes.contract import PreprocessingContract
from experiments.aligned.one_scan.scan_figure import best, embed_figure
from experiments.aligned.one_scan.scan_maps import scan_maps
from experiments.aligned.shared_space import SharedSpace, SpaceOptions, load_space
from experiments.aligned.zero_shot.prompt_scores import mean_prompt, softmax
from experiments.aligned.zero_shot.prompt_sets import available, load_prompts
from experiments.doubt.scan_gate import Gate, check_kind, open_gate
from experiments.doubt.statements import PRESENT, Said, check_statements, lesion_words
from experiments.doubt.verdict import OUTSIDE_TRAINING, Verdict, headline, speaks
from experiments.encoders.attribute_reader import AttributeReader, attribute_reader, attribute_scores
from experiments.encoders.scan_encoder import network_crop, network_input
from experiments.registry import TASKS, choose, class_words, task_label
from experiments.runs.console import say
from experiments.runs.pretrained import pretrained_from
from experiments.scores.results_table import caption
from experiments.statistics.retrieval import nearest

FORMAT = 2
USE = "For research only; this is no medical device and no finding of a radiologist."


def embed(
    source: Path,
    mask: Path | list[Path] | None = None,
    box: dict[str, str] | None = None,
    out: Path = Path("embedding"),
    phase: str | None = None,
    labels: str | dict[int, str] = "kits",
    data: Path | None = Path("data/demo"),
    model: str | None = None,
    text: Path | None = None,
    base: str | None = None,
    attributes: Path | None = None,
    tasks: list[str] | None = None,
    reports: int = 5,
    crop: list[int] | None = None,
    pretrained: str = "s42",
    fold: int | None = None,
    runs: Path = Path("runs"),
    outside_training: bool = False,
    intensity: Literal["acquired", "rendered"] = "acquired",
) -> int:
    """Embed both kidneys of one scan: `embedding.json` and a one-page picture `embedding.png`.

    The scan is read, cut and windowed by the functions that prepare a cohort, after the model's own preprocessing
    contract. Every kidney is held against what the model learned from; the JSON holds that verdict, its embedding, and
    where it is within the training data the scores of every attribute, the zero-shot classes and the nearest reports of
    the cohort's pretraining centres. Statements that contradict measurements or each other are withheld and named. Maps
    of what attributes and classes rest on are written as NIfTI in the scan's frame, those alone that passed the test of
    `make maps`. No file name and no identifier is written.

    Args:
        source: NIfTI file in HU, or the folder with one patient's DICOM files.
        mask: Label map, folder of binary masks, or several of them (`kidney_left.nii.gz`, ...); a DICOM folder may
            hold its own DICOM SEG instead.
        box: Where the kidneys are without a mask: `x y z x y z` in RAS millimetres by side.
        out: Folder to write.
        phase: Contrast phase: non_contrast, arterial, venous or delayed; read from DICOM headers when left out.
        labels: Codes of a label map: kits, totalsegmentator, or code: name.
        data: Cohort whose pretraining made the model, and whose reports are searched.
        model: Folder or hub id of an aligned model; the one that `make pretrain` exported by default.
        text: Folder of its text encoder; the one that `make pretrain` exported by default.
        base: Language model below the text encoder: folder, hub id or smollm2; the recorded one by default.
        attributes: Folder of an exported stage-1 encoder with its heads; that of the cohort by default.
        tasks: Tasks of the zero-shot classes; all that have prompts by default.
        reports: Number of nearest reports.
        crop: Voxels D x H x W that the network sees; those that it was trained on by default.
        pretrained: Pretraining of the model: `s42`, or with its TAG `s42-mytag`.
        fold: Fold of the pretraining, for a cohort with folds.
        runs: Folder of all runs.
        outside_training: Whether classes are shown of a kidney that is outside the training data.
        intensity: Whether the scan was acquired by a scanner, or rendered from masks.
    """
    check_kind(intensity)
    masks = [] if mask is None else mask if isinstance(mask, list) else [mask]
    place = Place(tuple(masks), labels, box)
    for name in tasks or ():
        load_prompts(choose("TASKS", name, dict(TASKS)))
    cohort = Cohort.load(data) if data is not None and (data / "cohort.json").is_file() else None
    origin = pretrained_from(pretrained)
    space = load_space(cohort, SpaceOptions(runs, origin.seed, fold, model, text, base, tag=origin.tag))
    contract = PreprocessingContract.from_dict(space.model.contract)
    augmentation = VolumeAugmentation(
        contract, AugmentationConfig(crop=network_crop(contract, crop or space.model.crop))
    )
    reader = attribute_reader(cohort, attributes, runs, origin, fold, contract)
    kidneys, notes = read_scan(source, contract, place, phase)
    inputs = [network_input(kidney, augmentation, space.model.image_encoder)[0] for kidney in kidneys]
    vectors = np.stack([_unit(space.images(part).mean(axis=0)) for part in inputs])
    gate = _gate(space, augmentation, cohort, fold)
    verdicts = [gate.judge(kidney, intensity) for kidney in kidneys]
    results = [_described(*each) for each in zip(kidneys, vectors, verdicts, strict=True)]
    spoken = [number for number, verdict in enumerate(verdicts) if speaks(verdict, outside_training)]
    chosen = tasks or [name for name in available() if name in TASKS]
    found = zero_shot_classes(space, vectors[spoken], chosen) if spoken else []
    near = nearest_reports(space, cohort, vectors[spoken], reports) if cohort is not None and spoken else []
    for row, number in enumerate(spoken):
        read = _attributes(kidneys[number], reader, augmentation)
        results[number] |= stated(kidneys[number].measures, read, found[row])
        results[number]["nearest_reports"] = near[row] if near else []
        results[number]["maps"] = scan_maps(kidneys[number], space, reader, augmentation, results[number], out)
    if reader is None:
        notes.append("No attribute heads were found; run `make pretrain-image`, or name their folder (--attributes).")
    note, head = _note(space, cohort, notes), headline(verdicts)
    content = {"format": FORMAT, "use": USE, "headline": head, **_model(space), "notes": notes, "kidneys": results}
    write_json(out / "embedding.json", content)
    embed_figure(out / "embedding.png", kidneys, results, contract, (head, note))
    say(f"{head}\n{_summary(results)}\n{note}\nFolder: {out.as_posix()}")
    return 0


def _gate(space: SharedSpace, augmentation: VolumeAugmentation, cohort: Cohort | None, fold: int | None) -> Gate:
    if space.folder is None:
        return Gate(space.model.image_encoder, augmentation, None)
    return open_gate(space.folder, space.model.image_encoder, augmentation, cohort, space.trained_on, fold)


def _attributes(
    kidney: ScanKidney, reader: AttributeReader | None, augmentation: VolumeAugmentation
) -> dict[str, dict[str, Any]]:
    if reader is None:
        return {}
    part, phases = network_input(kidney, augmentation, reader.encoder)
    return attribute_scores(reader, part, phases)


def stated(
    measures: Mapping[str, Any], attributes: Mapping[str, Mapping[str, Any]], zero_shot: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """What may be said of a kidney: whether it has a lesion first, then what contradicts nothing.

    Args:
        measures: What the mask answers.
        attributes: As of `attribute_scores`.
        zero_shot: As of `zero_shot_classes`.

    Returns:
        `lesion`, `attributes`, `zero_shot`, and `withheld`: what is not said, with the reason.
    """
    said = [
        Said(name, entry["value"], entry["scores"][entry["value"]])
        for name, entry in attributes.items()
        if name != PRESENT
    ]
    for task, entry in zero_shot.items():
        answer = best(entry)
        states = _states(task, answer)
        words = f"{entry['title']}: {class_words(task, answer)}"
        said.append(Said(task, answer, entry["scores"][answer], states, words))
    score = attributes[PRESENT]["scores"]["yes"] if PRESENT in attributes else None
    checked = check_statements(said, measures, score)
    kept = {one.question for one in checked.kept}
    return {
        "lesion": {"present": checked.lesion, "score": score},
        "attributes": {name: dict(entry) for name, entry in attributes.items() if name in kept},
        "zero_shot": {name: dict(entry) for name, entry in zero_shot.items() if name in kept},
        "withheld": [vars(one) for one in checked.withheld],
    }


def _states(task: str, answer: str) -> Mapping[str, str]:
    """What a class says in the terms of the attribute schema, by the prompts of its task; nothing where it has none."""
    if task not in available():
        return {}
    label = task_label(task)
    return load_prompts(task).ordered(label.classes).classes[label.class_names.index(answer)].states


def _unit(vector: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vector / np.linalg.norm(vector)
    return unit


def _described(kidney: ScanKidney, vector: np.ndarray, verdict: Verdict) -> dict[str, Any]:
    return {
        "side": kidney.side,
        "phases": [view.phase for view in kidney.views],
        "measures": {name: value for name, value in kidney.measures.items() if value is not None},
        "training_data": verdict.to_dict(),
        "embedding": [round(float(value), 6) for value in vector],
    }


def zero_shot_classes(space: SharedSpace, vectors: np.ndarray, tasks: Sequence[str]) -> list[dict[str, dict[str, Any]]]:
    """Scores of the classes of every task by the mean prompt, for each kidney; they are no probabilities.

    Args:
        space: Aligned model and text embeddings.
        vectors: float [K, d], unit vectors of kidneys.
        tasks: Tasks that have prompts.
    """
    labels = {task: task_label(task) for task in tasks}
    sets = {task: load_prompts(task).ordered(label.classes).prompts() for task, label in labels.items()}
    embedded = space.texts([text for texts, _ in sets.values() for text in texts], whole=True)
    found: list[dict[str, dict[str, Any]]] = [{} for _ in vectors]
    start = 0
    for task, (texts, code) in sets.items():
        part = embedded[start : start + len(texts)]
        start += len(texts)
        score = softmax(mean_prompt(vectors, part, code), space.scale)
        for entry, row in zip(found, score, strict=True):
            scores = {name: round(float(p), 4) for name, p in zip(labels[task].class_names, row, strict=True)}
            entry[task] = {"title": TASKS[task].title, "scores": scores}
    return found


def nearest_reports(space: SharedSpace, cohort: Cohort, vectors: np.ndarray, count: int) -> list[list[dict[str, Any]]]:
    """The texts of the pretraining centres' kidneys that are nearest to each kidney.

    Args:
        space: Aligned model and text embeddings.
        cohort: The cohort; of one with folds all reports are searched.
        vectors: float [K, d], unit vectors of kidneys.
        count: Number of texts.

    Returns:
        For each kidney `text`, `cosine` and `kidneys` (how many share the text); nothing where there are no reports.
    """
    if "reports" not in cohort.tables or cohort["reports"].empty or count < 1:
        return [[] for _ in vectors]
    patients = cohort.patients()
    roles = cohort.info.evaluation == "roles"
    chosen = patients[patients["role"] == "pretrain"] if roles else patients
    counts = side_reports(cohort, set(chosen["patient_id"]))["text"].value_counts(sort=False)
    if counts.empty:
        return [[] for _ in vectors]
    texts = [str(text) for text in counts.index]
    places, similarity = nearest(vectors, space.texts(texts), count)
    return [
        [
            {"text": texts[place], "cosine": round(float(value), 4), "kidneys": int(counts.iloc[place])}
            for place, value in zip(own, values, strict=True)
        ]
        for own, values in zip(places, similarity, strict=True)
    ]


def _model(space: SharedSpace) -> dict[str, Any]:
    recorded = space.model.text_encoder
    return {
        "model": {
            "contract": space.model.contract,
            "dimensions": space.model.embed_dim,
            "logit_scale": round(space.scale, 4),
            "text_encoder": {"base_name": recorded.get("base_name"), "fingerprint": recorded["fingerprint"]},
        }
    }


def _note(space: SharedSpace, cohort: Cohort | None, notes: Sequence[str]) -> str:
    trained = "" if cohort is None else f" Model and reports: {caption(cohort.info)}"
    more = f" Notes: {' '.join(notes)}" if notes else ""
    return f"{USE}{trained}{more}"


def _summary(results: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for result in results:
        side = f"{result['side'].capitalize()} kidney"
        if "lesion" not in result:
            lines.append(f"{side}: no class is shown ({OUTSIDE_TRAINING} shows them).")
            continue
        shown = [
            f"{entry['title']}: {class_words(task, best(entry))} {entry['scores'][best(entry)]:.2f}"
            for task, entry in result["zero_shot"].items()
        ]
        lines.append(f"{side}: {lesion_words(**result['lesion'])} Zero-shot scores: {'; '.join(shown) or 'none'}.")
        lines += [f"  {entry['reason']}" for entry in result["withheld"] if entry["question"] in TASKS]
    return "\n".join(lines)
