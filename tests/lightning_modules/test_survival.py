"""Survival: pycox's losses on the grid, the C-index, and the module."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycox.models import DeepHitSingle, LogisticHazard
from pycox.models.data import pair_rank_mat
from pycox.models.loss import rank_loss_deephit_single
from pycox.preprocessing.label_transforms import LabTransDiscreteTime
from sksurv.metrics import concordance_index_censored

from datamodules.labels import time_grid
from lightning_modules.errors import ModelError
from lightning_modules.losses.survival import DiscreteTime
from lightning_modules.metrics.concordance import concordance_index
from lightning_modules.networks.encoders import EncoderConfig
from lightning_modules.optimization import OptimizerConfig
from lightning_modules.survival import Survival

SMALL = EncoderConfig(width=4, depth=10)
CONTRACT = {"grid": [8, 12, 12], "region": "kidney"}


def _outcomes(n: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return np.floor(rng.exponential(20, n)).astype(np.float32), rng.random(n) < 0.4


def _grid(objective: str = "logistic_hazard") -> DiscreteTime:
    return DiscreteTime(time_grid(*_outcomes(), 8), objective)  # type: ignore[arg-type]


def test_the_grid_is_cut_and_read_as_pycox_does() -> None:
    months, event = _outcomes()
    transform = LabTransDiscreteTime(9, scheme="quantiles").fit(months.astype(np.float64), event)
    cuts = time_grid(months, event, 8)
    assert cuts == sorted(set(transform.cuts.tolist()))
    assert cuts[0] == 0.0
    assert (months == 0).any()  # day 0 is kept
    expected, observed = transform.transform(months.astype(np.float64), event)
    index, seen = _grid().index(torch.from_numpy(months), torch.from_numpy(event))
    assert index.tolist() == expected.tolist()
    assert seen.tolist() == observed.astype(bool).tolist()
    late = torch.tensor([1e4, 1e4])
    index, seen = _grid().index(late, torch.tensor([True, False]))
    assert index.tolist() == [len(cuts) - 1] * 2
    assert not seen.any()


def test_curves_are_pycoxs() -> None:
    for objective, model in (("logistic_hazard", LogisticHazard), ("deephit", DeepHitSingle)):
        grid = _grid(objective)
        network, covariates = torch.nn.Linear(5, grid.outputs), torch.randn(30, 5)
        expected = model(network).predict_surv(covariates)
        curve = grid.survival(network(covariates).detach())
        torch.testing.assert_close(curve, expected.double(), rtol=1e-5, atol=1e-6)
        assert (curve.diff(dim=1) <= 1e-9).all()


def test_the_ranking_term_compares_the_pairs_that_pycox_compares() -> None:
    months, event = _outcomes(40, seed=2)
    grid = DiscreteTime(time_grid(*_outcomes(), 8), "deephit", alpha=0.0)
    phi = torch.randn(40, grid.outputs)
    index, observed = grid.index(torch.from_numpy(months), torch.from_numpy(event))
    rank = torch.from_numpy(pair_rank_mat(index.numpy(), observed.numpy().astype("float32")))
    expected = rank_loss_deephit_single(phi, index, observed.float(), rank, 0.1)
    torch.testing.assert_close(grid.loss(phi, torch.from_numpy(months), torch.from_numpy(event)), expected)


def test_the_risk_rises_with_the_hazard() -> None:
    grid = _grid()
    phi = torch.linspace(-4, 2, 12)[:, None].expand(-1, grid.outputs)
    assert (grid.log_risk(phi).diff() > 0).all()


@pytest.mark.parametrize("objective", ["logistic_hazard", "deephit"])
def test_an_empty_batch_is_zero(objective: str) -> None:
    grid = _grid(objective)
    phi = torch.zeros(0, grid.outputs, requires_grad=True)
    loss = grid.loss(phi, torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    loss.backward()
    assert float(loss.detach()) == 0.0


def test_bad_grids_are_refused() -> None:
    for cuts in ([0.0], [0.0, 5.0, 5.0]):
        with pytest.raises(ModelError, match="expected two or more rising times"):
            DiscreteTime(cuts, "deephit")


@pytest.mark.parametrize("seed", range(4))
def test_the_c_index_is_scikit_survivals(seed: int) -> None:
    months, event = _outcomes(90, seed)
    risk = np.round(np.random.default_rng(seed + 9).normal(size=90), 1)  # ties
    expected = concordance_index_censored(event, months, risk)[0]
    tensors = (torch.from_numpy(values) for values in (risk, months, event))
    assert float(concordance_index(*tensors)) == pytest.approx(expected, abs=1e-12)


def test_the_c_index_of_nothing_to_compare_is_not_a_number() -> None:
    empty = torch.zeros(0)
    assert torch.isnan(concordance_index(empty, empty, empty.bool()))
    assert torch.isnan(concordance_index(torch.ones(3), torch.arange(3.0), torch.zeros(3, dtype=torch.bool)))


def make_module(**options: object) -> Survival:
    torch.manual_seed(0)
    outcome = {"endpoint": "dss", "cuts": [0.0, 5.0, 10.0, 20.0]}
    settings = {"encoder": SMALL, "outcome": outcome, "contract": CONTRACT, "optimizer": OptimizerConfig()}
    return Survival(**{**settings, "dropout": 0.0, **options})  # type: ignore[arg-type]


def make_batch(n: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    known = torch.ones(n, 3, dtype=torch.bool)
    known[0] = torch.tensor([True, False, True])
    return {
        "image": torch.rand(n, 1, 8, 12, 12, generator=generator),
        "patient": torch.arange(n),
        "sample": torch.arange(n),
        "time_months": (torch.rand(n, 3, generator=generator) * 6).floor(),
        "event": torch.rand(n, 3, generator=generator) < 0.6,
        "known": known,
    }


@pytest.mark.parametrize("objective", ["cox", "logistic_hazard", "deephit"])
def test_an_unknown_endpoint_contributes_nothing(objective: str) -> None:
    module, batch = make_module(objective=objective, risk_set="batch").eval(), make_batch(6)
    batch["image"].requires_grad_()
    loss = module.training_step(batch, 0)
    loss.backward()
    rest = {name: value[1:] for name, value in batch.items()}
    torch.testing.assert_close(loss, module.training_step(rest, 0))
    assert batch["image"].grad is not None
    assert float(batch["image"].grad[0].abs().sum()) == 0.0
    assert float(batch["image"].grad[1:].abs().sum()) > 0.0


def test_hyper_parameters_rebuild_the_module_from_plain_data() -> None:
    for objective in ("cox", "deephit"):
        module = make_module(objective=objective)
        again = Survival(**module.hparams)
        again.load_state_dict(module.state_dict())
        assert again.hparams == module.hparams


def test_a_wrong_outcome_is_refused() -> None:
    with pytest.raises(ModelError, match="expected an endpoint of rfs, dss, os"):
        make_module(outcome={})


def test_columns_are_risk_and_curve() -> None:
    assert list(make_module().prediction_columns(torch.randn(3, 1), [])) == ["risk"]
    columns = make_module(objective="logistic_hazard").prediction_columns(torch.randn(3, 4), [])
    assert list(columns) == ["risk", "survival_0.00", "survival_5.00", "survival_10.00", "survival_20.00"]
    assert columns["risk"].dtype == torch.float64
