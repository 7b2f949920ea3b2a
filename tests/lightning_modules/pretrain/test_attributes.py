"""Attribute pretraining: masked targets, scores, and one gradient for any number of ranks."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from lightning_modules.core.errors import ModelError
from lightning_modules.core.missing import MISSING
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.metrics.patient_scores import PatientTable
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.pretrain.attributes import SCORED_FROM, AttributePretraining, attribute_auroc

CONTRACT = {"grid": [8, 12, 12], "region": "kidney"}
COUNTS = {
    "lesion_present": {"no": 20, "yes": 30},
    "pole": {"upper": 5, "interpolar": 9, "lower": 3},
    "stones": {"no": 8, "yes": 0},
}
SMALL = EncoderConfig(width=16, depth=10, norm="group")


def make_module(**options: Any) -> AttributePretraining:
    torch.manual_seed(0)
    settings = {"encoder": SMALL, "dropout": 0.0, **options}
    return AttributePretraining(class_counts=COUNTS, contract=CONTRACT, optimizer=OptimizerConfig(), **settings)


def make_batch(size: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    target = torch.stack(
        [torch.randint(0, len(values), (size,), generator=generator) for values in COUNTS.values()], dim=1
    )
    target[torch.rand(target.shape, generator=generator) < 0.35] = MISSING
    return {
        "image": torch.rand(size, 1, 8, 12, 12, generator=generator),
        "phase": torch.randint(0, 4, (size,), generator=generator),
        "attributes": target,
        "kidney": torch.arange(size),
        "sample": torch.arange(size),
    }


def gradients(module: AttributePretraining, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    module.zero_grad()
    loss, _ = module.loss(module(batch["image"], batch["phase"]), batch["attributes"])
    loss.backward()
    return {name: value.grad for name, value in module.named_parameters() if value.grad is not None}


def test_a_missing_attribute_moves_no_weight_of_its_head() -> None:
    module, batch = make_module(), make_batch()
    batch["attributes"][:, 1] = MISSING
    found = gradients(module, batch)["heads.weight"]
    assert (found[2:5] == 0).all()
    assert float(found[:2].abs().sum()) > 0


def test_checkpointing_changes_memory_and_nothing_else() -> None:
    batch = make_batch()
    for norm in ("group", "batch"):
        plain = make_module(encoder=EncoderConfig(width=16, depth=10, norm=norm))  # type: ignore[arg-type]
        recomputed = make_module(
            encoder=EncoderConfig(width=16, depth=10, norm=norm, checkpointing=True)  # type: ignore[arg-type]
        )
        first, second = gradients(plain, batch), gradients(recomputed, batch)
        for name, value in first.items():
            torch.testing.assert_close(value, second[name], rtol=1e-5, atol=1e-7)


def test_the_phase_shifts_the_feature_only_where_it_is_an_input() -> None:
    batch = make_batch()
    told = make_module().eval()
    assert torch.equal(told(batch["image"], batch["phase"]), told(batch["image"], (batch["phase"] + 1) % 4))
    torch.nn.init.normal_(told.phase.weight)  # type: ignore[union-attr]
    assert not torch.equal(told(batch["image"], batch["phase"]), told(batch["image"], (batch["phase"] + 1) % 4))
    blind = make_module(phase_input=False).eval()
    assert torch.equal(blind(batch["image"], batch["phase"]), blind(batch["image"], (batch["phase"] + 1) % 4))
    with pytest.raises(ModelError, match="one image a sample"):
        blind(batch["image"][:, None], batch["phase"])


def test_the_auc_of_an_attribute_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    sizes = [2, 3, 2]
    logits = torch.tensor(rng.normal(size=(60, 7)), dtype=torch.float32)
    target = torch.tensor(np.stack([rng.integers(0, size, 60) for size in sizes], axis=1))
    target[:20, 0] = MISSING
    target[:, 1][(target[:, 1] == 2).nonzero()[SCORED_FROM - 1 :, 0]] = MISSING  # too few of the third class
    target[:, 2] = 0
    ours = attribute_auroc(PatientTable(torch.arange(60), logits, target), sizes)
    stated = target[:, 0] != MISSING
    margin = (logits[:, 1] - logits[:, 0]).numpy()
    assert float(ours[0]) == pytest.approx(roc_auc_score(target[stated, 0], margin[stated]), abs=1e-6)
    kept = (target[:, 1] == 0) | (target[:, 1] == 1)
    margin = (logits[:, 3] - logits[:, 2]).numpy()
    assert float(ours[1]) == pytest.approx(roc_auc_score(target[kept, 1], margin[kept]), abs=1e-6)
    assert torch.isnan(ours[2])


@pytest.mark.parametrize("weighting", ["sum", "uncertainty", "gradient"])
def test_uneven_shares_of_ranks_add_up_to_one_gradient(weighting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What two ranks compute, simulated in one process: each sees the other's totals through `sum_over_ranks`."""
    from lightning_modules.losses import attribute_loss as losses

    whole, batch = make_module(weighting=weighting), make_batch(7)
    expected = gradients(whole, batch)
    parts = [{name: value[rows] for name, value in batch.items()} for rows in (slice(0, 3), slice(3, 7))]
    # First pass: record what each rank contributes to every reduction; then replay the sums.
    recorded: list[list[torch.Tensor]] = [[], []]
    monkeypatch.setattr(losses, "number_of_ranks", lambda: 2)
    total: list[torch.Tensor] = []
    for position in range(3 if weighting == "gradient" else 2):
        for rank, part in enumerate(parts):
            calls = iter(range(10))

            def reduce(
                value: torch.Tensor, rank: int = rank, calls: Any = calls, position: int = position
            ) -> torch.Tensor:
                number = next(calls)
                if number == position:
                    recorded[rank].append(value.detach().clone())
                return total[number] if number < len(total) else value.detach().clone()

            module = make_module(weighting=weighting)
            _rank_gradient(module, part, reduce)
        total.append(recorded[0][position] + recorded[1][position])
    shares = []
    for part in parts:
        calls = iter(range(10))
        module = make_module(weighting=weighting)
        shares.append(_rank_gradient(module, part, lambda value, calls=calls: total[next(calls)]))
    for name, value in expected.items():
        mean = sum(share[name] for share in shares) / 2
        torch.testing.assert_close(mean, value, rtol=1e-4, atol=1e-6)


def _rank_gradient(module: AttributePretraining, part: dict[str, torch.Tensor], reduce: Any) -> dict[str, torch.Tensor]:
    from lightning_modules.losses.attribute_loss import masked_cross_entropy

    module = copy.deepcopy(module)
    logits = module(part["image"], part["phase"])
    terms = masked_cross_entropy(module.padded(logits), part["attributes"], module.weight, reduce)  # type: ignore[arg-type]
    rows = module.heads.weight[module.padded.index].masked_fill(module.padded.padding[..., None], 0.0)
    module.weighting(terms, rows.detach(), reduce).backward()
    return {name: value.grad for name, value in module.named_parameters() if value.grad is not None}
