"""The store of the runs: made whole or not at all, and once by several processes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from experiments.runs.tracking import parent_run, store_client


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
