"""Text encoders on held-out reports: fair questions, scores that a reader of facts reaches, the whole command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.trained_on import TrainedOn
from datamodules.errors import DataError
from datamodules.reports.reader.rules import RuleExtractor
from datamodules.reports.schema import load_schema
from experiments.pretraining.evaluation.masked_tokens import HITS, LOSS, TOKENS, masked_loss, masked_rows, ratio
from experiments.pretraining.evaluation.paraphrases import ParaphraseQuestion, answer, make_questions
from experiments.pretraining.evaluation.text_evaluation import evaluate_text, kidney_parts
from experiments.pretraining.evaluation.text_probe import stated_codes, text_probe
from experiments.pretraining.evaluation.text_results import (
    ATTRIBUTES,
    EVERY,
    MASKED,
    MEAN,
    RETRIEVAL,
    attribute_measures,
    question_measures,
    tabulate,
)
from experiments.pretraining.evaluation.text_systems import (
    ADAPTED,
    BIDIRECTIONAL,
    CAUSAL_LAST,
    CAUSAL_MEAN,
    TFIDF,
    TextBase,
)
from lightning_modules.export.text import save_text_encoder
from lightning_modules.networks.text.encoder import TextEncoder, TextEncoderConfig
from tests.experiments.text_cohort import reports_cohort, tiny_base

READER = RuleExtractor()
ALL = "all held-out centres"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return reports_cohort(tmp_path_factory.mktemp("reports"))


@pytest.fixture(scope="module")
def parts(cohort: Cohort) -> tuple[pd.DataFrame, pd.DataFrame]:
    return kidney_parts(cohort, 16, 0, None)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


def _facts(texts: list[str]) -> np.ndarray:
    """What the rule reader reads, as ones and zeros: an embedding of facts and of nothing else."""
    classes = load_schema().classes
    places = {
        key: place
        for place, key in enumerate(
            (side, name, value) for side in ("left", "right") for name, values in classes.items() for value in values
        )
    }
    rows = np.zeros((len(texts), len(places) + 1), dtype=np.float32)
    rows[:, -1] = 0.01
    for row, statements in zip(rows, READER.extract(texts), strict=True):
        for entry in statements:
            row[places[entry.side, entry.attribute, entry.value]] = 1.0
    return rows


def _value(table: pd.DataFrame, metric: str, kind: str, system: str) -> float:
    chosen = (table["metric"] == metric) & (table["kind"] == kind) & (table["system"] == system)
    return float(table[chosen & (table["group"] == ALL)]["value"].iloc[0])


def test_nobody_is_both_fitted_and_tested(cohort: Cohort, parts: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    fitted, tested = parts
    assert set(fitted["role"]) == {"pretrain"}
    assert set(tested["role"]) == {"internal", "external"}
    assert tested["patient_id"].nunique() == 16
    everyone = kidney_parts(cohort, 0, 0, None)[1]
    assert everyone["patient_id"].nunique() == (cohort.patients()["role"] != "pretrain").sum()
    with pytest.raises(DataError, match="fold"):
        kidney_parts(cohort, 16, 0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("wording", ["other", "same", "shuffled"])
def test_questions_differ_from_the_paraphrase_in_one_fact(
    cohort: Cohort, parts: tuple[pd.DataFrame, pd.DataFrame], wording: str
) -> None:
    questions = make_questions(cohort, parts[1], wording, 4, 0)
    assert questions == make_questions(cohort, parts[1], wording, 4, 0)
    lesions = pd.read_parquet(cohort.root / "truth.parquet").query("lesion_present == 'yes'")
    wanted = parts[1].merge(lesions[["patient_id", "side"]], on=["patient_id", "side"])
    asked, described = {q.query for q in questions}, set(wanted["text"])
    assert asked == described if wording != "shuffled" else len(asked & described) > 0.8 * len(described)
    for question in questions:
        assert 1 <= len(question.flips) <= 4
        assert len(set(question.texts)) == len(question.flips) + 2
        kinds = [kind for kind, _ in question.flips]
        assert len(set(kinds)) == len(kinds)
        assert "side" in kinds or wording == "shuffled"


@pytest.mark.slow
def test_a_reader_of_facts_answers_all_and_a_constant_guesses(
    cohort: Cohort, parts: tuple[pd.DataFrame, pd.DataFrame]
) -> None:
    questions = make_questions(cohort, parts[1], "shuffled", 4, 0)
    answers = {
        "facts": answer(questions, lambda texts: _facts(list(texts))),
        "constant": answer(questions, lambda texts: np.ones((len(texts), 3), dtype=np.float32)),
    }
    values, differences = tabulate(list(question_measures(questions, answers)), "facts", 100)
    # Shuffling may move a pronoun to another noun, so a few texts read otherwise.
    assert _value(values, RETRIEVAL, EVERY, "facts") > 0.75
    assert _value(values, RETRIEVAL, "side", "facts") == 1.0
    expected = np.mean([1 / (1 + len(question.flips)) for question in questions])
    assert _value(values, RETRIEVAL, EVERY, "constant") == pytest.approx(expected)
    assert _value(values, RETRIEVAL, "size", "constant") == 0.5
    row = differences.query("metric == 'retrieval' and kind == 'every fact' and against == 'constant'").iloc[-1]
    assert row["low"] > 0.5
    assert row["difference"] == pytest.approx(_value(values, RETRIEVAL, EVERY, "facts") - expected)


def test_a_system_does_not_differ_from_itself() -> None:
    rng = np.random.default_rng(0)
    vectors = {text: rng.normal(size=4) for text in "abcdefghij"}
    questions = [
        ParaphraseQuestion(f"p{n}", "internal", "ab"[n % 2], "cd"[n % 2], (("side", "ef"[n % 2]),)) for n in range(12)
    ]

    def embed(texts: list[str]) -> np.ndarray:
        return np.stack([vectors[text] for text in texts])

    answers = {name: answer(questions, embed) for name in ("one", "two")}  # type: ignore[arg-type]
    values, differences = tabulate(list(question_measures(questions, answers)), "one", 50)
    assert differences["difference"].eq(0).all()
    assert differences["p"].eq(1).all()
    assert (differences["low"].lt(0) & differences["high"].gt(0)).all()
    assert differences["interval"].eq("Clopper-Pearson").all()
    assert set(values["group"]) == {"held out"}


@pytest.mark.slow
def test_the_probe_reads_facts_out_of_facts_and_none_out_of_noise(tmp_path: Path) -> None:
    cohort = reports_cohort(tmp_path, 200)  # of fewer patients a rare class is stated too seldom to be learned
    fitted, tested = kidney_parts(cohort, 0, 0, None)
    codes = stated_codes(cohort, pd.concat([fitted, tested], ignore_index=True))
    rng = np.random.default_rng(0)
    truth = dict(zip([*fitted["text"], *tested["text"]], codes, strict=True))

    def known(texts: list[str]) -> np.ndarray:
        return np.stack([np.concatenate([truth[text] == code for code in range(6)]) for text in texts]).astype(float)

    def noise(texts: list[str]) -> np.ndarray:
        return rng.normal(size=(len(texts), 16))

    frames = {"known": text_probe(known, fitted, tested, codes), "noise": text_probe(noise, fitted, tested, codes)}  # type: ignore[arg-type]
    assert list(frames["known"]["patient_id"]) == sorted(tested["patient_id"])
    values, _ = tabulate(list(attribute_measures(frames)), "known", 20)
    assert _value(values, ATTRIBUTES, MEAN, "known") > 0.95
    assert _value(values, ATTRIBUTES, MEAN, "noise") == pytest.approx(0.5, abs=0.1)


def test_wordings_that_need_facts_are_refused_without_them(
    cohort: Cohort, parts: tuple[pd.DataFrame, pd.DataFrame], tmp_path: Path
) -> None:
    elsewhere = Cohort(tmp_path, cohort.info, cohort.tables)
    with pytest.raises(DataError, match="WORDING=shuffled"):
        make_questions(elsewhere, parts[1], "other")
    with pytest.raises(DataError, match="other, same, shuffled"):
        make_questions(cohort, parts[1], "free")
    normal = parts[1].assign(text="Thank you for the referral.")
    with pytest.raises(DataError, match="states a fact"):
        make_questions(cohort, normal, "shuffled")


def test_masked_prediction_is_that_of_one_text_at_a_time(base: Path, parts: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    encoder = TextEncoder(TextBase(str(base), None, "none", 96).config(bidirectional=True), "cpu", head=True)
    texts = [*parts[1]["text"][:6], parts[1]["text"].iloc[0]]
    rows = masked_rows(encoder, str(base), texts, seed=3)
    alone = np.concatenate([masked_rows(encoder, str(base), [text], seed=3) for text in texts])
    assert np.abs(rows - alone).max() < 1e-4
    assert (rows[:, TOKENS] > 0).all()
    assert (rows[:, HITS] <= rows[:, TOKENS]).all()
    assert rows[0].tolist() == rows[-1].tolist()
    loss = ratio(rows, LOSS, np.arange(len(rows)))(np.ones((1, len(rows)), dtype=np.float32))
    assert loss[0] == pytest.approx(rows[:, LOSS].sum() / rows[:, TOKENS].sum())
    assert not np.array_equal(masked_rows(encoder, str(base), texts, seed=4), rows)


@pytest.fixture(scope="module")
def adapted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = TextEncoderConfig(str(base), "tiny", 1, "none", max_length=96, lora_rank=2)
    torch.manual_seed(0)
    encoder = TextEncoder(config, "cpu")
    state = {name: value + 0.05 * torch.randn_like(value) for name, value in encoder.adapter_state().items()}
    encoder.load_adapter_state(state)
    folder = tmp_path_factory.mktemp("adapted")
    save_text_encoder(folder, encoder, "card", TrainedOn.nobody().write(folder))
    return folder


@pytest.mark.slow
def test_the_command_compares_every_system(cohort: Cohort, base: Path, adapted: Path, tmp_path: Path) -> None:
    def run() -> None:
        evaluate_text(adapted, cohort.root, str(base), patients=16, flips=3, replicates=20, device="cpu", runs=tmp_path)

    run()
    folder = tmp_path / "renal/demo/text/evaluation-other-s42"
    names = {"text.csv", "text-data.parquet", "text_differences.csv", "text.png", "evaluation.json", "mlflow.json"}
    assert {path.name for path in folder.iterdir()} == names
    values, differences = (pd.read_csv(folder / name) for name in ("text.csv", "text_differences.csv"))
    assert set(values["system"]) == {TFIDF, CAUSAL_LAST, CAUSAL_MEAN, BIDIRECTIONAL, ADAPTED}
    assert set(differences["against"]) == set(values["system"]) - {ADAPTED}
    assert set(values[values["metric"] == MASKED]["system"]) == {BIDIRECTIONAL, ADAPTED}
    assert (values["kidneys"] > 0).all()
    assert str(base) not in (folder / "evaluation.json").read_text()
    assert len(list((tmp_path / "renal/demo/text-embeddings").iterdir())) == 3
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("renal/demo/text")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1
    logged = runs[0].data.metrics[f"retrieval/{ALL.replace(' ', '_')}/adapted/value"]
    assert logged == pytest.approx(_value(values, RETRIEVAL, EVERY, ADAPTED))


def test_masked_loss_of_a_corpus(base: Path, adapted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    pd.DataFrame({"text": [f"The left kidney shows a mass of {n} cm." for n in range(1, 9)]}).to_csv(corpus / "a.csv")
    said: list[str] = []
    monkeypatch.setattr("experiments.pretraining.evaluation.masked_tokens.say", said.append)
    assert masked_loss(corpus, adapted=adapted, base=str(base), held_out_share=1.0, device="cpu", replicates=50) == 0
    assert [line.split(":")[0] for line in said] == ["un-adapted base", "adapted"]
    assert all("of 8 texts" in line for line in said)
    with pytest.raises(DataError, match="held_out_share"):
        masked_loss(corpus, base=str(base), held_out_share=1e-9, device="cpu")
