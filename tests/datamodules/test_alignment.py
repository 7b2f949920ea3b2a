"""Alignment data: texts by part, wordings by seed, and images that are read again instead of held."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.alignment import AlignmentDataModule, drawn_wording, report_wordings
from datamodules.augmentation import AugmentationConfig
from datamodules.cohort.cohort import Cohort
from datamodules.cohort.table_checks import conform
from datamodules.cohort.tables import TABLES
from datamodules.errors import DataError
from datamodules.files import write_parquet
from datamodules.kidney_features import write_features
from datamodules.reports.embedding_cache import EmbeddingCache
from experiments.cohorts.attributes import attributes
from tests.tiny import CONTRACT

DIM = 3


def write_reports(root: Path) -> None:
    """Each patient's pole is its own; the right kidney is normal."""
    import pandas as pd

    kidneys = Cohort.load(root)["kidneys"]
    keys = kidneys[["patient_id", "study_id"]].drop_duplicates().to_dict("records")
    rows = [
        key
        | {
            "report_id": f"{key['study_id']}-R",
            "side": None,
            "text": f"Left kidney: There is a solid mass of {1 + number / 10:.1f} cm in the "
            f"{('upper', 'lower')[number % 2]} pole. No stone. Right kidney: No focal lesion.",
            "source": "generated",
        }
        for number, key in enumerate(keys)
    ]
    write_parquet(root / "reports.parquet", conform(pd.DataFrame(rows), TABLES["reports"]))


def embed(texts: list[str]) -> np.ndarray:
    """Vectors that tell the texts apart."""
    return np.stack([np.random.default_rng(list(text.encode())).normal(size=DIM) for text in texts]).astype(np.float32)


def make(root: Path, cache: Path, **options: Any) -> AlignmentDataModule:
    return AlignmentDataModule(
        root, cache, "abc", DIM, contract=CONTRACT, augmentation=AugmentationConfig(crop=(8, 10, 10)), **options
    )


@pytest.fixture
def filled(tiny_copy: Path, tmp_path: Path) -> tuple[Path, Path]:
    write_reports(tiny_copy)
    attributes(tiny_copy)
    cache = tmp_path / "cache"
    module = make(tiny_copy, cache)
    texts = module.texts("train") + module.texts("val")
    EmbeddingCache(cache, "abc", DIM).add(list(dict.fromkeys(texts)), embed(list(dict.fromkeys(texts))))
    return tiny_copy, cache


def test_every_kidney_has_the_embedding_of_its_own_report(filled: tuple[Path, Path]) -> None:
    module = make(*filled, batch_size=4, samples_per_epoch=40)
    plan = module.plan
    kidneys = plan.kidneys
    roles = Cohort.load(filled[0]).patients().set_index("patient_id")["role"]
    assert set(roles[kidneys.loc[kidneys["part"].isin(["train", "val"]), "patient_id"]]) == {"pretrain"}
    wordings = plan.drawn["text"].wordings  # type: ignore[attr-defined]
    seen: set[str] = set()
    for batch in module.loader("train", shuffled=True):
        assert batch["text"].dtype == torch.float32
        for row, kidney, seed, number in zip(
            batch["text"], batch["kidney"], batch["seed"], batch["report_id"], strict=True
        ):
            own = wordings[int(kidney)]
            text = drawn_wording(own, int(seed))
            assert (text in own[1:]) is (len(own) > 1)
            seen.add(text)
            np.testing.assert_array_equal(row.numpy(), embed([text])[0])
            assert plan.fields["report_id"][int(kidney)] == number
    assert any(len(own) > 1 and set(own[1:]) & seen for own in wordings)
    for batch in module.loader("val"):
        for row, kidney in zip(batch["text"], batch["kidney"], strict=True):
            assert len(wordings[int(kidney)]) == 1
            np.testing.assert_array_equal(row.numpy(), embed([wordings[int(kidney)][0]])[0])
    normal = kidneys["side"] == "right"
    assert len(set(plan.fields["report_id"][normal])) == 1  # identical reports share their number
    train = [own for own, part in zip(wordings, kidneys["part"], strict=True) if part == "train"]
    texts = [text for own in train for text in (own[1:] or own)]
    assert sum(len(own) for own in train) > len(texts) > len(train)  # a report that has excerpts is not among them
    assert sorted(module.texts("train")) == sorted(texts)
    torch.testing.assert_close(module.text_mean(), torch.from_numpy(embed(texts).mean(axis=0)))


