"""A trained encoder for a scan of one's own: `load_encoder(folder).encode(scan, mask)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn

from datamodules.augmentation import AugmentationConfig, VolumeAugmentation
from datamodules.errors import DataError
from datamodules.files import read_json_mapping
from datamodules.importers.one_scan import Place, ScanKidney, read_scan
from datamodules.loading.joined_phases import joined_views
from datamodules.volumes.contract import PreprocessingContract
from experiments.registry import PROFILES, axis_file
from experiments.runs.folders import ENCODER_FOLDER
from lightning_modules.core.errors import ModelError
from lightning_modules.export.aligned import ALIGNMENT
from lightning_modules.export.image import WEIGHTS, load_exported
from lightning_modules.networks.image.encoders import joins_phases


class ScanEncoder:
    """A trained image encoder together with the preprocessing that its scans need.

    Args:
        network: The encoder, in evaluation mode.
        contract: Its preprocessing contract.
        crop: Voxels D x H x W that it sees of a kidney's region.
    """

    def __init__(self, network: nn.Module, contract: PreprocessingContract, crop: tuple[int, int, int]) -> None:
        self.network = network
        self.contract = contract
        self._augmentation = VolumeAugmentation(contract, AugmentationConfig(crop=crop))

    def encode(
        self,
        scan: str | Path,
        mask: str | Path | Sequence[str | Path] | None = None,
        *,
        box: Mapping[str, str] | None = None,
        phase: str | None = None,
        labels: str | Mapping[int, str] = "kits",
    ) -> dict[str, np.ndarray]:
        """Features of the kidneys of one scan, its contrast phases read together or averaged, as in a cohort.

        The scan is read, cut and windowed by the functions that prepare a cohort.

        Args:
            scan: NIfTI file in HU, or the folder with one patient's DICOM files.
            mask: Label map, folder of binary masks, or several of them (`kidney_left.nii.gz`, ...). A DICOM folder may
                hold a DICOM SEG of its own instead.
            box: Where the kidneys are without a mask: `x y z x y z` in RAS millimetres by side.
            phase: Contrast phase: non_contrast, arterial, venous or delayed; read from DICOM headers when left out.
            labels: Codes of a label map: kits, totalsegmentator, or code: name.

        Returns:
            float32 [F] by side, left or right, of the kidneys that were found.

        Raises:
            DataError: if scan or mask is damaged or refused, or shows no kidney.
        """
        masks = [] if mask is None else [mask] if isinstance(mask, str | Path) else list(mask)
        place = Place(tuple(Path(path).expanduser() for path in masks), labels, box)
        kidneys, _ = read_scan(Path(scan).expanduser(), self.contract, place, phase)
        device = next(self.network.parameters()).device
        found = {}
        with torch.inference_mode():
            for kidney in kidneys:
                views, _ = network_input(kidney, self._augmentation, self.network)
                found[kidney.side] = self.network(views.to(device)).float().mean(dim=0).cpu().numpy()
        return found


def load_encoder(
    folder: str | Path, *, device: torch.device | str | None = None, crop: Sequence[int] | None = None
) -> ScanEncoder:
    """A trained image encoder, ready for scans.

    Args:
        folder: Run of a pretraining stage (`runs/renal/demo/pretrain/image-s42`), or the folder that it exported, which
            holds the card.
        device: Where to run it; the GPU where there is one by default.
        crop: Voxels D x H x W that it was trained on, where the folder and the profiles do not say.

    Raises:
        ModelError: if the folder holds no exported encoder, or one that is damaged.
        DataError: if its crop is not known.
    """
    place = Path(folder).expanduser()
    exports = [path for path in (place, place / ENCODER_FOLDER) if (path / WEIGHTS).is_file()]
    if not exports:
        raise ModelError(
            f"{place.name} holds no {WEIGHTS}; name the run of a stage that `make pretrain` finished, as "
            f"runs/renal/demo/pretrain/image-s42, or its folder `{ENCODER_FOLDER}`."
        )
    network, exported = load_exported(exports[0])
    contract = PreprocessingContract.from_dict(exported.contract)
    recorded = crop or _recorded_crop(exports[0] / ALIGNMENT)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return ScanEncoder(network.to(where), contract, network_crop(contract, recorded))


def _recorded_crop(alignment: Path) -> Sequence[int] | None:
    """The crop that an aligned model records beside its encoder; None for another encoder."""
    if not alignment.is_file():
        return None
    found: Sequence[int] | None = read_json_mapping(alignment, "crop")["crop"]
    return found


def network_crop(contract: PreprocessingContract, crop: Sequence[int] | None = None) -> tuple[int, int, int]:
    """The voxels that a network of this contract sees, D x H x W.

    Args:
        contract: Contract of the model.
        crop: What the user asks for or the model records; that of the profile with this contract when left out.

    Raises:
        DataError: if there is no such profile, or the crop is no three numbers.
    """
    if crop is not None:
        if len(crop) != 3:
            raise DataError(f"crop={list(crop)} was given; expected three numbers of voxels, D x H x W.")
        return int(crop[0]), int(crop[1]), int(crop[2])
    for profile in PROFILES:
        content = yaml.safe_load(axis_file("profile", profile).read_text(encoding="utf-8"))
        if PreprocessingContract(**content.get("contract", {})).hash == contract.hash:
            return AugmentationConfig(**content.get("augmentation", {})).crop
    raise DataError(
        f"The model's grid {contract.grid} is that of no profile ({', '.join(PROFILES)}); say which centre crop it was "
        "trained on with crop, for example CROP='[36, 44, 44]' or in Python crop=(36, 44, 44)."
    )


def network_input(
    kidney: ScanKidney, augmentation: VolumeAugmentation, encoder: nn.Module
) -> tuple[torch.Tensor, list[str | None]]:
    """The views of a kidney as an encoder reads them.

    Returns:
        float32 [V, 1, D, H, W] in [0, 1] with the phase of each, or of an encoder that joins phases [N, 4, D, H, W].
    """
    images, phases = [view.image for view in kidney.views], [view.phase for view in kidney.views]
    if joins_phases(encoder):
        joined = joined_views(images, phases)
        return augmentation.evaluate(joined), [None] * len(joined)
    return augmentation.evaluate(torch.from_numpy(np.stack(images)[:, None])), phases
