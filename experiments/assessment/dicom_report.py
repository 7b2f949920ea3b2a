"""The measured lesions as a DICOM Structured Report by template TID 1500, each tied to its segment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydicom
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from datamodules.files import replacing
from experiments.assessment.dicom_objects import MAKER, MODEL, highdicom, segmentation
from experiments.assessment.dicom_regions import described
from experiments.assessment.lesion_outlines import LesionOutline
from experiments.registry import TASKS

SCHEME = "99RENALVLM"
"""Coding scheme of what neither SNOMED CT nor DICOM has a code for, the components of nephrometry above all."""
REPORT = "measurements.dcm"
_KINDS = {"tumor": "tumour", "cyst": "cyst"}
_COMPONENTS = {
    "r": ("R, largest diameter", "r_mm", "mm", 1.0),
    "e": ("E, exophytic part", "e_fraction", "%", 100.0),
    "n": ("N, distance to the renal sinus", "n_mm", "mm", 1.0),
    "l": ("L, part between the polar lines", "l_fraction", "%", 100.0),
}
"""Measured components of R.E.N.A.L.: what they are called, the field, its unit in UCUM, and the factor to that."""


def write_report(
    folder: Path,
    headers: Sequence[pydicom.Dataset],
    content: Mapping[str, Any],
    outlines: Mapping[str, Sequence[LesionOutline]],
    version: str,
) -> None:
    """Write the outlines of all lesions, one Segmentation a kidney, and the report that measures them.

    Nothing is written where there is no lesion.

    Args:
        folder: Folder to write.
        headers: Headers of the scan.
        content: The assessment.
        outlines: By side, the outline of every lesion in the order of the assessment.
        version: Hash of the models.

    Raises:
        ModelError: if highdicom is not installed.
    """
    hd = highdicom()
    groups, segments = [], []
    for kidney in content["kidneys"]:
        side, lesions = kidney["side"], kidney["lesions"] or []
        if not lesions:
            continue
        own, by_model = outlines[side], kidney["outlined_by"] == "encoder"
        tracked = [(f"Lesion {lesion['number']}, {side} kidney", generate_uid()) for lesion in lesions]
        drawn = segmentation(
            [outline.mask for outline in own],
            own[0].affine,
            [
                described(lesion["number"], name, _KINDS[lesion["kind"]], version, (name, uid), by_model=by_model)
                for lesion, (name, uid) in zip(lesions, tracked, strict=True)
            ],
            headers,
            910 + (side == "right"),
            f"Lesions by the {kidney['outlined_by']}, research use only",
            version,
        )
        with replacing(folder / f"lesions_{side}.dcm") as temporary:
            drawn.save_as(temporary)
        segments.append(drawn)
        groups += [
            _group(lesion, side, hd.sr.TrackingIdentifier(uid, name), drawn, headers[0].SeriesInstanceUID)
            for lesion, (name, uid) in zip(lesions, tracked, strict=True)
        ]
    if groups:
        report = _report(groups, [*segments, *headers], version)
        with replacing(folder / REPORT) as temporary:
            report.save_as(temporary)


def _report(groups: Sequence[Any], evidence: Sequence[pydicom.Dataset], version: str) -> pydicom.Dataset:
    hd = highdicom()
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        generate_uid(entropy_srcs=[MAKER, version]), name=MODEL, manufacturer_name=MAKER, model_name=version[:12]
    )
    observer = hd.sr.ObserverContext(codes.DCM.Device, device)
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    found = hd.sr.Comprehensive3DSR(
        evidence=list(evidence),
        content=report,
        series_number=920,
        is_complete=True,
        series_instance_uid=generate_uid(),
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=MAKER,
    )
    found.SeriesDescription = "Measurements of renal lesions, research use only"
    scheme = pydicom.Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = SCHEME, "Nephrometry by the renal VLM suite"
    scheme.CodingSchemeResponsibleOrganization = MAKER
    found.CodingSchemeIdentificationSequence = [scheme]
    return found


def _group(lesion: Mapping[str, Any], side: str, tracking: Any, drawn: pydicom.Dataset, scan: str) -> Any:
    hd = highdicom()
    kind = codes.SCT.Mass if lesion["kind"] == "tumor" else codes.SCT.Cyst
    lateral = codes.SCT.Left if side == "left" else codes.SCT.Right
    evaluations = []
    if "renal" in lesion:
        faces = {"anterior": codes.SCT.Anterior, "posterior": codes.SCT.Posterior, "x": _own("X", "Neither")}
        name = _own("RENAL_A", TASKS["renal_a"].title)
        evaluations = [hd.sr.QualitativeEvaluation(name, faces[lesion["renal"]["a"]])]
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        referenced_segment=hd.sr.ReferencedSegment(
            drawn.SOPClassUID,
            drawn.SOPInstanceUID,
            lesion["number"],
            source_series=hd.sr.SourceSeriesForSegmentation(scan),
        ),
        finding_type=kind,
        finding_category=_code("49755003", "SCT", "Morphologically Abnormal Structure"),
        finding_sites=[hd.sr.FindingSite(codes.SCT.Kidney, laterality=lateral)],
        measurements=_measurements(lesion),
        qualitative_evaluations=evaluations or None,
    )


def _measurements(lesion: Mapping[str, Any]) -> list[Any]:
    found = [
        _measure(codes.SCT.Volume, lesion["volume_ml"], "mL"),
        _measure(_code("L0JK", "IBSI", "Maximum 3D Diameter of a Mesh"), lesion["diameter_mm"], "mm"),
        _measure(codes.SCT.LongAxis, lesion["axial_diameter_mm"], "mm"),
    ]
    for phase, hu in lesion.get("hu", {}).items():
        method = _own(f"PHASE_{phase.upper()}", f"Inside the outline, {phase.replace('_', ' ')} phase")
        for name, derivation in (("mean_hu", codes.SCT.Mean), ("sd_hu", codes.SCT.StandardDeviation)):
            found.append(
                _measure(codes.DCM.AttenuationCoefficient, hu[name], "[hnsf'U]", derivation=derivation, method=method)
            )
    renal = lesion.get("renal")
    if renal is not None:
        for letter, (title, field, unit, factor) in _COMPONENTS.items():
            name = _own(f"RENAL_{letter.upper()}_MEASURED", f"R.E.N.A.L. {title}")
            found.append(_measure(name, factor * renal[field], unit))
            points = _own(f"RENAL_{letter.upper()}", f"R.E.N.A.L. {letter.upper()}, points")
            found.append(_measure(points, renal[letter], "{score}"))
        found.append(_measure(_own("RENAL", "R.E.N.A.L. nephrometry score"), renal["total"], "{score}"))
    if "padua" in lesion:
        for end, title in (("low", "least"), ("high", "greatest")):
            name = _own(f"PADUA_{end.upper()}", f"PADUA score, {title} total")
            found.append(_measure(name, lesion["padua"][f"total_{end}"], "{score}"))
    if "c_index" in lesion:
        found.append(_measure(_own("CENTRALITY", "Centrality index"), lesion["c_index"], "1"))
    return found


_UNITS = {
    "mL": "milliliter", "mm": "millimeter", "%": "percent", "[hnsf'U]": "Hounsfield unit", "{score}": "score",
    "1": "no units",
}  # fmt: skip


def _measure(name: Any, value: float, unit: str, **more: Any) -> Any:
    return highdicom().sr.Measurement(name=name, value=float(value), unit=_code(unit, "UCUM", _UNITS[unit]), **more)


def _code(value: str, scheme: str, meaning: str) -> Any:
    return highdicom().sr.CodedConcept(value, scheme, meaning)


def _own(value: str, meaning: str) -> Any:
    return _code(value, SCHEME, meaning)
