"""One machine of two that reads its share of an epoch from an object store; started by a test, and killed by it.

python -m tests.datamodules.volumes.two_nodes ROOT URL CACHE NODE OUT [buffer]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datamodules.augmentation import AugmentationConfig
from datamodules.cohort.labels import Label
from datamodules.loading.loaders import ResumableLoader
from datamodules.loading.sampling import EvenBatchSampler
from datamodules.tasks import RoiDataModule
from datamodules.volumes.object_store import ShardStore
from tests.tiny import CONTRACT

MALIGNANCY = Label("malignancy", "malignancy", [0, 1], ["benign", "malignant"])


def module(root: Path, url: str, cache: Path, buffer: int) -> RoiDataModule:
    """Fine-tuning with four samples a step, of shards one after the other."""
    return RoiDataModule(
        root, MALIGNANCY, contract=CONTRACT, augmentation=AugmentationConfig(crop=(8, 10, 10)), batch_size=4,
        samples_per_epoch=24, shards_url=url, cache_dir=cache, shuffle_buffer=buffer,
    )  # fmt: skip


def main() -> None:
    """Read batch after batch, and note after each what was read and where a checkpoint would go on."""
    root, url, cache, node, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])
    fetched: list[str] = []
    download = ShardStore._download

    def noted(self: ShardStore, name: str, path: Path) -> None:
        fetched.append(name)
        download(self, name, path)

    ShardStore._download = noted  # type: ignore[method-assign]
    loader = module(root, url, cache, int(sys.argv[6])).loader("train", shuffled=True)
    assert isinstance(loader, ResumableLoader)
    sampler = loader.batch_sampler
    assert isinstance(sampler, EvenBatchSampler)
    sampler.rank, sampler.ranks, sampler.nodes = node, 2, 2
    state = out.with_suffix(".state")
    if state.is_file():
        loader.load_state_dict(json.loads(state.read_text()))
    for batch in loader:
        rows = [[patient, int(sample)] for patient, sample in zip(batch["patient_id"], batch["sample"], strict=True)]
        with out.open("a") as handle:
            handle.write(json.dumps({"rows": rows, "fetched": fetched}) + "\n")
        state.write_text(json.dumps(loader.state_dict()))
        fetched.clear()
        print("step", flush=True)
        sys.stdin.readline()  # the test says when to go on


if __name__ == "__main__":
    main()
