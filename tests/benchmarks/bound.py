"""What bounds the default chain: the time of its stages, and the traffic that memory has to carry."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import torch

from datamodules.augmentation import VolumeAugmentation
from datamodules.augmentation.intensity import vary_, window_
from datamodules.augmentation.sampling_map import sampling_map
from datamodules.augmentation.separable import SeparableResampler, pitch_reach
from datamodules.volumes.contract import PreprocessingContract
from tests.benchmarks.chains import DEFAULT
from tests.benchmarks.machine import copy_bandwidth, copy_seconds
from tests.benchmarks.processes import BATCH
from tests.benchmarks.stored_forms import Material
from tests.benchmarks.timing import interleaved


def traffic_bytes(contract: PreprocessingContract) -> dict[str, int]:
    """Bytes that the stages of the default chain read and write per volume, rows that a sum reads again not counted."""
    depth, height, width = DEFAULT.crop
    stored, crop = int(np.prod(contract.grid)), depth * height * width
    tall = contract.grid[1] + 2 * pitch_reach(DEFAULT.rotation_degrees[2], contract)
    between, plans = depth * tall * contract.grid[2], (depth * tall + height * width) * 4
    to_float = (2 + 4) * stored + 8 * stored  # then less the padding
    sagittal = 4 * (stored + between) + 8 * between  # sums, then transposed
    axial = 4 * (between + crop) + 8 * crop + 8 * crop  # sums, transposed, padding added
    window, intensity, half_gamma, into_batch = 3, 3, 2, 1  # passes over the crop
    return {
        "read and stack int16": (2 + 2 + 2 + 2) * stored,
        "resample": to_float + 2 * 8 * plans + sagittal + axial,
        "window, intensity, gamma": 8 * crop * (window + intensity + half_gamma + into_batch),
    }


def measure_stages(material: Material, rounds: int) -> dict[str, float]:
    """Milliseconds a volume by stage of the default chain, batch after batch: medians."""
    volumes, augmentation = material.open(), VolumeAugmentation(material.contract, DEFAULT)
    contract, crop = material.contract, DEFAULT.crop
    batch = torch.stack([torch.from_numpy(volumes.read(position).copy()) for position in range(BATCH)])
    parameters = augmentation.draw(torch.arange(BATCH))
    reach = pitch_reach(DEFAULT.rotation_degrees[2], contract)
    output = torch.empty(BATCH, 1, *crop)

    def read() -> None:
        torch.stack([torch.from_numpy(volumes.read(position)) for position in range(BATCH)])

    def resample() -> None:
        mapping = sampling_map(augmentation.draw(torch.arange(BATCH)), contract.spacing_mm)
        resampler = SeparableResampler(mapping, contract.grid, crop, contract.pad_hu, reach)
        for sample in range(BATCH):
            resampler(batch[sample : sample + 1], slice(sample, sample + 1))

    def point_operations() -> None:
        for sample in range(BATCH):
            part = slice(sample, sample + 1)
            image = batch[part, :depth, :height, :width].to(torch.float32, memory_format=torch.contiguous_format)
            output[part, 0] = vary_(window_(image, contract.window_hu), parameters[part])

    depth, height, width = crop
    stages = {"read and stack int16": read, "resample": resample, "window, intensity, gamma": point_operations}
    times = interleaved(stages, rounds)
    return {name: statistics.median(1000 * seconds[name][0] / BATCH for seconds in times) for name in stages}


def measure_bound(material: Material, rounds: int) -> dict[str, Any]:
    """Stages, traffic and bandwidth, and how far the chain is from what memory alone would take."""
    stages, traffic = measure_stages(material, rounds), traffic_bytes(material.contract)
    far, near = copy_bandwidth(256), copy_bandwidth(2)
    stored, crop = int(np.prod(material.contract.grid)), int(np.prod(DEFAULT.crop))
    least = 2 * stored + 4 * crop
    total = sum(stages.values())
    volumes = material.open()
    arrays = [volumes.read(position) for position in range(BATCH)]
    copied = copy_seconds(arrays)
    read_ms = min(
        1000 * seconds["read"][0] / BATCH
        for seconds in interleaved({"read": lambda: [volumes.read(position) for position in range(BATCH)]}, rounds)
    )
    return {
        "copy_gb_per_second": {"256 MB": far / 1e9, "2 MB, in the cache": near / 1e9},
        "shard_read": {
            "mb_per_second": 2 * stored / 1e3 / read_ms,
            "copy_of_the_same_bytes_mb_per_second": 2 * stored * BATCH / copied / 1e6,
        },
        "stages": {
            name: {
                "ms": stages[name],
                "mb_moved": traffic[name] / 1e6,
                "gb_per_second": traffic[name] / stages[name] / 1e6,
            }
            for name in stages
        },
        "ms_all_stages": total,
        "least_mb": least / 1e6,
        "ms_if_only_memory_counted": 1000 * least / far,
        "times_the_least": total / (1000 * least / far),
        "times_the_traffic_of_its_passes": total / (1000 * sum(traffic.values()) / far),
    }
