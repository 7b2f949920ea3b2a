"""`make export`: all that an assessment needs of its models as one folder, and to the hub where it is asked for."""

from __future__ import annotations

from pathlib import Path

from datamodules.errors import DataError
from experiments.assessment.assessor import Assessor
from experiments.assessment.portable import ASSESSMENT, PortableAssessor
from experiments.runs.console import say
from lightning_modules.export.onnx_encoder import ONNX, export_onnx, onnx_runtime


def export(
    out: Path,
    data: Path = Path("data/demo"),
    encoder: str = "best",
    pretrained: str = "s42",
    fold: int | None = None,
    mode: str = "probe",
    seed: int = 42,
    tag: str = "",
    runs: Path = Path("runs"),
    onnx: bool = False,
    hub: str = "",
) -> int:
    """Write encoder, tasks, calibration, gate and model card as one folder, for `PortableAssessor.from_pretrained`.

    Args:
        out: Folder to write.
        data: Cohort whose finished runs are taken.
        encoder: Encoder whose runs are taken; best for the aligned one or that of stage 1.
        pretrained: Pretraining of the encoder: `s42`, or with its TAG `s42-mytag`.
        fold: Fold whose models are taken, for a cohort with folds.
        mode: How the tasks were trained; probe leaves what can be applied to a new patient.
        seed: Seed of the tasks' runs.
        tag: TAG of the tasks' runs.
        runs: Folder of all runs.
        onnx: Whether the image encoder is written as ONNX, too, and held against torch; needs the extra `onnx`.
        hub: Repository of the Hugging Face hub, `owner/name`, to which the folder is pushed; asks for `hf auth login`.
    """
    if (out / ASSESSMENT).is_file():
        raise DataError(f"Folder {out.name} holds an export already; name another one with OUT=, or delete it.")
    if onnx:
        onnx_runtime()
    assessor = Assessor.of_runs(data, runs, encoder, pretrained, fold, mode, seed, tag, cases=False)
    model = PortableAssessor(assessor)
    model.save_pretrained(out)
    if assessor.reader is not None and not model.attributes:
        say("The attribute heads belong to another encoder, that of stage 1, and were left out.")
    if onnx:
        check = export_onnx(out, out / ONNX, assessor.models.crop)
        say(
            f"ONNX differs from torch by {check.difference:.1e} at most; {check.ratio:.2f} times as fast on "
            f"{check.images} images ({check.onnx_s:.3f} s against {check.torch_s:.3f} s)."
        )
    if hub:
        model.push_to_hub(hub)
        say(f"Pushed to {hub}.")
    say(f"Folder: {out.as_posix()}")
    return 0
