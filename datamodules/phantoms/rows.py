"""From the facts of a patient to rows of the cohort's tables, the truth among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from datamodules.anatomy.tissues import Tissue
from datamodules.cohort.columns import ENDPOINTS, PHASES, SIDES
from datamodules.phantoms.facts import Patient, PhantomKidney
from datamodules.phantoms.reporting import PhantomReport
from datamodules.phantoms.stated_attributes import attributes, renal_points

Rows = dict[str, list[dict[str, Any]]]


def patient_rows(patient: Patient, report: PhantomReport) -> Rows:
    """Rows of `patients`, `studies`, `series`, `kidneys`, `reports` and `truth`, as plain data."""
    keys = {"patient_id": patient.patient_id, "study_id": patient.study_id}
    return {
        "patients": [_patient(patient)],
        "studies": [keys | {"days_from_origin": patient.days_from_origin}],
        "series": [
            keys
            | {
                "series_id": series.series_id,
                "phase": series.phase,
                "phase_evidence": "generated",
                "intensity": "rendered",
                "slice_thickness_mm": round(series.protocol.slice_thickness_mm, 2),
            }
            for series in patient.series
        ],
        "kidneys": [keys | {"side": side} | _kidney(patient, side) for side in SIDES],
        "reports": [
            keys | {"report_id": f"{patient.study_id}-R", "text": report.text, "source": "generated"},
        ],
        "truth": [keys | {"side": side} | _truth(patient, side, report) for side in SIDES],
    }


def _patient(patient: Patient) -> dict[str, Any]:
    clinical = patient.clinical
    row: dict[str, Any] = {
        "patient_id": patient.patient_id,
        "center": patient.center,
        "age_years": clinical.age_years,
        "sex": clinical.sex,
        "bmi_kg_m2": clinical.bmi_kg_m2,
        "tumor_size_mm": round(patient.index_lesion.measures.diameter_mm, 1),
        "histology": clinical.subtype,
        "malignancy": int(clinical.malignant),
        "aggressiveness": int(clinical.aggressive),
        "isup_grade": clinical.isup_grade,
        "stage_pt": clinical.stage_pt,
        "stage_pn": clinical.stage_pn,
        "stage_pm": clinical.stage_pm,
        "necrosis": clinical.necrosis,
        "sarcomatoid": clinical.sarcomatoid,
        "rhabdoid": clinical.rhabdoid,
        "time_origin": "surgery",
    }
    for name in ENDPOINTS:
        endpoint = clinical.endpoints[name]
        row[f"{name}_months"], row[f"{name}_event"] = (None, None) if endpoint is None else endpoint
    return row


def _kidney(patient: Patient, side: str) -> dict[str, Any]:
    kidney = patient.anatomy.kidneys[side]
    row: dict[str, Any] = {
        "has_lesion": bool(kidney.lesions),
        "is_index": side == patient.index_side,
        "lesion_count": len(kidney.lesions),
        "kidney_volume_ml": _kidney_volume_ml(kidney),
        "tumor_volume_ml": _volume_ml(kidney, cystic=False),
        "cyst_volume_ml": _volume_ml(kidney, cystic=True),
    }
    if kidney.lesions:
        measures = kidney.lesions[0].measures
        offset_w, offset_h, offset_d = measures.offset_mm
        row |= {
            "lesion_diameter_mm": measures.diameter_mm,
            "lesion_offset_d_mm": offset_d,
            "lesion_offset_h_mm": offset_h,
            "lesion_offset_w_mm": offset_w,
            **renal_points(measures),
            "renal_source": "truth",
            "sinus_source": "mask",
        }
    return row


def _volume_ml(kidney: PhantomKidney, *, cystic: bool) -> float:
    return float(
        sum(lesion.measures.volume_ml for lesion in kidney.lesions if (lesion.look.composition == "cystic") == cystic)
    )


def _kidney_volume_ml(kidney: PhantomKidney) -> float:
    """Volume of the body less sinus and less the parts of lesions inside, by points in its bounding box."""
    half = np.array(kidney.shape.half_axes_mm)
    ticks = (np.arange(12) + 0.5) / 6 - 1
    points = np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 3) * half
    points = points.astype(np.float32)
    inside = (kidney.shape.body(*points.T) < 1.0) & (kidney.shape.sinus(*points.T) > 0.0)
    for lesion in kidney.lesions:
        inside &= lesion.shape.level(*points.T) > 1.0
    return float(inside.mean() * 8 * half.prod() / 1000)


def _truth(patient: Patient, side: str, report: PhantomReport) -> dict[str, Any]:
    """Every fact that image, report or outcome of this kidney was made from."""
    kidney = patient.anatomy.kidneys[side]
    row: dict[str, Any] = dict(attributes(patient, side))
    row |= {
        "stated": ";".join(sorted(report.stated[side])),
        "hedged": ";".join(sorted(report.hedged[side])),
        "stated_size_mm": report.size_mm[side],
    }
    if kidney.lesions:
        lesion = kidney.lesions[0]
        row |= {
            "size_mm": lesion.measures.diameter_mm,
            "second_size_mm": lesion.measures.second_mm,
            "necrosis_fraction": lesion.look.necrosis,
            "fat_fraction": lesion.look.fat,
            "surface_ripple": lesion.shape.ripple,
            "crosses_midline": lesion.measures.crosses_midline,
        }
    if side == patient.index_side:
        row |= _appearance(patient) | {
            "subtype": patient.clinical.subtype,
            "risk": patient.clinical.risk,
            "visible_risk": patient.clinical.visible_risk,
        }
    return row


def _appearance(patient: Patient) -> dict[str, float]:
    tissues: Mapping[Tissue, Any] = patient.anatomy.tissues
    tumor = tissues[Tissue.TUMOR]
    protocols = [series.protocol for series in patient.series]
    return {
        **{f"tumor_{phase}_hu": float(value) for phase, value in zip(PHASES, tumor.hu, strict=True)},
        "tumor_texture_share": tumor.texture_share,
        "tumor_texture_mm": tumor.texture_mm,
        "fluid_hu": float(tissues[Tissue.CYST].hu[0]),
        "mean_noise_hu": float(np.mean([protocol.noise_hu for protocol in protocols])),
        "mean_kernel_fwhm_mm": float(np.mean([protocol.kernel_fwhm_mm for protocol in protocols])),
        "mean_slice_thickness_mm": float(np.mean([protocol.slice_thickness_mm for protocol in protocols])),
        "mean_timing_shift_s": float(np.mean([protocol.timing_shift_s for protocol in protocols])),
    }
