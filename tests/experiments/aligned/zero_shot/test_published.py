"""Zero-shot classification and retrieval by both sides of a published model, through the real command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from datamodules.augmentation import AugmentationConfig, VolumeAugmentation
from datamodules.cohort.cohort import Cohort
from datamodules.importers.builder import add_volumes
from datamodules.importers.index_kidneys import IndexKidneys
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.shards import VolumeSet
from experiments.aligned import shared_space
from experiments.aligned.zero_shot import classify
from experiments.aligned.zero_shot.prompt_sets import PromptSet, load_prompts
from experiments.cli import main
from experiments.encoders import features as features_module
from experiments.encoders.published import inputs
from lightning_modules.export.aligned import load_pair
from lightning_modules.networks.image import encoders
from lightning_modules.networks.image.published.build import build_published
from lightning_modules.networks.text.encoding import encode_texts
from tests.experiments.aligned_tiny import with_reports
from tests.lightning_modules.networks.text.test_published import TOKENIZERS
from tests.lightning_modules.networks.text.tiny_published import release, text_folder, tower
from tests.tiny import TinySource

CONTRACTS = {
    "merlin": PreprocessingContract(grid=(8, 12, 12), window_hu=(-1000, 1000), axes="RAS", antialias=False),
    "ct_clip": PreprocessingContract(
        grid=(8, 24, 24), window_hu=(-1000, 1000), axes="SLP", scaled=(-1, 1), antialias=False, clip_first=True
    ),
}


@dataclass(frozen=True)
class Place:
    """A cohort with volumes for both, their weights, and where runs go."""

    root: Path
    weights: Path
    runs: Path

    def command(self, encoder: str, *arguments: str, name: str = "zeroshot") -> int:
        """Run a command on the cohort in the tiny geometry."""
        settings = self.runs.parent / f"{encoder}.yaml"
        if encoder in CONTRACTS:
            contract = CONTRACTS[encoder]
            content = {"contract": {**contract.to_dict(), "region": "kidney"}}
            content |= {"augmentation": {"crop": list(contract.grid)}, "trainer": {"accelerator": "cpu"}}
            settings.write_text(yaml.safe_dump(content | {"encoder": {"width": 4, "depth": 10}}))
            arguments = (*arguments, "--extra=" + json.dumps([f"--config={settings}"]))
        return main([name, f"--data={self.root}", f"--runs={self.runs}", f"--encoder={encoder}", *arguments])


def few_prompts(task: str) -> PromptSet:
    """The templates that begin with the description: the tiny Longformer's first token sees no further."""
    whole = load_prompts(task)
    return replace(whole, templates=tuple(text for text in whole.templates if text.startswith("{}")))


