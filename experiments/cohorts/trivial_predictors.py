"""What trivial predictors reach on a generated cohort, and what the truth itself reaches.

A phantom that a trivial predictor solves teaches nothing: malignancy should be predicted by size with an AUC of .60 to
.70, by centre or noise with at most .55 within a role and by the truth with at least .90; the true risk of recurrence
should reach a C-index of .75 to .80, size at most .65.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datamodules.cohort.cohort import Cohort
from datamodules.cohort.columns import PHASES, ROLES
from datamodules.cohort.study_times import index_kidneys
from datamodules.csv_files import write_csv
from datamodules.files import read_parquet
from datamodules.volumes.contract import PreprocessingContract
from datamodules.volumes.shards import VolumeSet
from experiments.statistics.auroc import auroc_statistic
from experiments.statistics.bootstrap import bootstrap
from experiments.statistics.concordance import harrell

PREDICTORS = "trivial_predictors.csv"
ENOUGH = 300
"""Patients from which ten folds within every role hold both classes."""
NOISE = ("mean_noise_hu", "mean_kernel_fwhm_mm", "mean_slice_thickness_mm", "mean_timing_shift_s")
_APPEARANCE = (
    *(f"tumor_{phase}_hu" for phase in PHASES),
    "tumor_texture_share",
    "tumor_texture_mm",
    "fluid_hu",
    "size_mm",
    "necrosis_fraction",
    "fat_fraction",
    "surface_ripple",
)
_CONTENT = ("margin", "outline", "composition", "bosniak", "calcification", "haemorrhage", "central_scar")
_Row = tuple[str, str, str, str, float, float, float, str, int, int]


def trivial_predictors(
    tables: Mapping[str, pd.DataFrame],
    truth: pd.DataFrame,
    images: pd.DataFrame | None = None,
    seed: int = 0,
    bootstraps: int = 2000,
) -> pd.DataFrame:
    """The table of trivial predictors and ceilings, within each role and over all of them.

    Predictors of several columns are fitted on other patients of the role (10-fold cross-validation), so chance
    gives about .5.

    Args:
        tables: Tables `patients`, `centers` and `reports`.
        truth: Table `truth`.
        images: Statistics of the images by patient, with `patient_id`, `image_noise_hu` and `histogram_*` as
            `image_statistics` makes them; without it those predictors are left out.
        seed: Seed of folds and bootstrap.
        bootstraps: Number of resamplings behind an interval.

    Returns:
        Columns outcome, role, predictor, metric, value, low, high (95 % interval), interval (its method), n and
        positives (malignant patients, or events).
    """
    patients = _joined(tables, truth, images)
    scores = _malignancy_scores(patients, seed)
    rows: list[_Row] = []
    for role in (*ROLES, "all"):
        group = (patients["role"] == role) | (role == "all")
        label = patients.loc[group, "malignancy"].to_numpy(dtype=int)
        for name, score in scores.items():
            value = bootstrap(auroc_statistic(label, score[group.to_numpy()]), len(label), bootstraps, seed)[0]
            rows.append(("malignancy", role, name, "AUC", *value[:3], value.interval, len(label), int(label.sum())))
        rows += _survival_rows(patients[group], role, seed, bootstraps)
    columns = ["outcome", "role", "predictor", "metric", "value", "low", "high", "interval", "n", "positives"]
    return pd.DataFrame(rows, columns=columns)


def image_statistics(
    patient_id: str, image: np.ndarray, window_hu: tuple[float, float] = (-200.0, 300.0)
) -> dict[str, float | str]:
    """Noise and intensity histogram of one ROI, blind to where anything lies.

    Args:
        patient_id: Patient.
        image: int16 HU [D, H, W].
        window_hu: Window of the histogram.

    Returns:
        One row for `trivial_predictors`.
    """
    # Differences of neighbours hold little anatomy; their median is robust to edges.
    step = np.diff(image.astype(np.float32), axis=2)
    counts, _ = np.histogram(np.clip(image, *window_hu), bins=16, range=window_hu)
    return {
        "patient_id": patient_id,
        "image_noise_hu": float(np.median(np.abs(step)) / 0.6745 / np.sqrt(2.0)),
        **{f"histogram_{number:02d}": float(count / image.size) for number, count in enumerate(counts)},
    }


def _joined(tables: Mapping[str, pd.DataFrame], truth: pd.DataFrame, images: pd.DataFrame | None) -> pd.DataFrame:
    index = truth[truth["subtype"].notna()]
    length = tables["reports"].set_index("patient_id")["text"].str.len().rename("report_length")
    patients = tables["patients"].merge(tables["centers"], on="center")
    patients = patients.merge(index.drop(columns=["necrosis"]), on="patient_id").merge(length, on="patient_id")
    return patients if images is None else patients.merge(images, on="patient_id")


def _malignancy_scores(patients: pd.DataFrame, seed: int) -> dict[str, np.ndarray]:
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    facts = pd.concat([patients[list(_APPEARANCE)].astype(float), pd.get_dummies(patients[list(_CONTENT)])], axis=1)
    scores = {
        "size": patients["tumor_size_mm"].to_numpy(dtype=float),
        # The share among the centre's own patients: more than any model could know of it.
        "centre": patients.groupby("center")["malignancy"].transform("mean").to_numpy(dtype=float),
        "noise": _crossed(linear, patients[list(NOISE)], patients, seed),
        "report length": _crossed(linear, patients[["report_length"]], patients, seed),
        "truth": _crossed(linear, facts, patients, seed),
    }
    if "image_noise_hu" in patients:
        histogram = [name for name in patients if str(name).startswith("histogram_")]
        scores["image noise"] = _crossed(linear, patients[["image_noise_hu"]], patients, seed)
        scores["histogram"] = _crossed(linear, patients[histogram], patients, seed)
    return scores


def _crossed(model: object, features: pd.DataFrame, patients: pd.DataFrame, seed: int) -> np.ndarray:
    """Out-of-fold scores, fitted within each role: a role is what a network would be trained on."""
    score = np.zeros(len(patients))
    label = patients["malignancy"].to_numpy(dtype=int)
    for role in ROLES:
        group = (patients["role"] == role).to_numpy()
        folds = StratifiedKFold(
            min(10, int(np.bincount(label[group], minlength=2).min())), shuffle=True, random_state=seed
        )
        values = features.to_numpy(dtype=float)[group]
        score[group] = cross_val_predict(model, values, label[group], cv=folds, method="predict_proba")[:, 1]
    return score


def _survival_rows(patients: pd.DataFrame, role: str, seed: int, bootstraps: int) -> list[_Row]:
    known = patients[patients["rfs_months"].notna() & (patients["malignancy"] == 1)]
    months, event = known["rfs_months"].to_numpy(dtype=float), known["rfs_event"].to_numpy(dtype=float) > 0
    rows: list[_Row] = []
    for name, column in (("size", "tumor_size_mm"), ("visible risk", "visible_risk"), ("true risk", "risk")):
        statistic = harrell(months, event, known[column].to_numpy(dtype=float))
        value = bootstrap(statistic, len(known), bootstraps, seed)[0]
        counted = (len(known), int(event.sum()))
        rows.append(("rfs", role, name, "C-index (Harrell)", *value[:3], value.interval, *counted))
    return rows


def write_predictors(root: Path, contract: PreprocessingContract) -> pd.DataFrame | None:
    """Size, centre, noise, histogram, report length and the truth as predictors, to `trivial_predictors.csv`.

    Args:
        root: Folder of a phantom cohort.
        contract: Contract of the volumes whose histogram and noise are read.

    Returns:
        Its table, or None for a cohort of fewer than `ENOUGH` patients.
    """
    cohort = Cohort.load(root)
    if len(cohort["patients"]) < ENOUGH:
        return None
    volumes = VolumeSet.find(root, contract.region, contract)
    index = index_kidneys(cohort)[["patient_id", "study_id", "side"]].merge(volumes.index)
    # One volume a patient, of the phase that most patients have.
    index["preferred"] = index["phase"].map({"venous": 0, "arterial": 1, "delayed": 2, "non_contrast": 3})
    first = index.sort_values("preferred").drop_duplicates("patient_id")
    pairs = zip(first["patient_id"].astype(str), first["position"].astype(int), strict=True)
    images = pd.DataFrame([image_statistics(patient, volumes.read(position)) for patient, position in pairs])
    truth = read_parquet(root / "truth.parquet")[0]
    table = trivial_predictors(_plain(dict(cohort.tables)), _plain({"truth": truth})["truth"], images)
    write_csv(root / PREDICTORS, table)
    return table


def _plain(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Tables with NumPy types, which scikit-learn and lifelines expect."""
    return {
        name: frame.convert_dtypes(convert_string=False).astype(
            {column: object for column in frame if str(frame[column].dtype) in ("string", "boolean")}
            | {column: float for column in frame if str(frame[column].dtype) in ("Float64", "Int64")}
        )
        for name, frame in tables.items()
    }
