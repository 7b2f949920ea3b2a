"""The store of the runs: made whole or not at all, and once by several processes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from experiments.runs.tracking import make_logger, parent_run, store_client


def test_a_store_that_was_interrupted_while_it_was_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("mlflow.store.db.utils._upgrade_db", killed)
        with pytest.raises(KeyboardInterrupt):
            store_client(tmp_path)
    assert not (tmp_path / "mlflow.db").exists()
    client = store_client(tmp_path)
    assert [experiment.name for experiment in client.search_experiments()] == ["Default"]
    assert not list(tmp_path.glob("*.part*"))


def test_several_that_begin_together_make_one_parent(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: parent_run(tmp_path, "renal/x", "curve-1", {"task": "rfs"}), range(4)))
    assert len(found) == 1
    assert None not in found


def test_a_run_names_its_data_by_hash_and_no_place(tmp_path: Path) -> None:
    tags = {"cohort": "mine", "cohort_hash": "ab" * 32, "split_hash": "cd" * 8, "intensity": "acquired"}
    folder = tmp_path / "renal/mine/rfs/point"
    folder.mkdir(parents=True)
    logger = make_logger(tmp_path, folder, "renal/mine/rfs", "point", tags)
    logger.experiment.set_terminated()
    parent = parent_run(tmp_path, "renal/mine/rfs", "curve-1", tags)
    for run_id in (logger.run_id, parent):
        (given,) = store_client(tmp_path).get_run(str(run_id)).inputs.dataset_inputs
        assert (given.dataset.name, given.dataset.digest) == ("mine", ("ab" * 32)[:36])
        assert str(tmp_path) not in f"{given.dataset.source}{given.dataset.profile}"
