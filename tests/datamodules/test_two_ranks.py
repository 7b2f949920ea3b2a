"""Two processes over uneven centres: equal steps, nobody lost or seen twice; and one of them failing ends both."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

from callbacks.failure import failure_sentence
from datamodules.augmentation import AugmentationConfig
from datamodules.cohort.labels import Label
from datamodules.importers.builder import build_cohort
from datamodules.importers.records import PatientRecord
from datamodules.tasks import RoiDataModule
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.roi import Volume
from tests.tiny import CONTRACT, TinySource

ROOT = Path(__file__).parents[2]
SIZES = {"P1": 2, "I1": 23, "I2": 7, "E1": 5, "E2": 3}


@dataclass(frozen=True)
class UnevenSource(TinySource):
    """Centres of 2 to 23 patients; the first voxel of every volume says whose it is."""

    def patient_ids(self) -> list[str]:
        return [f"{center}-{number:03d}" for center, size in SIZES.items() for number in range(size)]

    def load(self, patient_id: str, contract: PreprocessingContract) -> PatientRecord:
        record = super().load(patient_id, contract)
        code = self.patient_ids().index(patient_id)
        volumes = []
        for number, volume in enumerate(record.volumes):
            image = volume.image.copy()
            image[0, 0, 0] = 4 * code + number
            volumes.append(Volume(volume.study_id, volume.series_id, volume.side, volume.phase, image))
        return PatientRecord(patient_id, record.rows, volumes, record.masks)


@dataclass
class RankTrainer:
    """What the DataModule asks of a Trainer."""

    global_rank: int
    world_size: int
    training: bool = True


def _rank_main(rank: int, root: Path, out: Path, address: str) -> None:
    """Two epochs of training and one of test with 0 and 2 workers; a collective in every step, as in a fit."""
    torch.set_num_threads(1)
    # A spawned process would spawn its loader workers too, and each would import everything; a launched rank forks.
    torch.multiprocessing.set_start_method("fork", force=True)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    seen: dict[str, list[list[int]]] = {}
    for workers in (0, 2):
        label = Label("malignancy", "malignancy", [0, 1], ["benign", "malignant"])
        module = RoiDataModule(
            root,
            label,
            contract=CONTRACT,
            augmentation=AugmentationConfig(crop=(8, 10, 10)),
            batch_size=6,
            num_workers=workers,
        )
        module.trainer = RankTrainer(rank, 2)  # type: ignore[assignment]
        for part in ("train", "test"):
            loader = getattr(module, f"{part}_dataloader")()
            for epoch in range(2):
                if part == "train":
                    loader.batch_sampler.sampler.set_epoch(epoch)
                steps = []
                for batch in loader:
                    count = torch.tensor([len(batch["sample"])])
                    torch.distributed.all_reduce(count)  # a rank with a step less would leave the other here
                    steps.append([int(code) for code in batch["image"][:, 0, 0, 0, 0]])
                seen[f"{workers} {part} {epoch}"] = steps
    torch.distributed.destroy_process_group()
    (out / f"{rank}.json").write_text(json.dumps(seen))


@pytest.mark.slow
def test_uneven_centres_over_two_ranks(tmp_path: Path) -> None:
    root = tmp_path / "uneven"
    build_cohort(UnevenSource(), root, CONTRACT, workers=1)
    context = torch.multiprocessing.get_context("spawn")
    address = f"file://{tmp_path / 'meeting'}"
    ranks = [context.Process(target=_rank_main, args=(rank, root, tmp_path, address)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    deadline = time.monotonic() + 300  # most of it is the import of the libraries on a busy machine
    for rank in ranks:
        rank.join(max(0.0, deadline - time.monotonic()))
    hanging = [rank.pid for rank in ranks if rank.is_alive()]
    for rank in ranks:
        rank.kill()
    assert hanging == []
    assert [rank.exitcode for rank in ranks] == [0, 0]
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    expected = _expected(root)
    for name in one:
        _, part, epoch = name.split()
        assert len(one[name]) == len(two[name]), name
        sizes = {len(batch) for batch in [*one[name], *two[name]]}
        assert max(sizes) <= 3, name
        assert max(sizes) - min(sizes) <= 1, name
        codes = sorted(code for batch in [*one[name], *two[name]] for code in batch)
        assert len(codes) == len(set(codes)), name
        if part == "test":
            assert codes == expected["test"], name
        else:
            assert [code // 4 for code in codes] == sorted({code // 4 for code in expected["train"]}), name
        assert one[name] == one[f"0 {part} {epoch}"], "workers change nothing"
    assert one["0 train 0"] != one["0 train 1"]


def _expected(root: Path) -> dict[str, list[int]]:
    """The code of every volume of the index kidney by part, from the tables and not from the loaders."""
    from datamodules.cohort.cohort import Cohort

    cohort, order = Cohort.load(root), UnevenSource().patient_ids()
    roles = cohort["centers"].set_index("center")["role"].to_dict()
    found: dict[str, list[int]] = {"train": [], "test": []}
    splits = cohort["splits"].set_index("patient_id")["split"]
    for row in cohort["patients"].itertuples(index=False):
        part = splits[row.patient_id]
        if roles[row.center] != "pretrain" and part in found:
            found[part] += [4 * order.index(row.patient_id) + number for number in range(2)]  # left: the first two
    return {part: sorted(codes) for part, codes in found.items()}


def _children(process: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _workers_of_rank_1(process: int) -> list[int]:
    """Loader processes of rank 1: forked, so that they have its command line."""
    for rank in _children(process):
        name = Path(f"/proc/{rank}/cmdline").read_bytes()
        if b"LOCAL_RANK=1" in Path(f"/proc/{rank}/environ").read_bytes().split(b"\0"):
            return [child for child in _children(rank) if Path(f"/proc/{child}/cmdline").read_bytes() == name]
    return []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are found under /proc")
def test_a_dead_loader_worker_of_one_rank_ends_the_run(tiny_root: Path, tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    settings = {
        "contract": {"grid": [8, 12, 12]},
        "augmentation": {"crop": [8, 10, 10]},
        "encoder": {"width": 4, "depth": 10},
        "model": {"init_args": {"dropout": 0.0, "balance": "none"}},
        "trainer": {"max_epochs": 100000, "accelerator": "cpu", "gradient_clip_val": None, "sync_batchnorm": False},
    }
    config.write_text(yaml.safe_dump(settings))
    extra = [
        f"--config={config}", "--trainer.strategy=ddp", "--data.init_args.batch_size=4",
        "--data.init_args.num_workers=1",
    ]  # fmt: skip
    command = [
        sys.executable, "-m", "experiments", "finetune", "--task=malignancy", f"--data={tiny_root}",
        f"--runs={tmp_path / 'runs'}", "--devices=2", "--extra=" + json.dumps(extra),
    ]  # fmt: skip
    log = tmp_path / "log"
    with log.open("w") as handle:
        run = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=handle, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        last = next(iter((tmp_path / "runs").rglob("last.ckpt")), None)
        deadline = time.monotonic() + 240
        while last is None and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
            last = next(iter((tmp_path / "runs").rglob("last.ckpt")), None)
        workers = _workers_of_rank_1(run.pid)
        assert last is not None, log.read_text()
        assert workers, log.read_text()
        started = time.monotonic()
        os.kill(workers[0], signal.SIGKILL)
        code = run.wait(60)
        assert time.monotonic() - started < 30
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
    text = log.read_text()
    assert code != 0
    assert text.count("error on rank 1: A loader worker died (DataLoader worker (pid") == 1, text
    assert "lower data.init_args.num_workers" in text


def _raised(text: str, cause: BaseException | None = None) -> RuntimeError:
    error = RuntimeError(text)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            _raised(
                "DataLoader worker (pid(s) 7) exited unexpectedly",
                RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "),
            ),
            "killed by signal: Killed",
        ),
        (_raised("[gloo] Connection closed by peer [127.0.0.1]:1. This is typically caused"), "Another rank failed"),
        (
            ValueError(
                "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
                '  File "x.py", line 1\ndatamodules.errors.DataError: Shard a.bin is damaged: volume 3.\n'
            ),
            "^Shard a.bin is damaged: volume 3.$",
        ),
    ],
)
def test_failures_are_named(error: BaseException, sentence: str) -> None:
    found = failure_sentence(error)
    assert found is not None
    assert "\n" not in found
    assert re.search(sentence, found), found


def test_defects_keep_their_trace() -> None:
    assert failure_sentence(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert failure_sentence(KeyError("image")) is None
