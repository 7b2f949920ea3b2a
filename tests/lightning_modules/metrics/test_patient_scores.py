"""The metric that every downstream table comes from: order, repeats and ranks do not matter."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from lightning_modules.downstream.classification import auroc, class_weights
from lightning_modules.metrics.patient_scores import PatientScores


def _samples(seed: int, patients: int = 25) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    patient = torch.randint(patients, (90,), generator=generator)
    target = torch.randint(2, (patients,), generator=generator)
    return {
        "patient": patient,
        "sample": torch.randperm(90, generator=generator),
        "score": torch.randn(90, 2, generator=generator),
        "target": target[patient],
    }


def _filled(samples: dict[str, torch.Tensor], order: torch.Tensor, batch: int) -> PatientScores:
    metric = PatientScores(2)
    for rows in order.split(batch):
        metric.update(**{name: values[rows] for name, values in samples.items()})
    return metric


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), batch=st.integers(1, 90))
def test_order_batches_and_repeats_do_not_change_a_bit(seed: int, batch: int) -> None:
    samples = _samples(seed)
    plain = _filled(samples, torch.arange(90), 90).compute()
    order = torch.randperm(90, generator=torch.Generator().manual_seed(seed))
    padded = torch.cat([order, order[:7]])  # what a distributed sampler repeats to fill its last batch
    other = _filled(samples, padded, batch).compute()
    for mine, theirs in zip(plain, other, strict=True):
        assert torch.equal(mine, theirs)


def test_a_patient_is_the_mean_of_its_samples() -> None:
    samples = _samples(0)
    table = _filled(samples, torch.arange(90), 8).compute()
    frame = pd.DataFrame(samples["score"].double().numpy()).groupby(samples["patient"].numpy()).mean()
    torch.testing.assert_close(table.score, torch.tensor(frame.to_numpy(), dtype=torch.float32))
    assert table.patient.tolist() == frame.index.tolist()
    margin = (table.score[:, 1] - table.score[:, 0]).numpy()
    assert float(auroc(table)) == pytest.approx(roc_auc_score(table.target.numpy(), margin))


@pytest.mark.parametrize(("classes", "targets"), [(1, 0), (2, 0), (1, 9), (3, 1)])
def test_the_table_of_one_patient_keeps_its_shape(classes: int, targets: int) -> None:
    metric = PatientScores(classes, targets)
    target = torch.zeros(1, targets) if targets else torch.zeros(1, dtype=torch.int64)
    metric.update(torch.tensor([7]), torch.tensor([0]), torch.ones(1, classes), target)
    table = metric.compute()
    assert table.patient.tolist() == [7]
    assert table.score.shape == (1, classes)
    assert table.target.shape == target.shape


def test_nothing_added_and_one_class_are_said() -> None:
    assert len(PatientScores(2).compute().patient) == 0
    metric = PatientScores(2)
    metric.update(torch.tensor([0, 1]), torch.tensor([0, 1]), torch.randn(2, 2), torch.tensor([1, 1]))
    assert torch.isnan(auroc(metric.compute()))


def test_large_logits_do_not_tie() -> None:
    metric = PatientScores(2)
    score = torch.tensor([[0.0, 30.0], [0.0, 31.0], [0.0, 32.0], [0.0, 33.0]])
    metric.update(torch.arange(4), torch.arange(4), score, torch.tensor([0, 0, 1, 1]))
    assert float(auroc(metric.compute())) == 1.0


@pytest.mark.parametrize("balance", ["none", "root", "inverse"])
def test_class_weights_average_one_over_patients(balance: str) -> None:
    weights = class_weights([30, 10], balance)  # type: ignore[arg-type]
    assert float((weights * torch.tensor([0.75, 0.25])).sum()) == pytest.approx(1.0)
    assert float(weights[1] / weights[0]) == pytest.approx({"none": 1, "root": 3**0.5, "inverse": 3}[balance])