@pytest.fixture(scope="module")
def place(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("published")
    root = with_reports(Path(shutil.copytree(tiny_root, folder / "tiny")))
    for name, contract in CONTRACTS.items():
        add_volumes(IndexKidneys(TinySource()), Cohort.load(root), contract, workers=1)
        tokenizer = TOKENIZERS[name].from_pretrained(text_folder(name, folder / "weights" / name / "text"))
        torch.save(release(name, tower(name, len(tokenizer)))[1], folder / "weights" / name / "weights.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RENAL_WEIGHTS", str(folder / "weights"))
        patch.setattr(encoders, "build_published", partial(build_published, small=True))
        for module in (inputs, shared_space):
            patch.setattr(module, "encoder_contract", lambda name, *_: CONTRACTS[name])
        patch.setattr(classify, "load_prompts", few_prompts)
        yield Place(root, folder / "weights", folder / "runs")


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CONTRACTS))
def test_the_command_scores_as_a_loop_over_volumes_and_prompts(
    name: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place.command(name, "--task=malignancy", "--draws=20") == 0
    done = place.runs / f"renal/tiny/malignancy/{name}-zeroshot-s42"
    found = pd.read_parquet(done / "predictions.parquet").set_index("patient_id")
    people = Cohort.load(place.root).patients().set_index("patient_id")
    tested = people[((people["split"] == "test") & (people["role"] == "internal")) | (people["role"] == "external")]
    assert sorted(found.index) == sorted(tested.index)
    contract, weights = CONTRACTS[name].to_dict(), place.weights / name
    model = load_pair(name, weights / "weights.pt", weights / "text", contract)
    volumes = VolumeSet.find(place.root, CONTRACTS[name].region, CONTRACTS[name])
    turned = VolumeAugmentation(CONTRACTS[name], AugmentationConfig(crop=CONTRACTS[name].grid))
    texts, code = few_prompts("malignancy").prompts()
    with torch.no_grad():
        prompts = model.embed_text(torch.from_numpy(encode_texts(model.text, texts))).double().numpy()
        means = np.stack([prompts[code == number].mean(axis=0) for number in (0, 1)])
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        for patient_id in found.index[::9]:
            rows = volumes.index[volumes.index["patient_id"] == patient_id]
            assert len(rows) == 2  # both phases of the index kidney, and nothing of the other
            images = np.stack([volumes.read(position)[None] for position in rows["position"]])
            embedded = model.embed_image(turned.evaluate(torch.from_numpy(images))).double().numpy()
            score = np.exp(float(model.scale()) * (embedded @ means.T).mean(axis=0))
            assert found.loc[patient_id, "score_malignant"] == pytest.approx(score[1] / score.sum(), abs=3e-5)
    assert found["score_malignant"].std() > 1e-3  # far above the tolerance
    table = pd.read_csv(done / "results.csv")
    assert len(set(table["strategy"])) == 4
    if name == "ct_clip":  # neither scans nor prompts are embedded again for another try
        monkeypatch.setattr(features_module, "_compute", None)
        monkeypatch.setattr(shared_space, "embed_texts", None)
        assert place.command(name, "--task=malignancy", "--draws=20") == 0


@pytest.mark.slow
def test_retrieval_is_among_the_index_kidneys(place: Place, capsys: Any) -> None:
    assert place.command("merlin", "--replicates=50", name="retrieval") == 0
    assert "Index kidneys alone" in capsys.readouterr().out
    kidneys = pd.read_parquet(place.runs / "renal/tiny/retrieval/merlin-s42/kidneys.parquet")
    people = Cohort.load(place.root).patients()
    assert sorted(kidneys["patient_id"]) == sorted(people.loc[people["role"] != "pretrain", "patient_id"])


def test_the_next_best_encoder_is_named(place: Place, capsys: Any) -> None:
    for encoder, message in {
        "renalclip": "RenalCLIP cannot compare scans with texts: its text side is Llama-3-8B-Instruct (Meta's Llama 3",
        "ct_fm": "CT-FM cannot compare scans with texts: it was trained on images alone; choose ct_clip or merlin",
        "stage1": "choose one of aligned",
    }.items():
        assert place.command(encoder) == 2
        shown = capsys.readouterr().err
        assert message in shown
        assert shown.count("\n") == 1
    assert place.command("merlin", "--model=runs/aligned") == 2
    assert "An aligned model or its language model was named besides ENCODER=merlin" in capsys.readouterr().err


def _image_side_alone(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    torch.save({key: value for key, value in state.items() if not key.startswith("encode_text.")}, path)


def _other(path: Path) -> None:
    shutil.copy(path.parents[1] / "ct_clip/weights.pt", path)


def _other_words(path: Path) -> None:
    words = json.loads((path.parent / "text/vocab.json").read_text())
    (path.parent / "text/vocab.json").write_text(json.dumps(words | {"more": len(words)}))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (Path.unlink, "ENCODER=merlin has no weights here"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:3000]), "truncated or damaged"),
    "another model": (_other, "is not a checkpoint of this network"),
    "one side": (_image_side_alone, "keys 3 fit (missing: tower.embeddings.word_embeddings.weight"),
    "other words": (_other_words, "shape: tower.embeddings.word_embeddings.weight [261, 8] instead of [262, 8]"),
    "code": (lambda path: torch.save({"run": print}, path), "would run"),
    "text side absent": (lambda path: shutil.rmtree(path.parent / "text"), "lacks config.json, vocab.json, merges.txt"),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_wrong_files_are_one_sentence_and_nothing_is_embedded(
    damage: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    weights = Path(shutil.copytree(place.weights, tmp_path / "weights"))
    monkeypatch.setenv("RENAL_WEIGHTS", str(weights))
    monkeypatch.setattr(features_module, "_compute", None)
    damaged, message = DAMAGE[damage]
    damaged(weights / "merlin/weights.pt")
    assert place.command("merlin") == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert "Traceback" not in shown
    assert str(tmp_path) not in shown
