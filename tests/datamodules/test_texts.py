"""Texts of the text stages: whose they are, in which order, and what is masked, for any number of ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.table_checks import conform
from datamodules.cohort.tables import TABLES
from datamodules.errors import DataError
from datamodules.files import write_parquet
from datamodules.loading.text_sampling import BucketSampler, RankBatches, text_seed
from datamodules.reports.corpus import read_corpus
from datamodules.reports.rewriting.contrast_batches import Rewriting, RewritingCollate
from datamodules.reports.schema import load_schema
from datamodules.reports.sides import shuffle_sentences, side_reports
from datamodules.reports.token_batches import TextCollate, Texts
from datamodules.reports.tokens import ReportTokenizer, TokenMasking
from datamodules.texts import ReportDataModule
from lightning_modules.networks.text.encoder import TextEncoder, TextEncoderConfig
from tests.tiny_text import TEXTS, make_base

LESION = "There is a solid mass of {size} cm in the upper pole."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "tiny", num_hidden_layers=1)


def add_reports(root: Path) -> Cohort:
    """Reports with a lesion on the left whose size tells the patient, and a normal right kidney."""
    cohort = Cohort.load(root)
    keys = cohort["kidneys"][["patient_id", "study_id"]].drop_duplicates().to_dict("records")
    rows, stated = [], []
    for number, key in enumerate(keys):
        text = f"Left kidney: {LESION.format(size=f'{1 + number // 10}.{number % 10}')} Right kidney: No focal lesion."
        rows.append(key | {"report_id": f"{key['study_id']}-R", "side": None, "text": text, "source": "generated"})
        for side, value in (("left", "yes"), ("right", "no")):
            stated.append(
                key
                | {"report_id": rows[-1]["report_id"], "side": side, "attribute": "lesion_present", "value": value}
                | {"start": None, "end": None, "evidence": None, "confidence": 1.0, "uncertain": False}
                | {"extractor": "rules", "schema_version": 1}
            )
    for name, table in (("reports", rows), ("attributes", stated)):
        write_parquet(root / f"{name}.parquet", conform(pd.DataFrame(table), TABLES[name]))
    return Cohort.load(root)


def make(root: Path, base: Path, **options: object) -> ReportDataModule:
    return ReportDataModule(root, str(base), "tiny", 32, batch_size=4, **options)  # type: ignore[arg-type]


def test_each_side_has_its_text_and_equal_texts_one_id(tiny_copy: Path) -> None:
    cohort = add_reports(tiny_copy)
    reports = side_reports(cohort)
    assert len(reports) == 2 * len(cohort["reports"])
    left, right = (reports[reports["side"] == side] for side in ("left", "right"))
    assert left["report_id"].is_unique
    assert right["report_id"].nunique() == right["text"].nunique() == 1
    assert not left["text"].str.contains("No focal").any()
    some = side_reports(cohort, ["P1-000"])
    assert some["text"].tolist() == reports.loc[reports["patient_id"] == "P1-000", "text"].tolist()


def test_a_side_without_words_is_not_described_rather_than_normal(tiny_copy: Path) -> None:
    cohort = add_reports(tiny_copy)
    table = cohort["reports"].assign(text="Left kidney: There is a solid mass of 3 cm.")
    reports = side_reports(Cohort(cohort.root, cohort.info, {**cohort.tables, "reports": table}))
    assert set(reports.loc[reports["side"] == "right", "text"]) == {"The right kidney is not described."}
    with pytest.raises(DataError, match="has no reports"):
        side_reports(Cohort(cohort.root, cohort.info, {n: t for n, t in cohort.tables.items() if n != "reports"}))


def test_shuffled_sentences_are_the_same_sentences() -> None:
    text = "A mass of 3.5 cm is seen. It is solid. No stone. The vein is free."
    orders = {shuffle_sentences(text, seed) for seed in range(20)}
    assert len(orders) > 5
    for order in orders:
        assert sorted(order.replace(". ", ".|").split("|")) == sorted(text.replace(". ", ".|").split("|"))
    assert shuffle_sentences(text, 3) == shuffle_sentences(text, 3)
    assert shuffle_sentences("One finding", 1) == "One finding."


def test_some_texts_are_drawn_by_the_seed_with_what_belongs_to_them() -> None:
    whole = Texts([str(number) for number in range(20)], np.arange(20)[:, None], [f"side {n}" for n in range(20)])
    few = whole.drawn(7, 42)
    places = [int(text) for text in few.texts]
    assert len(places) == 7
    assert places == sorted(set(places))
    assert few.attributes is not None
    assert few.attributes[:, 0].tolist() == places
    assert few.sides == [f"side {place}" for place in places]
    assert whole.drawn(7, 42).texts == few.texts != whole.drawn(7, 43).texts
    assert whole.drawn(None, 42) is whole is whole.drawn(20, 42)


@pytest.mark.parametrize("objective", ["mntp", "attributes"])
def test_validation_may_take_a_part_of_its_texts(tiny_copy: Path, base: Path, objective: str) -> None:
    add_reports(tiny_copy)
    whole = make(tiny_copy, base, objective=objective).parts
    few = make(tiny_copy, base, objective=objective, validation_texts=1).parts
    assert few["train"].texts == whole["train"].texts
    assert len(few["val"].texts) == 1
    assert set(few["val"].texts) < set(whole["val"].texts)
    with pytest.raises(DataError, match="validation_texts=0"):
        make(tiny_copy, base, objective=objective, validation_texts=0)


def test_only_pretraining_centres_are_seen_and_each_text_once(tiny_copy: Path, base: Path) -> None:
    cohort = add_reports(tiny_copy)
    people = cohort.patients().set_index("patient_id")
    reports = side_reports(cohort)
    data = make(tiny_copy, base, objective="attributes")
    owner = dict(zip(reports["text"], reports["patient_id"], strict=True))
    seen = {name: part.texts for name, part in data.parts.items()}
    assert set(seen["train"]).isdisjoint(seen["val"])
    for name, texts in seen.items():
        assert len(texts) == len(set(texts))
        lesions = [text for text in texts if "mass" in text]
        found = people.loc[[owner[text] for text in lesions]]
        assert set(found["role"]) == {"pretrain"}
        assert set(found["split"]) == {name}
        facts = data.parts[name].attributes
        assert facts is not None
        assert [int(row[0]) for row in facts] == [0 if "mass" in text else 1 for text in texts]
        assert all((row[1:] != -100).sum() == 1 for row in facts)
    with pytest.raises(DataError, match="has roles of centres and no folds"):
        _ = make(tiny_copy, base, fold=1).parts


def test_the_tested_fold_is_not_seen(tiny_folds_root: Path, tmp_path: Path, base: Path) -> None:
    import shutil

    root = Path(shutil.copytree(tiny_folds_root, tmp_path / "folds"))
    cohort = add_reports(root)
    reports = side_reports(cohort)
    fold = cohort["splits"].set_index("patient_id")["fold"]
    number = int(fold.iloc[0])
    parts = make(root, base, fold=number).parts
    lesions = {text for part in parts.values() for text in part.texts if "mass" in text}
    expected = reports.loc[(reports["side"] == "left") & (reports["patient_id"].map(fold) != number), "text"]
    assert lesions == set(expected)
    with pytest.raises(DataError, match=r"name one with data\.fold"):
        _ = make(root, base).parts


@pytest.mark.slow
def test_attribute_batches_hold_other_words_and_changed_facts(tiny_copy: Path, base: Path) -> None:
    add_reports(tiny_copy)
    data = make(tiny_copy, base, objective="attributes", rewriting=Rewriting(negatives=2, sentences=None))
    loader = data.loader("train")
    assert isinstance(loader.collate_fn, RewritingCollate)
    batch = next(iter(loader))
    kidneys, negatives = len(batch["sample"]), len(batch["negative_of"])
    assert len(batch["input_ids"]) == 2 * kidneys + negatives
    assert negatives > 0
    assert set(batch["negative_of"].tolist()) <= set(range(kidneys))
    again = next(iter(make(tiny_copy, base, objective="attributes", rewriting=data.rewriting).loader("train")))
    assert batch.pop("lengths") == again.pop("lengths") == batch["attention_mask"].sum(dim=1).tolist()
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    pole = 1 + load_schema().names.index("pole")
    stated = batch["attributes"][batch["attributes"][:, 1] == 0]
    assert set(stated[:, pole].tolist()) == {0}
    assert sum(data.class_counts["lesion_present"].values()) == len(data.parts["train"].texts)


@pytest.mark.parametrize("texts", [3, 10, 37, 130])
def test_batches_do_not_depend_on_the_number_of_ranks(texts: int) -> None:
    lengths = np.random.default_rng(0).integers(3, 90, texts)
    for epoch in range(2):
        drawn = []
        for ranks, size in ((1, 12), (2, 6), (3, 4)):
            batches = BucketSampler(lengths.tolist(), size * ranks, ranks, 7, shuffled=True)
            batches.set_epoch(epoch)
            shares = [list(RankBatches(batches, rank, ranks)) for rank in range(ranks)]
            assert {len(share) for share in shares} == {len(batches)}
            assert all(batch for share in shares for batch in share)
            steps = [sorted(draw for share in shares for draw in share[step]) for step in range(len(batches))]
            assert sorted(draw.number for step in steps for draw in step) == list(range(texts))
            drawn.append(steps)
        if texts >= 37:
            assert drawn[0] == drawn[1] == drawn[2]
    with pytest.raises(DataError, match="for 4 ranks; expected at least one each"):
        BucketSampler([1, 2, 3], 4, 4, 0, shuffled=True)


def test_batches_are_of_like_length_and_epochs_differ() -> None:
    lengths = np.random.default_rng(1).integers(3, 90, 160)
    batches = BucketSampler(lengths.tolist(), 8, 1, 7, shuffled=True)
    first = list(batches)
    spread = [np.ptp(lengths[[draw.number for draw in batch]]) for batch in first]
    assert np.mean(spread) < 15
    batches.set_epoch(1)
    assert [batch[0].number for batch in batches] != [batch[0].number for batch in first]
    assert len({text_seed(1, epoch, number) for epoch in range(9) for number in range(9)}) == 81


def test_masks_depend_on_seed_and_text_only(base: Path) -> None:
    collate = TextCollate(tokenizer := ReportTokenizer(str(base), 32), TokenMasking(tokenizer), (0.5, 0.5))
    samples = [{"text": text, "sample": place, "seed": 11 + place} for place, text in enumerate(TEXTS)]
    together = collate(samples)
    for place, sample in enumerate(samples):
        alone = collate([sample])
        width = alone["input_ids"].shape[1]
        for name in ("input_ids", "labels", "attention_mask"):
            assert torch.equal(alone[name][0], together[name][place, :width]), name
    assert (together["labels"][:, 0] == -100).all()
    assert (together["labels"][together["attention_mask"] == 0] == -100).all()


@pytest.mark.parametrize("replacement", ["bert", "all"])
def test_a_fifth_of_the_tokens_is_masked(base: Path, replacement: str) -> None:
    tokenizer = ReportTokenizer(str(base), 32)
    masking = TokenMasking(tokenizer, 0.2, replacement)  # type: ignore[arg-type]
    tokens = [1, *range(5, 31)]
    chosen = masked = kept = 0
    for seed in range(2000):
        ids, labels = masking(tokens, seed)
        places = [place for place, label in enumerate(labels) if label != -100]
        assert 0 not in places
        assert [labels[place] for place in places] == [tokens[place] for place in places]
        assert all(ids[place] == tokens[place] for place in range(len(ids)) if place not in places)
        chosen += len(places)
        masked += sum(ids[place] == masking.mask for place in places)
        kept += sum(ids[place] == tokens[place] for place in places)
    assert chosen / (2000 * 26) == pytest.approx(0.2, abs=0.01)
    share = 1.0 if replacement == "all" else 0.8
    assert masked / chosen == pytest.approx(share, abs=0.02)
    assert kept / chosen == pytest.approx(0.0 if replacement == "all" else 0.1 + 0.1 / masking.size, abs=0.02)
    with pytest.raises(DataError, match=r"mask_token='left right' is 2 tokens"):
        TokenMasking(tokenizer, mask_token="left right")


@pytest.mark.parametrize("prompt", ["", "a mass in the kidney :"])
def test_both_sides_tokenise_alike(base: Path, prompt: str) -> None:
    config = TextEncoderConfig(str(base), "tiny", quantization="none", max_length=14, prompt=prompt)
    theirs = TextEncoder(config, "cpu").tokenize([*TEXTS, ""])
    tokenizer = ReportTokenizer(str(base), 14, prompt)
    ours = tokenizer.padded(tokenizer.rows([*TEXTS, ""]))
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(ours[name], theirs[name])


def test_a_corpus_is_read_from_text_and_csv(tmp_path: Path, base: Path) -> None:
    folder = tmp_path / "corpus"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text(" First report. ")
    (folder / "deep" / "b.csv").write_text("text,other\nSecond report.,1\nFirst report.,2\n,3\n")
    assert read_corpus(folder) == ["First report.", "Second report."]
    for number in range(40):
        (folder / f"{number}.txt").write_text(f"Report number {number}")
    parts = make(tmp_path, base, corpus=folder, held_out_share=0.3).parts
    assert len(parts["train"].texts) + len(parts["val"].texts) == 42
    assert 4 < len(parts["val"].texts) < 22
    (folder / "c.csv").write_text("report\nThird\n")
    with pytest.raises(DataError, match=r"c\.csv of the corpus has the columns \['report'\]"):
        read_corpus(folder)
    only = tmp_path / "named"
    only.mkdir()
    (only / "c.csv").write_text("id,report\n1,Third\n")
    assert read_corpus(only, "report") == ["Third"]
    (folder / "c.csv").write_bytes(b"text\n\xff\xfe\n")
    with pytest.raises(DataError, match=r"c\.csv of the corpus could not be read"):
        read_corpus(folder)
    with pytest.raises(DataError, match="is no folder"):
        read_corpus(tmp_path / "nowhere")
    with pytest.raises(DataError, match="states no attributes"):
        make(tmp_path, base, corpus=folder, objective="attributes")
