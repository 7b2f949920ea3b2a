"""What the report writer learns, writes and keeps, on random tiny models."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lightning_modules.core.errors import ModelError
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.export.writer import load_report_writer, save_report_writer
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.networks.joint.decoding import Decoding, Written
from lightning_modules.networks.joint.image_tokens import build_image_tokens
from lightning_modules.networks.joint.report_writer import ReportWriter, WriterConfig
from lightning_modules.networks.text.encoder import TextEncoderConfig
from lightning_modules.networks.text.tokens import begin_ids, prompt_ids
from lightning_modules.pretrain.reports import ReportGeneration
from tests.tiny_text import TEXTS, make_base

ENCODER = EncoderConfig(depth=10, width=8, stem_pool=False)
PROMPTS = ["left kidney :", "right", "normal left kidney .", "the mass is"]
IMAGES = torch.rand(4, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def make_writer(base: Path, seed: int = 0, *, kind: str = "pooled", **changed: object) -> ReportWriter:
    torch.manual_seed(seed)
    options = {"base": str(base), "base_name": "tiny", "quantization": "none", "max_length": 40, "bidirectional": False}
    text = TextEncoderConfig(**{**options, **changed})  # type: ignore[arg-type]
    return ReportWriter(ENCODER, text, WriterConfig(kind, 3), "cpu")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def writer(base: Path) -> ReportWriter:
    return make_writer(base)


@pytest.mark.parametrize("kind", ["pooled", "spatial"])
@pytest.mark.parametrize("adapter", [False, True])
def test_only_projector_and_adapters_learn(base: Path, kind: str, adapter: bool) -> None:
    writer = make_writer(base, kind=kind, adapter=adapter).train()
    logits, target, report = writer.report_logits(writer.image_tokens(IMAGES), PROMPTS, TEXTS)
    torch.nn.functional.cross_entropy(logits, target).backward()
    moved = {name for name, value in writer.named_parameters() if value.grad is not None and value.grad.any()}
    assert {name.split(".")[0] for name in moved} == ({"projector", "language"} if adapter else {"projector"})
    assert all("lora_" in name for name in moved if name.startswith("language"))
    assert all(value.grad is not None for name, value in writer.named_parameters() if name.startswith("projector."))
    assert report.unique().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["pooled", "spatial"])
def test_the_projector_begins_with_standardized_features(base: Path, kind: str) -> None:
    """Also with batches of unequal size; a feature that never varies stays finite."""
    module = ReportGeneration(
        ENCODER,
        TextEncoderConfig(base=str(base), base_name="tiny", quantization="none", max_length=40),
        {},
        OptimizerConfig(),
        writer=WriterConfig(kind, 3),  # type: ignore[arg-type]
    )
    module.build("cpu")
    images = torch.rand(6, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1))
    module.trainer = SimpleNamespace(datamodule=SimpleNamespace(on_after_batch_transfer=lambda batch, _: batch))
    module.writer.eval()
    module.standardize([{"image": images[:4]}, {"image": images[4:]}])
    rows = module.writer.image_features(images).transpose(0, 1).flatten(1).T
    found = module.writer.projector.standardize(rows)  # type: ignore[operator]
    varied = rows.std(dim=0, correction=0) > 0.1 * rows.std(dim=0, correction=0).median()
    assert varied.any()
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(rows.shape[1]), atol=1e-3, rtol=0)
    torch.testing.assert_close(
        found.std(dim=0, correction=0)[varied], torch.ones(int(varied.sum())), atol=1e-3, rtol=1e-3
    )
    assert found.isfinite().all()


def test_a_report_is_scored_the_same_in_any_company(writer: ReportWriter) -> None:
    tokens = writer.image_tokens(IMAGES)
    logits, target, report = writer.report_logits(tokens, PROMPTS, TEXTS)
    for row in range(len(TEXTS)):
        alone, own, _ = writer.report_logits(tokens[row : row + 1], PROMPTS[row : row + 1], TEXTS[row : row + 1])
        torch.testing.assert_close(alone, logits[report == row], atol=1e-4, rtol=1e-4)
        assert own.tolist() == target[report == row].tolist()
        assert own[-1] == writer.tokenizer.eos_token_id


def test_what_is_written_is_what_the_model_scores_highest_whatever_the_company(writer: ReportWriter) -> None:
    tokens = writer.image_tokens(IMAGES)
    written = writer.write(tokens, PROMPTS, Decoding(max_tokens=6))
    for row, report in enumerate(written):
        (alone,) = writer.write(tokens[row : row + 1], PROMPTS[row : row + 1], Decoding(max_tokens=6))
        assert alone.tokens == report.tokens
        assert alone.logprobs == pytest.approx(report.logprobs, abs=1e-4)
        ids = writer.tokenizer.convert_tokens_to_ids(report.tokens)
        begin, heads = begin_ids(writer.tokenizer), prompt_ids(writer.tokenizer, PROMPTS[row : row + 1])
        whole = torch.tensor([[*begin, 0, 0, 0, *heads[0], *ids]])
        states = writer._states(writer._with_image(whole, tokens[row : row + 1], len(begin)), torch.ones_like(whole))
        scores = writer._head(states[0, -len(ids) - 1 : -1]).log_softmax(dim=-1)
        assert scores.argmax(dim=-1).tolist() == ids
        assert report.logprobs == pytest.approx(scores.max(dim=-1).values.tolist(), abs=1e-4)
        assert report.truncated == (report.tokens[-1] != "</s>")


def test_the_image_changes_what_is_written(writer: ReportWriter) -> None:
    tokens = writer.image_tokens(IMAGES)
    first = writer.report_logits(tokens, PROMPTS, TEXTS)[0]
    other = writer.report_logits(tokens.flip(0), PROMPTS, TEXTS)[0]
    assert (first - other).abs().max() > 1e-3


def test_no_row_of_tokens_is_written_twice(writer: ReportWriter) -> None:
    """A random model repeats itself; the scores of what it writes instead stay the model's own."""
    tokens = writer.image_tokens(IMAGES)
    looping = writer.write(tokens, PROMPTS, Decoding(max_tokens=30))
    free = writer.write(tokens, PROMPTS, Decoding(max_tokens=30, no_repeat=2))

    def repeats(found: list[Written]) -> int:
        rows = [[*pairwise(report.tokens)] for report in found]
        return sum(len(pairs) - len(set(pairs)) for pairs in rows)

    assert repeats(looping) > 0 == repeats(free)
    assert all(value <= 0 for report in free for value in report.logprobs)
    with pytest.raises(ModelError, match="no_repeat -1"):
        Decoding(no_repeat=-1)


