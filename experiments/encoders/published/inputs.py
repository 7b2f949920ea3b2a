"""What an encoder reads: its preprocessing contract, and whether a cohort holds volumes that follow it."""

from __future__ import annotations

from typing import Any

import yaml

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.shards import volume_folder
from experiments.registry import ENCODERS, PROFILES, axis_file, choose, encoder_files


def encoder_contract(encoder: str, profile: str = "demo") -> PreprocessingContract:
    """The preprocessing contract of an encoder: its own, or that of the profile.

    Args:
        encoder: Name in the registry.
        profile: Size of the run; what a published encoder reads does not depend on it.

    Raises:
        DataError: if a name is unknown, or a contract is refused.
    """
    files = [
        axis_file("profile", choose("PROFILE", profile, dict(PROFILES))),
        *encoder_files(choose("ENCODER", encoder, dict(ENCODERS))),
    ]
    content: dict[str, Any] = {}
    for path in files:
        content |= yaml.safe_load(path.read_text(encoding="utf-8")).get("contract") or {}
    return PreprocessingContract(**content)


def check_volume_set(cohort: Cohort, encoder: str) -> None:
    """Refuse an encoder whose volumes a cohort does not hold.

    Raises:
        DataError: with the command that writes them.
    """
    contract = encoder_contract(encoder)
    folder = volume_folder(cohort.root, contract)
    if not (folder / "contract.json").is_file():
        raise DataError(
            f"ENCODER={encoder} reads volumes of {_size(contract)}, which cohort {cohort.info.name} does not hold; run "
            f"`make volumes DATA={cohort.root.as_posix()} ENCODER={encoder}` first."
        )


def described(contract: PreprocessingContract) -> str:
    """A contract in one line: region, voxels, spacing, HU, values, axes."""
    low, high = contract.window_hu
    first, last = contract.scaled
    return (
        f"{contract.region}, {_size(contract)}, {low:g}..{high:g} HU to {first:g}..{last:g}, axes {contract.axes}, "
        f"padded with {contract.pad_hu} HU"
    )


def _size(contract: PreprocessingContract) -> str:
    grid = " x ".join(str(count) for count in contract.grid)
    spacing = " x ".join(f"{value:g}" for value in contract.spacing_mm)
    return f"{grid} voxels of {spacing} mm (D x H x W)"