def test_images_read_again_are_the_images_held(filled: tuple[Path, Path]) -> None:
    held, again = (make(*filled, batch_size=6, reread=reread) for reread in (False, True))

    class Training:
        training, global_rank, world_size = True, 0, 1

    for training in (True, False):
        for module in (held, again):
            module.trainer = Training() if training else None  # type: ignore[assignment]
        first = next(iter(held.loader("train", shuffled=True)))
        second = next(iter(again.loader("train", shuffled=True)))
        assert "image" not in second
        image = held.on_after_batch_transfer(first, 0)["image"]  # type: ignore[arg-type]
        second = again.on_before_batch_transfer(second, 0)  # type: ignore[arg-type]
        images = again.on_after_batch_transfer(second, 0)["image"]
        assert len(images) == len(image)
        for part in (slice(0, 2), slice(2, len(image)), slice(0, 2)):
            torch.testing.assert_close(images[part], image[part])


def test_features_stand_in_the_place_of_images(filled: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "features.parquet"
    kidneys = make(*filled).plan.kidneys
    known = kidneys[kidneys["part"] != "test"]
    values = np.random.default_rng(2).normal(size=(len(known), 5)).astype(np.float32)
    shuffled = np.random.default_rng(3).permutation(len(known))
    write_features(path, known.iloc[shuffled], values[shuffled])
    module = make(*filled, batch_size=4, features=path)
    for part in ("train", "val"):
        for batch in module.loader(part):
            batch = module.on_after_batch_transfer(batch, 0)  # type: ignore[arg-type]
            assert "image" not in batch
            expected = values[np.searchsorted(known.index, batch["kidney"].numpy())]
            np.testing.assert_array_equal(batch["features"].numpy(), expected)  # type: ignore[typeddict-item]
    write_features(path, known.iloc[1:], values[1:])
    first = " / ".join(known.iloc[0][["patient_id", "study_id", "side"]])
    with pytest.raises(DataError, match=f"has no features of 1 kidneys, first {first}; run"):
        _ = make(*filled, features=path).plan
    with pytest.raises(DataError, match="features are read in the place of images"):
        make(*filled, features=path, reread=True)


def test_what_is_missing_is_said(filled: tuple[Path, Path], tiny_root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="texts of the test part of cohort tiny have no embedding"):
        make(*filled).loader("test")
    with pytest.raises(DataError, match="`make pretrain STAGES=alignment` embeds"):
        make(filled[0], tmp_path / "empty").loader("train")
    with pytest.raises(DataError, match="excerpts=-1"):
        make(*filled, excerpts=-1)
    with pytest.raises(DataError, match="one image a sample"):
        make(*filled, reread=True, phases="all").loader("val")
    with pytest.raises(DataError, match="no attributes"):
        _ = make(tiny_root, tmp_path).plan


def test_excerpts_are_sentences_of_the_report_in_their_order() -> None:
    parts = [f"Finding {number} of 3.5 cm." for number in range(8)]
    text = " ".join(parts)
    wordings = report_wordings(text, 12)
    assert wordings[0] == text
    assert len(set(wordings)) == len(wordings) > 6
    sizes = set()
    for other in wordings[1:]:
        kept = [part for part in parts if part in other]
        assert " ".join(kept) == other
        sizes.add(len(kept))
    assert sizes == {2, 4}
    assert report_wordings(text, 12) == wordings
    assert report_wordings("Normal.", 3) == ["Normal."]
    assert {drawn_wording(wordings, seed) for seed in range(40)} == set(wordings[1:])
    assert drawn_wording(["Normal."], 7) == "Normal."
