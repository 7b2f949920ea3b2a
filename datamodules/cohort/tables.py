"""The tables of a cohort, declared: every column with its meaning, unit and range."""

from __future__ import annotations

from datamodules.cohort.columns import PHASES, POLES, RENAL_A, ROLES, SIDES, SPLITS, Column, Table


def _key(name: str, doc: str, choices: tuple[str, ...] | None = None) -> Column:
    return Column(name, "string", doc, nullable=False, choices=choices)


def _identifier(name: str, doc: str) -> Column:
    return Column(name, "string", doc, nullable=False, identifier=True)


_PATIENT = _identifier("patient_id", "Pseudonym of the patient.")
_STUDY = _identifier("study_id", "Pseudonym of the examination; one patient may have several.")
_SIDE = _key("side", "Side of the kidney.", SIDES)
_POINTS = (1, 2, 3)


def _endpoint(name: str, event: str) -> tuple[Column, Column]:
    return (
        Column(f"{name}_months", "number", f"Time to {event} or to censoring, days / 30.4375.", low=0, high=600),
        Column(f"{name}_event", "boolean", f"True when {event} was observed, False when censored."),
    )


TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        Table(
            "centers",
            ("center",),
            (
                _identifier("center", "Name of the centre, no hospital that can be recognised."),
                _key("role", "What the centre's patients serve.", ROLES),
            ),
        ),
        Table(
            "patients",
            ("patient_id",),
            (
                _PATIENT,
                _identifier("center", "Centre that the patient belongs to."),
                Column("age_years", "number", "Age at surgery or diagnosis; 90 for all above 89.", low=0, high=120),
                Column("sex", "string", "Sex as recorded.", choices=("female", "male")),
                Column("bmi_kg_m2", "number", "Body-mass index.", low=8, high=100),
                Column("tumor_size_mm", "number", "Largest diameter as the source reports it.", low=0, high=400),
                Column("histology", "string", "Subtype in pathology, in the words of the source."),
                Column("malignancy", "integer", "1 malignant, 0 benign in pathology.", choices=(0, 1)),
                Column("aggressiveness", "integer", "1 aggressive, 0 indolent or benign.", choices=(0, 1)),
                Column("isup_grade", "integer", "WHO/ISUP grade.", choices=(1, 2, 3, 4)),
                Column(
                    "stage_pt",
                    "string",
                    "Pathological T stage.",
                    choices=("0", "1", "1a", "1b", "2", "2a", "2b", "3", "3a", "3b", "3c", "4", "X"),
                ),
                Column("stage_pn", "string", "Pathological N stage.", choices=("0", "1", "2", "X")),
                Column("stage_pm", "string", "M stage.", choices=("0", "1", "X")),
                Column("necrosis", "boolean", "Tumour necrosis in pathology."),
                Column("sarcomatoid", "boolean", "Sarcomatoid differentiation in pathology."),
                Column("rhabdoid", "boolean", "Rhabdoid differentiation in pathology."),
                Column(
                    "time_origin",
                    "string",
                    "Day 0 of endpoints and studies.",
                    choices=("surgery", "diagnosis", "imaging"),
                ),
                Column(
                    "treatment_days",
                    "integer",
                    "Days from time_origin to treatment of the tumour; left out where that is day 0.",
                    low=-20000,
                    high=20000,
                ),
                *_endpoint("rfs", "recurrence or death of cancer"),
                *_endpoint("dss", "death of cancer"),
                *_endpoint("os", "death of any cause"),
            ),
            parent=("centers", ("center",)),
        ),
        Table(
            "studies",
            ("patient_id", "study_id"),
            (
                _PATIENT,
                _STUDY,
                Column(
                    "days_from_origin",
                    "integer",
                    "Days from time_origin to the study, negative before it; never a date.",
                    low=-20000,
                    high=20000,
                ),
            ),
            parent=("patients", ("patient_id",)),
            optional=True,
        ),
        Table(
            "series",
            ("patient_id", "study_id", "series_id"),
            (
                _PATIENT,
                _STUDY,
                _identifier("series_id", "Pseudonym of the series."),
                _key("phase", "Contrast phase.", PHASES),
                Column("phase_evidence", "string", "What the phase was read from."),
                _key("intensity", "Whether HU were acquired or rendered from masks.", ("acquired", "rendered")),
                Column("spacing_d_mm", "number", "Distance of slices in the source.", low=0.05, high=20),
                Column("spacing_h_mm", "number", "Pixel spacing in the source, posterior-anterior.", low=0.05, high=20),
                Column("spacing_w_mm", "number", "Pixel spacing in the source, left-right.", low=0.05, high=20),
                Column("slice_thickness_mm", "number", "Nominal slice thickness.", low=0.05, high=30),
            ),
            parent=("patients", ("patient_id",)),
        ),
        Table(
            "kidneys",
            ("patient_id", "study_id", "side"),
            (
                _PATIENT,
                _STUDY,
                _SIDE,
                Column("has_lesion", "boolean", "Whether the kidney holds a lesion."),
                Column("is_index", "boolean", "Whether it holds the patient's largest lesion.", nullable=False),
                Column("lesion_count", "integer", "Number of separate lesions.", low=0, high=200),
                Column("kidney_volume_ml", "number", "Kidney without its lesions.", low=0, high=3000),
                Column("tumor_volume_ml", "number", "All tumour tissue.", low=0, high=10000),
                Column("cyst_volume_ml", "number", "All cysts.", low=0, high=10000),
                Column("lesion_diameter_mm", "number", "Largest diameter of the largest lesion.", low=0, high=400),
                Column(
                    "lesion_offset_d_mm", "number", "Lesion centre minus kidney centre, superior.", low=-400, high=400
                ),
                Column(
                    "lesion_offset_h_mm", "number", "Lesion centre minus kidney centre, anterior.", low=-400, high=400
                ),
                Column("lesion_offset_w_mm", "number", "Lesion centre minus kidney centre, right.", low=-400, high=400),
                Column("renal_r_mm", "number", "R.E.N.A.L.: largest diameter.", low=0, high=400),
                Column("renal_e_fraction", "number", "R.E.N.A.L.: exophytic part of the tumour volume.", low=0, high=1),
                Column("renal_n_mm", "number", "R.E.N.A.L.: distance to sinus or collecting system.", low=0, high=400),
                Column("renal_l_fraction", "number", "R.E.N.A.L.: part across a polar line or between.", low=0, high=1),
                Column("renal_r", "integer", "R.E.N.A.L. points for R.", choices=_POINTS),
                Column("renal_e", "integer", "R.E.N.A.L. points for E.", choices=_POINTS),
                Column("renal_n", "integer", "R.E.N.A.L. points for N.", choices=_POINTS),
                Column("renal_a", "string", "R.E.N.A.L. suffix A.", choices=RENAL_A),
                Column("renal_l", "integer", "R.E.N.A.L. points for L.", choices=_POINTS),
                Column("renal_pole", "string", "Third of the kidney by L; 3 points are interpolar.", choices=POLES),
                Column("renal_source", "string", "Where the score is from.", choices=("geometry", "reader", "truth")),
                Column("sinus_source", "string", "Where the sinus is from.", choices=("mask", "approximated")),
            ),
            parent=("patients", ("patient_id",)),
        ),
        Table(
            "reports",
            ("report_id",),
            (
                _identifier("report_id", "Pseudonym of the report."),
                _PATIENT,
                _STUDY,
                Column("side", "string", "Side the text speaks of; missing when it speaks of both.", choices=SIDES),
                _key("text", "Imaging findings; no histology, grade, stage or outcome."),
                _key("source", "Whether a radiologist wrote it or a program.", ("clinical", "generated")),
            ),
            parent=("patients", ("patient_id",)),
            optional=True,
        ),
        Table(
            "attributes",
            ("patient_id", "study_id", "side", "attribute"),
            (
                Column("report_id", "string", "Report that states it; missing where a reviewer added it without one."),
                _PATIENT,
                _STUDY,
                _SIDE,
                _key("attribute", "Name in the attribute schema."),
                _key("value", "One of the attribute's classes; what a report does not state has no row."),
                Column("start", "integer", "Offset of the evidence in the report's text, in characters.", low=0),
                Column("end", "integer", "Offset after its last character.", low=1),
                Column("evidence", "string", "The words that say so; missing where a reviewer set the value."),
                Column("confidence", "number", "Of the extractor, not calibrated.", nullable=False, low=0, high=1),
                Column("uncertain", "boolean", "Whether the report hedges the value.", nullable=False),
                _key("extractor", "What read it: rules, llm or reviewer."),
                Column("schema_version", "integer", "Version of the attribute schema.", nullable=False, low=1),
            ),
            parent=("patients", ("patient_id",)),
            optional=True,
            derived=True,
        ),
        Table(
            "splits",
            ("patient_id",),
            (
                _PATIENT,
                Column("split", "string", "Part of the role that the patient belongs to.", choices=SPLITS),
                Column("fold", "integer", "Fold in which the patient is tested.", low=0, high=99),
            ),
            parent=("patients", ("patient_id",)),
            repeated="is in several splits",
        ),
    )
}
