"""Survival: pycox's losses on the grid, the C-index, and the module."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from pycox.models import DeepHitSingle, LogisticHazard
from pycox.models.data import pair_rank_mat
from pycox.models.loss import rank_loss_deephit_single
from pycox.preprocessing.label_transforms import LabTransDiscreteTime
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.metrics import concordance_index_censored
from sksurv.util import Surv

from datamodules.cohort.labels import time_grid
from lightning_modules.core.errors import ModelError
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.downstream.baseline_hazard import BaselineHazard
from lightning_modules.downstream.survival import Survival
from lightning_modules.losses.discrete_time import DiscreteTime
from lightning_modules.metrics.concordance import concordance_index
from lightning_modules.networks.image.encoders import EncoderConfig

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


def test_curves_of_risks_are_those_of_scikit_survivals_cox_model() -> None:
    months, event = _outcomes()
    feature = np.random.default_rng(3).normal(size=(120, 4))
    model = CoxPHSurvivalAnalysis(alpha=1e-3).fit(feature, Surv.from_arrays(event, months))
    cuts = [0.0, 4.5, float(np.sort(months[event])[10]), 30.0, 500.0]
    expected = [[curve(min(max(cut, curve.x[0]), curve.x[-1])) for cut in cuts] for curve in
                model.predict_survival_function(feature[:20])]  # fmt: skip
    risk, outcome = torch.from_numpy(model.predict(feature)), (torch.from_numpy(months), torch.from_numpy(event))
    found = BaselineHazard(risk, *outcome, cuts).survival(risk[:20])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    before = BaselineHazard(risk, *outcome, [-1.0]).survival(risk)
    assert bool((before == 1).all())  # before the first event nobody has died
    # A risk has no level of its own: one of e^800 is no more than one of 1.
    moved = BaselineHazard(risk + 800.0, *outcome, cuts).survival(risk[:20] + 800.0)
    torch.testing.assert_close(moved, found)


def test_weights_that_are_tested_read_the_training_patients_for_their_curves() -> None:
    module, batch = make_module().eval(), make_batch(9)
    batch["sample"], batch["patient"] = torch.arange(9), torch.tensor([0, 0, 1, 2, 3, 4, 5, 6, 7])
    for name in ("time_months", "event", "known"):
        batch[name][1] = batch[name][0]  # two phases of one patient
    read: list[str] = []

    def loader(part: str) -> list[dict[str, torch.Tensor]]:
        read.append(part)
        return [{name: value[:4] for name, value in batch.items()}, {name: value[4:] for name, value in batch.items()}]

    trainer = SimpleNamespace(
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        ckpt_path="best.ckpt",
        precision_plugin=SimpleNamespace(val_step_context=nullcontext),
        strategy=SimpleNamespace(batch_to_device=lambda part: part),
        datamodule=SimpleNamespace(loader=loader),
        barebones=False,
    )
    module._trainer = trainer  # type: ignore[assignment]
    with torch.no_grad():
        module.on_validation_start()
        assert not read  # the weights of an epoch in the midst of a fit are not tested
        trainer.state.fn = TrainerFn.VALIDATING
        module.on_validation_start()
        module.on_test_start()
        assert read == ["train"]  # once for both
        trainer.ckpt_path = "last.ckpt"
        module.on_test_start()
        assert read == ["train", "train"]
        risk = module(batch["image"])[:, 0].double()
    mean = torch.stack([risk[:2].mean(), *risk[2:]])
    first = torch.tensor([0, *range(2, 9)])
    known = batch["known"][first, 1]  # dss
    time, event = batch["time_months"][first, 1][known], batch["event"][first, 1][known]
    expected = BaselineHazard(mean[known], time, event, [0.0, 5.0, 10.0, 20.0]).survival(risk)
    columns = module.prediction_columns(risk[:, None], [])
    assert list(columns) == ["risk", "survival_0.00", "survival_5.00", "survival_10.00", "survival_20.00"]
    torch.testing.assert_close(torch.stack(list(columns.values())[1:], dim=1), expected, rtol=1e-5, atol=1e-6)
    assert float(expected[:, -1].std()) > 0
