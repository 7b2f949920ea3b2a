"""A DataModule whose checkpoints know what data they were trained on."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any

import lightning
import pandas as pd
import torch
from lightning.pytorch.trainer.states import TrainerFn

from datamodules.cohort.identity import DataIdentity
from datamodules.cohort.trained_on import TrainedOn
from datamodules.errors import DataError
from datamodules.loading.global_batch import Share, share_of_step

FITTED = ("train", "val")


class BoundDataModule(lightning.LightningDataModule):
    """Writes into every checkpoint what data it was trained on, and refuses one that this data does not suit.

    Attributes:
        trained_on: Whom the weights at hand have seen; a launcher adds those of the weights that a run starts from.
        batch_size: Samples of a step over all ranks.
        device_batch: Most samples that a rank computes at once; all of its share where there is no bound.
        fixed_shapes: Whether the images of all steps have one shape, for which a GPU looks for its fastest kernels.
    """

    batch_size: int
    device_batch: int | None = None
    fixed_shapes: bool = False

    def share(self, ranks: int) -> Share:
        """What each of some ranks computes of a step.

        Raises:
            DataError: if a step does not divide among them.
        """
        return share_of_step(self.batch_size, ranks, self.device_batch)

    @property
    @abstractmethod
    def identity(self) -> DataIdentity:
        """What data it uses."""

    @cached_property
    def trained_on(self) -> TrainedOn:
        """Its training patients."""
        return TrainedOn.of(self.identity)

    def state_dict(self) -> dict[str, Any]:
        """Hash of the data that training reads, and digests of whom the weights have seen."""
        rows = torch.from_numpy(self.trained_on.rows[["patient", "volume"]].to_numpy(copy=True))
        sha256 = self.identity.of(FITTED).sha256
        return {"data_sha256": sha256, "trained_on": rows, "unknown": list(self.trained_on.unknown)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse a checkpoint of other data to go on from, or one that has seen whom it is to be tested on.

        Raises:
            DataError: saying which.
        """
        fitting = self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        if fitting and state_dict["data_sha256"] != self.identity.of(FITTED).sha256:
            raise DataError(
                "The checkpoint was written by a run on other patients, labels, volumes or reports; a run goes on with "
                "its own data only. Begin a new one under a TAG= of its own."
            )
        rows = pd.DataFrame(state_dict["trained_on"].numpy(), columns=["patient", "volume"])
        seen = TrainedOn(rows, tuple(state_dict["unknown"]))
        if not fitting:
            seen.refuse_seen(self.identity, "The checkpoint")
