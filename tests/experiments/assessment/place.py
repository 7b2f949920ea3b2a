"""A cohort of a few generated patients, imported from scans as a hospital would, with finished probes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import torch
import yaml

from datamodules.anatomy.rendering import Scene
from datamodules.cohort.columns import PHASES
from datamodules.cohort.trained_on import TrainedOn
from datamodules.importers.builder import build_cohort
from datamodules.importers.nifti.manifest import ManifestSource
from datamodules.importers.plan import CohortPlan
from datamodules.phantoms.phantom_source import DemoSource
from experiments.doubt.gaussians import Gaussians
from experiments.doubt.readings import Trained
from experiments.doubt.reference import Reference, ScanFacts
from experiments.doubt.region_measures import INTENSITIES, MEASURES
from experiments.finetuning.finetune import finetune
from experiments.finetuning.point import Point
from lightning_modules.core.optimization import OptimizerConfig
from lightning_modules.export.attribute_heads import AttributeHeads, save_heads
from lightning_modules.export.image import load_exported, save_encoder
from lightning_modules.networks.image.encoders import EncoderConfig
from lightning_modules.pretrain.attributes import AttributePretraining
from tests.datamodules.importers.phantom_study import draw, mask_codes, write_mask
from tests.tiny import CONTRACT

STEP_MM = 8.0
CROP = (8, 10, 10)
SIZES = {"depth": 10, "width": 8, "deep_width": 32, "stem_size": 5, "stem_pool": False}
SIZES |= {"region_width": 4, "token_dim": 4, "region_dim": 4}
ENCODER = EncoderConfig(network="regions", **SIZES)  # type: ignore[arg-type]
CLASSES = {"margin": {"smooth": 1, "irregular": 1}, "lesion_present": {"yes": 1, "no": 1}}
CENTERS = {"P1": ("pretrain", 8), "I1": ("internal", 24), "E1": ("external", 6)}
TASKS = ("malignancy", "os")
TINY = {
    "contract": {"grid": list(CONTRACT.grid)},
    "augmentation": {"crop": list(CROP)},
    "encoder": SIZES,
    "trainer": {"accelerator": "cpu"},
}


@dataclass(frozen=True)
class Place:
    """Where everything is.

    Args:
        files: A folder for each patient, with NIfTI files by phase and a mask.
        data: The cohort.
        runs: Its runs.
    """

    files: Path
    data: Path
    runs: Path


def write_nifti_study(source: DemoSource, patient_id: str, folder: Path) -> list[str]:
    """Write the first two series of a patient by phase, and the mask; the phases."""
    patient = source.patient(patient_id)
    labels, grid = draw(patient, STEP_MM)
    write_mask(mask_codes(labels), grid, folder / "mask.nii.gz")
    scene = Scene(labels, grid.spacing_mm, patient.anatomy.seed, tissues=patient.anatomy.tissues)
    affine = nibabel.load(folder / "mask.nii.gz").affine
    phases = []
    for number, series in enumerate(patient.series[:2]):
        image = scene.render(series.phase, series.protocol, number)
        nifti = nibabel.Nifti1Image(np.ascontiguousarray(image.transpose(2, 1, 0)), affine)
        nibabel.save(nifti, folder / f"{series.phase}.nii.gz")
        phases.append(series.phase)
    return phases


def make_place(root: Path) -> Place:
    """The cohort, an encoder of random weights that stage 1 might have exported, and a finished probe of two tasks."""
    files, source = root / "files", DemoSource()
    rows, clinical = [], []
    for center, (role, count) in CENTERS.items():
        for number in range(1, count + 1):
            name = f"{center}-{number:04d}"
            rng = np.random.default_rng([7, *name.encode()])
            for phase in write_nifti_study(source, name, files / name):
                row = {"patient_id": name, "study_id": f"{name}-e", "series_id": f"{name}-{phase}", "center": center}
                row |= {"role": role, "phase": phase, "image": f"{name}/{phase}.nii.gz", "mask": f"{name}/mask.nii.gz"}
                rows.append(row)
            facts = {"patient_id": name, "malignancy": number % 2, "histology": "clear_cell", "stage_pm": "0"}
            facts |= {"os_months": round(rng.exponential(40), 1) + 1, "os_event": number % 4 != 1}
            clinical.append(facts | {"tumor_size_mm": 30.0 + number, "time_origin": "surgery"})
    pd.DataFrame(rows).to_csv(files / "manifest.csv", index=False)
    pd.DataFrame(clinical).to_csv(files / "patients.csv", index=False)
    build_cohort(ManifestSource(files / "manifest.csv", CohortPlan("few")), root / "few", CONTRACT, workers=1)
    torch.manual_seed(1)
    stage1 = AttributePretraining(ENCODER, CLASSES, CONTRACT.to_dict(), OptimizerConfig()).eval()
    exported = root / "runs/renal/few/pretrain/image-s42/encoder"
    save_encoder(exported, stage1.encoder, ENCODER, CONTRACT.to_dict(), "card", TrainedOn.nobody().write(exported))
    save_heads(exported, AttributeHeads.of_state(stage1.state_dict(), CLASSES, ()))
    (root / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    found = Place(files, root / "few", root / "runs")
    for task in TASKS:
        flags = (f"--config={root / 'tiny.yaml'}",)
        finetune(Point(task, encoder="stage1", data=found.data, runs=found.runs, mode="probe", extra=flags))
    return found


def reference(folder: Path) -> None:
    """What an encoder is said to have learned from; the numbers are drawn, the file is as the gate writes it."""
    rng = np.random.default_rng(0)
    network, _ = load_exported(folder)
    width, split = int(network.feature_dim), len(INTENSITIES)
    phases = np.repeat(np.arange(len(PHASES)), 20)

    def drawn(count: int, groups: int) -> Gaussians:
        return Gaussians.fit(rng.normal(size=(len(phases), count)), phases if groups > 1 else 0 * phases, groups)

    trained = Trained(drawn(split, len(PHASES)), drawn(len(MEASURES) - split, len(PHASES)), drawn(width, 1))
    facts = ScanFacts("rendered", True, 5.0, 0.5, 1.0)
    Reference(trained, np.zeros(4), np.full(4, 1e6), facts, (80, 40), "cohort few").write(folder)
