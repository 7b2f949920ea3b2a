"""What the words of the reports alone reach: TF-IDF and a logistic regression, and TF-IDF of attributes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from datamodules.batch import MISSING
from datamodules.reports.schema import AttributeSchema

STRENGTH = 1.0
"""Inverse strength of the L2 penalty, scikit-learn's default; fixed, since there is nobody left to choose it on."""


def report_probabilities(
    texts: Sequence[str], target: np.ndarray, tested: Sequence[str], classes: int
) -> np.ndarray | None:
    """Class probabilities of a logistic regression on TF-IDF of words and pairs of words.

    Args:
        texts: Reports to fit on.
        target: int [N], class of each.
        tested: Reports to classify.
        classes: Number of classes.

    Returns:
        float64 [tested, classes]; 0 for a class that nobody to fit on has. None where there are fewer than two classes
        to fit on, or nothing to classify.
    """
    known = np.unique(target)
    if len(known) < 2 or not len(tested):
        return None
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=2000),
    )
    model.fit(list(texts), target)
    found = np.zeros((len(tested), classes))
    found[:, known] = model.predict_proba(list(tested))
    return found


def patient_probabilities(
    reports: pd.DataFrame, fitted: pd.DataFrame, tested: pd.DataFrame, classes: int
) -> pd.DataFrame | None:
    """The same for patients by the reports of their index kidney; the studies of a patient are averaged.

    Args:
        reports: Texts of kidneys with patient_id, text.
        fitted: Patients to fit on with patient_id, target.
        tested: Patients to classify, with patient_id.
        classes: Number of classes.

    Returns:
        One row per tested patient that has a report, indexed by patient_id, one column per class; None as above.
    """
    train = reports.merge(fitted[["patient_id", "target"]], on="patient_id")
    rows = reports[reports["patient_id"].isin(set(tested["patient_id"]))]
    target = train["target"].to_numpy(dtype=int)
    found = report_probabilities(train["text"].tolist(), target, rows["text"].tolist(), classes)
    if found is None:
        return None
    return pd.DataFrame(found, index=pd.Index(rows["patient_id"], name="patient_id")).groupby(level=0).mean()


def attribute_text(codes: np.ndarray, schema: AttributeSchema) -> list[str]:
    """The attributes of kidneys as text: one word for each that is known, for example `margin=smooth`.

    Args:
        codes: int [N, A], class indices in the order of the schema, -100 where not known.
        schema: Attributes and classes.
    """
    names = [[f"{name}={value}" for value in values] for name, values in schema.classes.items()]
    return [
        " ".join(names[column][code] for column, code in enumerate(row) if code != MISSING) for row in codes.tolist()
    ]


def tfidf_embeddings(fitted: Sequence[str], *tested: Sequence[str]) -> list[np.ndarray]:
    """TF-IDF vectors of unit length of texts whose words are parted by blanks.

    Args:
        fitted: Texts whose words are weighed.
        tested: Lists of texts.

    Returns:
        One float32 array [N, words] for each list; zeros for a text without a known word.
    """
    vectorizer = TfidfVectorizer(token_pattern=r"\S+", lowercase=False, dtype=np.float32).fit(list(fitted))
    return [vectorizer.transform(list(texts)).toarray() for texts in tested]
