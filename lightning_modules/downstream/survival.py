"""Downstream survival: an encoder, a head, and one risk per patient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.trainer.states import TrainerFn

from lightning_modules.core.distributed import gather_rows, row_counts
from lightning_modules.core.errors import ModelError
from lightning_modules.downstream.baseline_hazard import BaselineHazard
from lightning_modules.downstream.task import Downstream
from lightning_modules.losses.cox import RiskMemory, Ties, cox_loss
from lightning_modules.losses.discrete_time import DiscreteTime, Objective
from lightning_modules.metrics.concordance import concordance_index
from lightning_modules.metrics.patient_scores import PatientScores, PatientTable

ENDPOINTS = ("rfs", "dss", "os")
MEMORY_KEY = "risk_memory"


class Survival(Downstream):
    """Fine-tunes an encoder with a small head on time to an event.

    Trained and selected on one endpoint and scored on all that are known, as the reference does with recurrence-free
    survival (Tao et al., Nature Communications 2026). Under `cox` the weights that are tested read the training
    patients once more, unaugmented, so that their risks become curves of survival; see `BaselineHazard`.

    Args:
        outcome: `endpoint` that is trained on and `cuts` of the time grid in months; linked from the DataModule.
        objective: `cox`, the partial likelihood; `logistic_hazard` or `deephit`, discrete-time models of pycox.
        ties: Events at one time in the partial likelihood, by `efron` or `breslow`.
        risk_set: Whom a batch's events are compared with under `cox`: all training patients with their last risk
            (`memory`, see `RiskMemory`), or the global batch alone (`batch`), whose gradient is biased.
        downstream: What `Downstream` takes besides.

    Raises:
        ModelError: if an argument is not one of its choices.
    """

    monitor: ClassVar[str] = "val/c_index"
    mode: ClassVar[str] = "max"

    def __init__(
        self,
        *,
        outcome: dict[str, Any],
        objective: Objective = "cox",
        ties: Ties = "efron",
        risk_set: Literal["memory", "batch"] = "memory",
        **downstream: Any,
    ) -> None:
        if outcome.get("endpoint") not in ENDPOINTS:
            raise ModelError(
                f"Survival was given the outcome {outcome}; expected an endpoint of {', '.join(ENDPOINTS)}, which the "
                "DataModule of a survival task gives. Choose a survival task, or Classification."
            )
        self.grid = None if objective == "cox" else DiscreteTime(outcome["cuts"], objective)
        outputs = 1 if self.grid is None else self.grid.outputs
        described = {"outcome": dict(outcome), "objective": objective, "ties": ties, "risk_set": risk_set}
        super().__init__(outputs=outputs, described=described, **downstream)
        self.endpoint = ENDPOINTS.index(outcome["endpoint"])
        self.ties, self.risk_set = ties, risk_set
        self.cuts = list(outcome["cuts"])
        self.memory: RiskMemory | None = None
        self.baseline: BaselineHazard | None = None
        self._baseline_of: object = None
        self._remembered: dict[str, torch.Tensor] | None = None
        self.val_scores, self.test_scores = (PatientScores(outputs, 3 * len(ENDPOINTS)) for _ in range(2))

    def on_fit_start(self) -> None:
        """Ask the DataModule for the outcomes of the training patients, and go on with the memory of a checkpoint."""
        self.baseline = None
        if self.grid is not None or self.risk_set == "batch":
            return
        known = self.trainer.datamodule.endpoints  # type: ignore[attr-defined]
        time, event = (torch.from_numpy(known[name][:, self.endpoint]) for name in ("time_months", "event"))
        self.memory = RiskMemory(time.to(self.device), event.to(self.device))
        if self._remembered is not None:
            self.memory.restore(self._remembered)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stamp the checkpoint, and keep the memory, so that a resumed run goes on as one that was not interrupted."""
        super().on_save_checkpoint(checkpoint)
        if self.memory is not None:
            checkpoint[MEMORY_KEY] = self.memory.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint that does not fit, and keep its memory for a fit."""
        super().on_load_checkpoint(checkpoint)
        self._remembered = checkpoint.get(MEMORY_KEY)
        if self.memory is not None and self._remembered is not None:
            self.memory.restore(self._remembered)

    def loss(
        self,
        outputs: torch.Tensor,
        time: torch.Tensor,
        event: torch.Tensor,
        patient: torch.Tensor | None = None,
        known: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Loss of patients whose endpoint is known, all of whom are at hand.

        Args:
            outputs: float [N, C].
            time: Months [N].
            event: bool [N].
            patient: int64 [N], rows of the patient table; with them the memory is asked, where there is one.
            known: bool [N], whose endpoint is known; all of them when left out.
        """
        if self.grid is not None:
            if known is not None:
                outputs, time, event = outputs[known], time[known], event[known]
            return self.grid.loss(outputs, time, event)
        if self.memory is not None and patient is not None:
            return self.memory.loss(patient, outputs[:, 0], self.ties, known)
        return cox_loss(outputs[:, 0], time, event, self.ties, known)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> torch.Tensor:
        """Loss of the global batch: every rank sees the risk sets of all ranks.

        Each rank computes the whole loss from the gathered rows, whose gradients are summed over ranks on the way
        back; the mean that DistributedDataParallel takes is then the gradient of that loss.
        """
        outputs = self.outputs(batch)
        # Rows are gathered before any is left out, so that all ranks do the same whatever their patients.
        counts = row_counts(len(outputs), outputs.device)
        outputs, patient = gather_rows(outputs, counts), gather_rows(batch["patient"], counts)
        time, event, known = (
            gather_rows(batch[name][:, self.endpoint].contiguous(), counts)
            for name in ("time_months", "event", "known")
        )
        loss = self.loss(outputs, time, event, patient, known)
        self.log("train/loss", loss, batch_size=len(batch["patient"]), prog_bar=True)
        return loss

    def _collect(self, batch: Mapping[str, Any], scores: PatientScores) -> None:
        target = torch.cat([batch[name].float() for name in ("time_months", "event", "known")], dim=1)
        scores.update(batch["patient"], batch["sample"], self.outputs(batch), target)

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Collect scores."""
        self._collect(batch, self.val_scores)

    def on_validation_epoch_end(self) -> None:
        """Log the loss and the C-index over patients, whose risk sets no batch and no rank cuts."""
        self.val_table = table = self.val_scores.compute()
        self.val_scores.reset()
        time, event, known = endpoint_columns(table, self.endpoint)
        loss = self.loss(table.score[known], time[known], event[known])
        self.log("val/loss", loss, rank_zero_only=False)
        self._log_c_index("val", table)

    def on_validation_start(self) -> None:
        """Find the baseline hazard of weights that are validated to be tested, not of those in the midst of a fit."""
        if self.trainer.state.fn == TrainerFn.VALIDATING:
            self._find_baseline()

    def on_test_start(self) -> None:
        """Find the baseline hazard of the weights that are tested, unless their validation did."""
        self._find_baseline()

    def _find_baseline(self) -> None:
        checkpoint = self.trainer.ckpt_path
        if self.grid is not None or (self.baseline is not None and self._baseline_of == checkpoint):
            return
        scores = PatientScores(1, 3 * len(ENDPOINTS)).to(self.device)
        with self.trainer.precision_plugin.val_step_context():
            for batch in self.trainer.datamodule.loader("train"):  # type: ignore[attr-defined]
                self._collect(self.trainer.strategy.batch_to_device(batch), scores)
        table = scores.compute()
        time, event, known = endpoint_columns(table, self.endpoint)
        self.baseline = BaselineHazard(self.log_risk(table.score[known]), time[known], event[known], self.cuts)
        self._baseline_of = checkpoint

    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Collect scores."""
        self._collect(batch, self.test_scores)

    def on_test_epoch_end(self) -> None:
        """Log the C-index over everyone tested; the tables by centre are made from the predictions."""
        self.test_table = table = self.test_scores.compute()
        self.test_scores.reset()
        self._log_c_index("test", table)

    def _log_c_index(self, part: str, table: PatientTable) -> None:
        for number, name in enumerate(ENDPOINTS):
            time, event, known = endpoint_columns(table, number)
            value = concordance_index(self.log_risk(table.score[known]), time[known], event[known])
            if number == self.endpoint:
                self.log(f"{part}/c_index", value, prog_bar=True, rank_zero_only=False)
            elif not torch.isnan(value):
                self.log(f"{part}/c_index/{name}", value, rank_zero_only=False)

    def log_risk(self, score: torch.Tensor) -> torch.Tensor:
        """One number per patient that is higher where the event comes sooner, float64 [N]."""
        return score[:, 0].double() if self.grid is None else self.grid.log_risk(score)

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> torch.Tensor:
        """Log-risk [B] of one batch."""
        return self.log_risk(self.outputs(batch))

    def prediction_columns(self, score: torch.Tensor, names: list[str]) -> dict[str, torch.Tensor]:
        """`risk`, the log-risk, and `survival_<months>`, the curve at each cut point.

        A Cox model has the curve once it has its baseline hazard, that is in a validation or test of its own.
        """
        risk = self.log_risk(score)
        if self.grid is not None:
            curve = self.grid.survival(score)
        elif self.baseline is not None:
            curve = self.baseline.survival(risk)
        else:
            return {"risk": risk}
        return {"risk": risk, **{f"survival_{cut:.2f}": curve[:, place] for place, cut in enumerate(self.cuts)}}


def endpoint_columns(table: PatientTable, endpoint: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Time float [N], event bool [N] and known bool [N] of one endpoint out of a gathered table."""
    time, event, known = table.target.split(len(ENDPOINTS), dim=1)
    return time[:, endpoint], event[:, endpoint] > 0, known[:, endpoint] > 0
