"""Cox's loss against trusted libraries, and the memory of risks against the full data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from lifelines import CoxPHFitter
from sksurv.linear_model.coxph import CoxPHOptimizer, CoxPHSurvivalAnalysis

from lightning_modules.core.errors import ModelError
from lightning_modules.losses.cox import RiskMemory, cox_loss

Data = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _data(n: int = 200, seed: int = 0, low: float = 1.0) -> Data:
    """Covariates float64 [n, 4], whole months with many ties from `low` on, events of about a third."""
    generator = torch.Generator().manual_seed(seed)
    covariates = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    beta = torch.tensor([1.0, -0.8, 0.5, 0.0], dtype=torch.float64)
    draw = torch.rand(2, n, generator=generator, dtype=torch.float64)
    death, censored = -draw[0].log() / torch.exp(covariates @ beta) * 40, draw[1] * 20
    time = torch.minimum(death, censored).ceil() - 1 + low
    return covariates, time, death <= censored


def test_efron_is_lifelines_likelihood_under_ties() -> None:
    covariates, time, event = _data()
    assert len(time.unique()) < 25
    frame = pd.DataFrame(covariates.numpy()).assign(time=time.numpy(), event=event.numpy())
    fitted = CoxPHFitter().fit(frame, "time", "event")
    beta = torch.from_numpy(fitted.params_.to_numpy()).requires_grad_()
    loss = cox_loss(covariates @ beta, time, event)
    assert float(-loss.detach() * event.sum()) == pytest.approx(fitted.log_likelihood_, rel=1e-9)
    (gradient,) = torch.autograd.grad(loss, beta)
    assert float(gradient.abs().max()) < 1e-5  # the maximum of lifelines is that of the loss


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("low", [0.0, 1.0])
def test_both_are_scikit_survivals_likelihood_anywhere(ties: str, low: float) -> None:
    covariates, time, event = _data(seed=3, low=low)
    optimizer = CoxPHOptimizer(covariates.numpy(), event.numpy(), time.numpy(), np.zeros(4), ties)
    for beta in (np.zeros(4), np.array([0.7, -0.1, 1.3, 2.0])):
        found = float(cox_loss(covariates @ torch.from_numpy(beta), time, event, ties)) * int(event.sum())
        assert found == pytest.approx(optimizer.nlog_likelihood(beta) * len(time), rel=1e-9)


def test_without_ties_efron_is_breslow() -> None:
    covariates, time, event = _data()
    apart = time + torch.linspace(0, 0.5, len(time))
    risk = covariates[:, 0]
    torch.testing.assert_close(cox_loss(risk, apart, event, "efron"), cox_loss(risk, apart, event, "breslow"))


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_the_order_of_rows_does_not_matter(ties: str) -> None:
    covariates, time, event = _data(40)
    risk = covariates[:, 0].clone().requires_grad_()
    (plain,) = torch.autograd.grad(cox_loss(risk, time, event, ties), risk)
    for seed in range(5):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(
            cox_loss(risk[order], time[order], event[order], ties), cox_loss(risk, time, event, ties)
        )
        moved = risk.detach()[order].requires_grad_()
        (gradient,) = torch.autograd.grad(cox_loss(moved, time[order], event[order], ties), moved)
        torch.testing.assert_close(gradient, plain[order])


@pytest.mark.parametrize("n", [0, 1, 6])
def test_without_events_it_is_zero_with_a_zero_gradient(n: int) -> None:
    risk = torch.randn(n, requires_grad=True)
    loss = cox_loss(risk, torch.arange(n).float(), torch.zeros(n, dtype=torch.bool))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert risk.grad is not None
    assert float(risk.grad.abs().sum()) == 0.0


def test_large_log_risks_stay_finite_in_half_precision() -> None:
    risk = torch.tensor([300.0, -300.0, 80.0, 120.0], dtype=torch.bfloat16, requires_grad=True)
    loss = cox_loss(risk, torch.tensor([0.0, 0.0, 0.0, 5.0]), torch.tensor([True, True, True, True]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(risk.grad).all()
    exact = cox_loss(risk.detach().double(), torch.tensor([0.0, 0.0, 0.0, 5.0]), torch.ones(4, dtype=torch.bool))
    assert float(loss.detach()) == pytest.approx(float(exact), rel=1e-5)


def _gradient(loss: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, beta)[0]


def test_the_memory_gives_the_gradient_of_the_full_data_and_a_batch_does_not() -> None:
    covariates, time, event = _data()
    beta = torch.tensor([0.5, -0.4, 0.2, 0.1], dtype=torch.float64, requires_grad=True)
    full = _gradient(cox_loss(covariates @ beta, time, event), beta)
    memory = RiskMemory(time, event)
    memory.restore({"score": (covariates @ beta).detach(), "seen": torch.ones(len(time), dtype=torch.bool)})
    batches = torch.randperm(len(time), generator=torch.Generator().manual_seed(0)).split(8)
    remembered, alone = torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for rows in batches:
        loss = memory.loss(rows, covariates[rows] @ beta)
        # The network stands still, so the value is always that of the full data.
        assert float(loss.detach()) == pytest.approx(float(cox_loss(covariates @ beta.detach(), time, event)), rel=1e-6)
        remembered += _gradient(loss, beta) / len(batches)
        part = cox_loss(covariates[rows] @ beta, time[rows], event[rows])
        alone += _gradient(part, beta) * event[rows].sum() / event.sum()
    torch.testing.assert_close(remembered, full, rtol=1e-4, atol=1e-6)
    assert float((alone - full).norm() / full.norm()) > 0.15


def _trained(
    covariates: torch.Tensor, time: torch.Tensor, event: torch.Tensor, memory: RiskMemory | None
) -> np.ndarray:
    beta = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([beta], lr=0.1)
    generator, epochs = torch.Generator().manual_seed(1), 25
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - epoch / epochs)
        for rows in torch.randperm(len(time), generator=generator).split(8):
            risk = covariates[rows] @ beta
            loss = cox_loss(risk, time[rows], event[rows]) if memory is None else memory.loss(rows, risk)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return beta.detach().numpy()


def test_training_with_the_memory_ends_at_the_maximum_of_the_partial_likelihood() -> None:
    covariates, time, event = _data(80)
    outcome = np.array(list(zip(event.tolist(), time.tolist(), strict=True)), dtype=[("event", bool), ("time", float)])
    best = CoxPHSurvivalAnalysis(ties="efron").fit(covariates.numpy(), outcome).coef_
    with_memory = np.linalg.norm(_trained(covariates, time, event, RiskMemory(time, event)) - best)
    batch_alone = np.linalg.norm(_trained(covariates, time, event, None) - best)
    assert with_memory < 0.02 * np.linalg.norm(best)
    assert batch_alone > 3 * with_memory


def test_repeats_in_a_batch_count_once() -> None:
    _, time, event = _data(20)
    risk = torch.linspace(-1, 1, 20)
    once, twice = RiskMemory(time, event), RiskMemory(time, event)
    rows = torch.arange(20)
    doubled = torch.cat([rows, rows[:5]])
    torch.testing.assert_close(once.loss(rows, risk), twice.loss(doubled, risk[doubled]))
    assert torch.equal(once.score, twice.score)


def test_a_memory_of_other_patients_is_refused() -> None:
    _, time, event = _data(20)
    state = RiskMemory(time[:7], event[:7]).state()
    with pytest.raises(ModelError, match="remembers 7 patients, the data has 20"):
        RiskMemory(time, event).restore(state)
