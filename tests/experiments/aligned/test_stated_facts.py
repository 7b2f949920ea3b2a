"""Retrieval by attributes: the naive Bayes odds of a loop, and a perfect reader that finds every fact."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.attributes import AttributeDataModule
from datamodules.cohort.trained_on import TrainedOn
from experiments.aligned.retrieval.search import ALIGNED, BOTH, READ, Kidneys, _data, embed_kidneys
from experiments.aligned.stated_facts import class_scores, fact_scores
from experiments.aligned.zero_shot.prompt_sets import PromptClass, PromptSet
from experiments.encoders.attribute_reader import AttributeReader
from lightning_modules.export.attribute_heads import AttributeHeads
from lightning_modules.networks.image.encoders import build_encoder
from tests.experiments.aligned_tiny import ENCODER, extra_flags, tiny_space, with_reports

PHASES = ("non_contrast", "arterial", "venous", "delayed")
Case = tuple[Kidneys, AttributeDataModule, AttributeReader]


@pytest.fixture(scope="module")
def case(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("facts")
    root = with_reports(Path(shutil.copytree(tiny_root, folder / "tiny")))
    module = _data(root, "demo", 42, None, "aligned", extra_flags(folder))
    torch.manual_seed(3)
    encoder = build_encoder(ENCODER).eval()
    # In another order than that of the DataModule, and without one attribute.
    classes = {name: list(counts)[::-1] for name, counts in reversed(module.class_counts.items()) if name != "pole"}
    heads = AttributeHeads(classes, int(encoder.feature_dim), PHASES).eval()  # type: ignore[arg-type]
    reader = AttributeReader(encoder, heads, module.contract, TrainedOn.nobody())
    return embed_kidneys(tiny_space(folder), module, None, reader), module, reader


def test_the_dot_product_is_the_odds_of_a_loop(case: Case) -> None:
    kidneys, module, reader = case
    visits = module.visits("test")
    place = {int(kidney): number for number, kidney in enumerate(visits.kidney)}
    index = module.plan.volumes.index.set_index("position")
    score = kidneys.scans[READ] @ kidneys.reports[READ].T
    for scan in (0, 7, 20):
        found = visits.volumes[place[int(kidneys.table["row"][scan])]]
        images = torch.stack([torch.from_numpy(module.plan.volumes.read(position))[None] for position in found])
        with torch.no_grad():
            feature = reader.encoder(module.augmentation.evaluate(images))
        shares = [
            reader.heads.scores(own[None], str(index["phase"][position]))
            for own, position in zip(feature, found, strict=True)
        ]
        for report in (0, 3, 11):
            expected = 0.0
            for column, (name, counts) in enumerate(module.class_counts.items()):
                code = int(kidneys.attributes[report, column])
                if code == -100 or name not in reader.heads.classes:
                    continue
                value = list(counts)[code]
                at = reader.heads.classes[name].index(value)
                mean = float(np.mean([float(own[name][0, at]) for own in shares]))
                prior = max(1e-4, counts[value] / max(1, sum(counts.values())))
                expected += math.log(max(1e-4, mean)) - math.log(prior)
            assert score[scan, report] == pytest.approx(expected, abs=1e-3)
    both = kidneys.scans[BOTH] @ kidneys.reports[BOTH].T
    aligned = kidneys.scans[ALIGNED] @ kidneys.reports[ALIGNED].T
    scale = (both - score)[0, 0] / aligned[0, 0]
    np.testing.assert_allclose(both, score + scale * aligned, atol=1e-3)
    assert scale > 1


def test_a_model_that_reads_nothing_adds_nothing(case: Case) -> None:
    kidneys, module, _ = case
    without = embed_kidneys(tiny_space(module.root.parent), module)
    assert set(kidneys.scans) - set(without.scans) == {READ, BOTH}


def test_prompts_are_scored_by_the_facts_that_they_state(case: Case) -> None:
    _, module, reader = case
    positions = [found[0] for found in module.visits("test").volumes][:5]
    prompts = PromptSet(
        "malignancy",
        ("There is {}.",),
        (
            PromptClass(0, descriptions=("a homogeneous mass of 2 cm", "a renal lesion")),
            PromptClass(1, descriptions=("a heterogeneous mass of 9 cm", "a mass with calcification")),
        ),
    )
    found = fact_scores(reader, module, positions, prompts, module.root.parent / "features")
    shares = class_scores(reader, module, positions, module.root.parent / "features")

    def log(name: str, value: str) -> np.ndarray:
        return np.log(np.clip(shares[name][:, reader.heads.classes[name].index(value)], 1e-4, 1))

    large = log("size_class", "from_7_cm") + log("homogeneity", "heterogeneous")
    expected = np.stack([
        log("size_class", "to_4_cm") + log("homogeneity", "homogeneous"),  # nothing is read of the other one
        (large + log("calcification", "yes")) / 2,
    ], axis=1)  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    empty = replace(prompts, classes=(prompts.classes[0], PromptClass(1, descriptions=("a tumour",))))
    assert fact_scores(reader, module, positions, empty, module.root.parent / "features") is None
