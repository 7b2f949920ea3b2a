"""Losses of the text stages against computations by hand and a trusted library."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from lightning_modules.losses.text_loss import (
    agreement,
    attribute_contrast_loss,
    masked_token_loss,
    nearer_than_negatives,
    simcse_loss,
)
from lightning_modules.networks.text.encoder import TextEncoder, TextEncoderConfig
from lightning_modules.networks.text.tokens import shifted
from tests.tiny_text import TEXTS, make_base


def unit(rows: int, size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, size, generator=generator, dtype=torch.float64), dim=1)


def test_masked_tokens_are_predicted_from_the_state_before_them() -> None:
    """By hand: the state at place t holds t in its only feature, and the head reads it off as a logit."""
    states = torch.arange(8.0).reshape(2, 4, 1)
    labels = torch.tensor([[-100, -100, 1, -100], [-100, 0, -100, 1]])
    chosen, target, text = shifted(states, labels)
    assert chosen.flatten().tolist() == [1.0, 4.0, 6.0]
    assert (target.tolist(), text.tolist()) == ([1, 0, 1], [0, 1, 1])
    logits = torch.cat([torch.zeros_like(chosen), chosen], dim=1)
    by_hand = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(4)), math.log(1 + math.exp(-6))]
    terms = masked_token_loss(logits, target)
    torch.testing.assert_close(terms.rows, torch.tensor(by_hand))
    torch.testing.assert_close(terms.loss, torch.tensor(sum(by_hand) / 3))


def test_with_causal_attention_it_is_the_loss_of_the_library(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = make_base(tmp_path / "tiny")
    config = TextEncoderConfig(str(folder), "tiny", quantization="none", bidirectional=False, adapter=False)
    encoder = TextEncoder(config, "cpu", head=True)
    tokens = encoder.tokenize(TEXTS)
    labels = tokens["input_ids"].masked_fill(tokens["attention_mask"] == 0, -100)
    chosen, target, _ = shifted(encoder.hidden(**tokens), labels)
    ours = masked_token_loss(encoder.logits(chosen), target).loss
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(**tokens, labels=labels).loss
    torch.testing.assert_close(ours, theirs)


def test_nothing_masked_is_a_loss_of_0_with_a_gradient() -> None:
    logits = torch.zeros(0, 5, requires_grad=True)
    loss = masked_token_loss(logits, torch.zeros(0, dtype=torch.int64)).loss
    loss.backward()
    assert float(loss.detach()) == 0.0


def test_simcse_finds_the_second_view_among_all() -> None:
    first, second = unit(5, 7, 0), unit(5, 7, 1)
    by_hand = []
    for i in range(5):
        scores = [math.exp(float(first[i] @ second[j]) / 0.05) for j in range(5)]
        by_hand.append(-math.log(scores[i] / sum(scores)))
    terms = simcse_loss(first * 3, second * 0.2, 0.05)  # length does not count
    torch.testing.assert_close(terms.rows, torch.tensor(by_hand))
    torch.testing.assert_close(terms.loss, terms.rows.mean())


FACTS = torch.tensor([[0, 1, -100], [0, 1, 2], [1, 1, -100], [0, -100, -100], [-100, -100, 2]])


def test_agreement_is_the_share_of_what_either_states() -> None:
    share, conflict = agreement(FACTS, FACTS)
    torch.testing.assert_close(share[0], torch.tensor([1.0, 2 / 3, 1 / 2, 1 / 2, 0.0]))
    assert conflict[0].tolist() == [False, False, True, False, False]
    assert torch.equal(conflict, conflict.T)


def test_attribute_contrast_is_supcon_with_weights() -> None:
    """The formula of Khosla et al. anchor by anchor; reports with nothing in common are left out."""
    first, second = unit(5, 6, 2), unit(5, 6, 3)
    z = torch.cat([first, second])
    share, conflict = agreement(FACTS, FACTS)
    losses = []
    for i in range(10):
        positives, everyone = [], []
        for a in range(10):
            if a == i:
                continue
            own, pair = a % 5 == i % 5, (i % 5, a % 5)
            weight = 1.0 if own else 0.0 if conflict[pair] else float(share[pair])
            score = math.exp(float(z[i] @ z[a]) / 0.1)
            if weight > 0 or conflict[pair]:
                everyone.append(score)
            if weight > 0:
                positives.append((weight, score))
        total = sum(weight for weight, _ in positives)
        losses.append(-sum(w * math.log(s / sum(everyone)) for w, s in positives) / total)
    terms = attribute_contrast_loss(first, second, FACTS, 0.1)
    torch.testing.assert_close(terms.loss, torch.tensor(sum(losses) / 10))
    torch.testing.assert_close(terms.rows, torch.tensor([(losses[i] + losses[i + 5]) / 2 for i in range(5)]))


def test_equal_weights_are_the_published_supcon() -> None:
    """Two classes that state one attribute: every other view of the class is a positive of weight 1."""
    first, second = unit(6, 6, 4), unit(6, 6, 5)
    label = torch.tensor([0, 1, 0, 1, 1, 0])
    z, labels = torch.cat([first, second]), label.repeat(2)
    similarity = (z @ z.T / 0.1).fill_diagonal_(float("-inf"))
    log_share = similarity - similarity.logsumexp(dim=1, keepdim=True)
    same = (labels[:, None] == labels[None]) & ~torch.eye(12, dtype=torch.bool)
    expected = -(log_share.masked_fill(~same, 0.0).sum(dim=1) / same.sum(dim=1)).mean()
    torch.testing.assert_close(attribute_contrast_loss(first, second, label[:, None], 0.1).loss.double(), expected)


def test_without_any_fact_only_the_own_view_attracts() -> None:
    first, second = unit(3, 4, 6).requires_grad_(), unit(3, 4, 7)
    nothing = torch.full((3, 2), -100)
    loss = attribute_contrast_loss(first, second, nothing).loss
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.zeros(()), check_dtype=False)
    assert first.grad is not None
    assert torch.isfinite(first.grad).all()


def test_hard_negatives_are_those_of_the_own_first_view_alone() -> None:
    first, second, hard = unit(3, 6, 8), unit(3, 6, 9), unit(4, 6, 10)
    owner = torch.tensor([0, 0, 2, 2])
    nothing = torch.full((3, 2), -100)
    terms = attribute_contrast_loss(first, second, nothing, 0.1, hard, owner)
    by_hand = []
    for i in range(3):
        own = math.exp(float(first[i] @ second[i]) / 0.1)
        against = sum(math.exp(float(first[i] @ hard[j]) / 0.1) for j in range(4) if owner[j] == i)
        by_hand.append(math.log((own + against) / own) / 2)  # the second view has nothing against it
    torch.testing.assert_close(terms.rows, torch.tensor(by_hand))
    none = attribute_contrast_loss(first, second, nothing, 0.1, hard[:0], owner[:0])
    torch.testing.assert_close(none.rows, attribute_contrast_loss(first, second, nothing, 0.1).rows)


def test_a_paraphrase_must_be_nearer_than_every_changed_text() -> None:
    first = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    second = torch.tensor([[2.0, 1.0], [1.0, 1.0], [0.0, 1.0]])
    hard = torch.tensor([[1.0, 1.0], [1.0, 3.0], [3.0, 1.0]])
    won = nearer_than_negatives(first, second, hard, torch.tensor([0, 0, 1]))
    assert won.tolist() == [True, False, True]