def test_beams_find_no_less_likely_reports_and_samples_follow_their_seed(writer: ReportWriter) -> None:
    tokens = writer.image_tokens(IMAGES)
    greedy = writer.write(tokens, PROMPTS, Decoding(max_tokens=4))
    beams = writer.write(tokens, PROMPTS, Decoding(max_tokens=4, beams=4))
    for one, many in zip(greedy, beams, strict=True):
        assert sum(many.logprobs) / len(many.logprobs) >= sum(one.logprobs) / len(one.logprobs) - 1e-4
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append([entry.tokens for entry in writer.write(tokens, PROMPTS, Decoding(max_tokens=6, temperature=2.0))])
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_saved_writer_writes_the_same_and_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    writer = make_writer(base, adapter=True)
    with torch.no_grad():
        for name, value in writer.language.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.2)
    save_report_writer(tmp_path / "w", writer, ENCODER, {"grid": [1]}, {"base": writer.base_fingerprint}, "card")
    loaded, found = load_report_writer(tmp_path / "w", str(base), "cpu")
    tokens = writer.image_tokens(IMAGES)
    torch.testing.assert_close(loaded.image_tokens(IMAGES), tokens)
    torch.testing.assert_close(
        loaded.report_logits(tokens, PROMPTS, TEXTS)[0], writer.report_logits(tokens, PROMPTS, TEXTS)[0]
    )
    assert found.contract == {"grid": [1]}
    assert str(base) not in (tmp_path / "w" / "writer.json").read_text()
    with pytest.raises(ModelError, match="does not fit"):
        load_report_writer(tmp_path / "w", str(make_base(tmp_path / "other", seed=1)), "cpu")
    (tmp_path / "w" / "writer.safetensors").write_bytes(b"cut off")
    with pytest.raises(ModelError, match="damaged"):
        load_report_writer(tmp_path / "w", str(base), "cpu")


def test_adapters_start_from_a_projector_alone(base: Path) -> None:
    first, second = make_writer(base, adapter=False), make_writer(base, seed=1, adapter=True)
    second.load_trained_state(first.trained_state())
    torch.testing.assert_close(second.projector.state_dict(), first.projector.state_dict())
    with pytest.raises(ModelError, match="do not fit"):
        first.load_trained_state(make_writer(base, kind="spatial", adapter=False).trained_state())


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ModelError, match="choose pooled or spatial"):
        build_image_tokens("flat", 8, 8, 1)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="image_tokens=0"):
        build_image_tokens("pooled", 8, 8, 0)
    with pytest.raises(ModelError, match="exclude each other"):
        Decoding(beams=2, temperature=1.0)
    with pytest.raises(ModelError, match="top_p 0"):
        Decoding(top_p=0)
