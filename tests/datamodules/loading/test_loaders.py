"""A worker that died is named, whatever was noticed of it first."""

from __future__ import annotations

import multiprocessing
import time

import pytest
import torch
from torch.utils.data import TensorDataset

from callbacks.failure import failure_sentence
from datamodules.loading.loaders import WatchedLoader, named_death


@pytest.mark.slow
def test_a_broken_connection_names_the_worker_that_died() -> None:
    context = multiprocessing.get_context("fork")
    dead, alive = (context.Process(target=time.sleep, args=(60,), daemon=True) for _ in range(2))
    dead.start()
    alive.start()
    try:
        error = ConnectionResetError(104, "Connection reset by peer")
        assert named_death([alive], error) is error
        dead.kill()
        found = named_death([alive, dead], error)
        assert str(found) == f"DataLoader worker (pid(s) {dead.pid}) exited unexpectedly"
        sentence = failure_sentence(found)
        assert sentence is not None
        assert sentence.startswith(f"A loader worker died (DataLoader worker (pid(s) {dead.pid}) exited unexpectedly).")
    finally:
        alive.kill()


def test_other_losses_of_a_connection_pass_and_batches_are_those_of_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    data = TensorDataset(torch.arange(6.0))
    assert [batch[0].tolist() for batch in WatchedLoader(data, batch_size=4)] == [[0, 1, 2, 3], [4, 5]]

    def broken(self: object, index: int) -> None:
        raise ConnectionResetError("elsewhere")

    monkeypatch.setattr(TensorDataset, "__getitem__", broken)
    with pytest.raises(ConnectionResetError, match="elsewhere"):
        list(WatchedLoader(data, batch_size=4))
