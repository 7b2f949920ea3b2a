"""The report of a small finished study: complete, self-contained, true to its sources, and written as a whole."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter
from lifelines.statistics import logrank_test
from sklearn.metrics import roc_auc_score
from sksurv.metrics import concordance_index_censored

from datamodules.cohort.cohort import Cohort
from datamodules.errors import DataError
from experiments.cli import main
from experiments.doubt.prediction_sets import coverage
from experiments.doubt.survival_bounds import bound_coverage
from experiments.doubt.survival_doubt import survival_doubt
from experiments.doubt.task_doubt import task_doubt
from experiments.finetuning.point import Point
from experiments.scores.outcomes import metric_of, outcomes_of
from experiments.scores.results_figures import risk_group_of
from experiments.scores.results_table import caption, groups
from experiments.statistics.calibration import calibration_summary
from experiments.statistics.estimate import Estimate
from experiments.statistics.operating_point import operating_point, youden_threshold
from experiments.statistics.risk_groups import hazard_ratios
from experiments.studies.compare import comparison_table, finished_points
from experiments.studies.curve.curve_table import format_curve
from experiments.studies.report.aggressiveness_risk import endpoint_frames
from experiments.studies.report.classification_section import at_validation_threshold
from experiments.studies.report.finished_points import series_of
from experiments.studies.report.journal_words import capital, interval, p_value, signed
from experiments.studies.report.maps_block import maps_blocks
from experiments.studies.report.report_page import Page, PageTable
from experiments.studies.report.study_report import REPORT, replacing_folder, report
from tests.experiments.studies.report.made import finished, make_study, vary

pytestmark = pytest.mark.slow  # the study, and the patients, that all of them read


class _Links(HTMLParser):
    """Every attribute that a browser follows, every anchor, picture and tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.followed: list[str] = []
        self.anchors: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.followed += [str(found[name]) for name in ("src", "href", "srcset", "action", "data") if name in found]
        self.anchors += [str(found["id"])] if "id" in found else []
        if tag == "img":
            self.pictures.append(found)


@pytest.fixture(scope="module")
def study(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Cohort, Path, Path]:
    """The cohort, the folder of runs, and the report of the command."""
    folder = tmp_path_factory.mktemp("study")
    root = vary(Path(shutil.copytree(tiny_root, folder / "tiny")))
    cohort = make_study(root, folder / "runs")
    assert main(["report", f"--data={root}", f"--runs={folder / 'runs'}"]) == 0
    return cohort, folder / "runs", folder / "runs/renal/tiny/report"


@pytest.fixture(scope="module")
def html(study: tuple[Cohort, Path, Path]) -> str:
    return (study[2] / REPORT).read_text(encoding="utf-8")


def test_the_page_needs_nothing_else(html: str) -> None:
    links = _Links(html)
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links.followed)
    assert not {"script", "link", "iframe", "object", "embed"} & set(links.tags)
    assert not re.search(r"url\(|@import", html)
    assert {link[1:] for link in links.followed if link.startswith("#")} <= set(links.anchors)
    assert len(links.anchors) == len(set(links.anchors))


def test_what_results_are_stands_beside_every_one(study: tuple[Cohort, Path, Path], html: str) -> None:
    assert html.count(caption(study[0].info)) == 2  # in full at the top and at the end
    said = "Phantom results, rendered intensities."
    pictures = _Links(html).pictures
    assert len(pictures) > 10
    assert all(said in str(picture["alt"]) and len(str(picture["alt"])) > len(said) + 40 for picture in pictures)
    tables = re.findall(r"<p class=\"caption\"[^>]*><strong>Table.*?</p>", html, flags=re.DOTALL)
    assert len(tables) == len(list((study[2] / "tables").glob("*.csv"))) - 1  # the checklist is a table of its own
    assert all(said in table for table in tables)
    assert html.count('scope="col"') > len(tables)


def test_the_answer_stands_before_the_contents(study: tuple[Cohort, Path, Path], html: str) -> None:
    top = html[: html.index("<nav")]
    found = pd.read_csv(study[2] / "tables/results-malignancy-probe.csv")
    own = found[found["group"] == "pooled external"].set_index("encoder")
    row, base = own.loc["stage1"], own.loc[own["baseline"].iloc[0]]
    (said,) = re.findall(r"<li>(Malignancy, pooled external: [^<]*of the labels\.)</li>", top)
    ours, theirs = (interval(Estimate(one["auroc"], one["low"], one["high"])) for one in (row, base))
    assert f"reaches an AUC of {ours}, n {row['n']}, {row['positives']} positives" in said
    assert theirs in said
    gap = Estimate(row["difference"], row["difference_low"], row["difference_high"])
    assert f"difference {signed(gap)}, p {p_value(row['p_holm'])} (Holm)".replace("p 0", "p = 0") in said.replace(
        "&lt;", "<"
    )
    assert "Recurrence-free survival, pooled external: " in top


def test_words_are_those_of_the_clinic(html: str) -> None:
    assert capital("pT3 or higher") == "pT3 or higher"
    assert capital("tumour size") == "Tumour size"
    text = re.sub(r"base64,[^\"]*", "", html)
    assert not re.search(r"PT\d|PN\d|malignancy in|nevents", text)
    assert "Eligible: patients with a malignant tumour." in text


def test_no_patient_and_no_path_is_in_it(study: tuple[Cohort, Path, Path], html: str) -> None:
    cohort, runs, folder = study
    series = cohort["series"]
    names = {*cohort["patients"]["patient_id"], *series["study_id"], *series["series_id"]}
    texts = [re.sub(r"base64,[^\"]*", "", html), *(path.read_text() for path in (folder / "tables").glob("*.csv"))]
    for text in texts:
        assert not [name for name in names if name in text]
        assert str(runs) not in text
        assert str(cohort.root) not in text


def test_results_are_those_of_compare(study: tuple[Cohort, Path, Path], html: str) -> None:
    cohort, runs, folder = study
    found = pd.read_csv(folder / "tables/results-malignancy-probe.csv")
    points = finished_points(runs, cohort, "malignancy", mode="probe")
    for group in ("internal test", "pooled external"):
        own = found[found["group"] == group].set_index("encoder")
        base = own["baseline"].iloc[0]
        assert own.loc[["scratch", "size"], "auroc"].idxmax() == base
        table = comparison_table(points, base)
        table = table[(table["fraction"] == 1.0) & (table["group"] == group)].set_index("encoder")
        columns = ["n", "positives", "auroc", "low", "high", "difference", "difference_low", "difference_high"]
        np.testing.assert_allclose(
            own.loc[table.index, columns].to_numpy(float), table[columns].to_numpy(float), equal_nan=True
        )
        row = table.loc["stage1"]
        assert own.loc["stage1", "p"] == row["p"]
        assert own.loc["stage1", "gain"] == pytest.approx(row["auroc"] / table.loc[base, "auroc"] - 1)
        assert interval(Estimate(row["auroc"], row["low"], row["high"])) in html
        assert signed(Estimate(row["difference"], row["difference_low"], row["difference_high"])) in html
    tested = found.dropna(subset=["p"])
    assert set(tested["encoder"]) == {"stage1"}
    assert len(tested) == 2
    assert tested["p_holm"].min() == pytest.approx(min(1.0, 2 * tested["p"].min()))
    assert set(found["group"]) == {"internal test", "external E1", "external E2", "pooled external"}


def test_calibration_and_operating_points_are_those_of_the_source(study: tuple[Cohort, Path, Path], html: str) -> None:
    _, runs, folder = study
    predictions = pd.read_parquet(runs / "renal/tiny/malignancy/stage1-probe-f1-s42/predictions.parquet")
    (external,) = [group.rows for group in groups(predictions) if group.name == "pooled external"]
    target, score = external["target"].to_numpy(int), external["score_malignant"].to_numpy(float)
    validated = predictions[predictions["part"] == "val"]
    threshold = youden_threshold(validated["target"].to_numpy(int), validated["score_malignant"].to_numpy(float))
    expected = {
        "calibration": calibration_summary(target, score),
        "operating-points": operating_point(target, score, threshold).estimates,
    }
    for name, estimates in expected.items():
        table = pd.read_csv(folder / f"tables/{name}-malignancy-probe.csv")
        table = table[(table["group"] == "pooled external") & (table["encoder"] == "stage1")].set_index("statistic")
        for key, estimate in estimates.items():
            np.testing.assert_allclose(table.loc[key, ["value", "low", "high"]].to_numpy(float), estimate[:3])
            assert key == "accuracy" or interval(estimate) in html


def test_doubt_is_that_of_validation_patients_applied_to_the_source(
    study: tuple[Cohort, Path, Path], html: str
) -> None:
    _, runs, folder = study
    predictions = pd.read_parquet(runs / "renal/tiny/malignancy/stage1-probe-f1-s42/predictions.parquet")
    doubt = task_doubt(predictions)
    assert doubt is not None
    (external,) = [group.rows for group in groups(predictions) if group.name == "pooled external"]
    own = doubt.tested.of(external["patient_id"])
    table = pd.read_csv(folder / "tables/doubt-calibration-malignancy-probe.csv")
    table = table[table["group"] == "pooled external"].set_index(["stage", "statistic"])
    for stage, values in (("before", own.score), ("after", own.probability)):
        expected = calibration_summary(own.target, values[:, 1])
        for name in ("slope", "intercept"):
            found = table.loc[(stage, name), ["value", "low", "high"]].to_numpy(float)
            np.testing.assert_allclose(found, expected[f"calibration {name}"][:3])
    sets = pd.read_csv(folder / "tables/doubt-sets-malignancy-probe.csv").set_index(["group", "statistic"])
    held = own.sets[np.arange(len(own.target)), own.target]
    row = sets.loc[("pooled external", "coverage")]
    assert (row["value"], row["n"]) == (pytest.approx(held.mean()), len(held))
    assert interval(coverage(own.sets, own.target)) in html
    curve = pd.read_csv(folder / "tables/doubt-risk-coverage-malignancy-probe.csv")
    assert curve["error"].between(0, 1).all()
    assert "No recalibration with local patients" in html  # twelve patients a centre are too few


def test_doubt_of_curves_is_that_of_validation_patients_too(study: tuple[Cohort, Path, Path], html: str) -> None:
    _, runs, folder = study
    predictions = pd.read_parquet(runs / "renal/tiny/rfs/stage1-probe-f1-s42/predictions.parquet")
    doubt = survival_doubt(predictions)
    assert doubt is not None
    table = pd.read_csv(folder / "tables/doubt-bounds-rfs-probe.csv").set_index(["group", "statistic"])
    (external,) = [group.rows for group in groups(predictions) if group.name == "pooled external"]
    own = doubt.tested.rows["patient_id"].isin(external["patient_id"]).to_numpy()
    found = bound_coverage(doubt.tested.time_months[own], doubt.tested.event[own], doubt.bound_months[own], 50)
    row = table.loc[("pooled external", "coverage")]
    assert (row["value"], row["n"]) == (pytest.approx(found.value), int(own.sum()))
    times = pd.read_csv(folder / "tables/doubt-survival-rfs-probe.csv")
    assert set(times["months"]) == {12.0, 36.0, 60.0}
    late = times[(times["months"] == 60) & (times["statistic"] == "brier")]
    assert late["value"].isna().all()  # the predicted curves end at 48 months
    assert "outlive their lower bound" in html


def test_maps_that_were_not_tested_are_not_shown(html: str) -> None:
    assert "were not tested (make maps TASK=malignancy ENCODER=stage1), so that none is shown" in html


def test_maps_stand_with_what_became_of_their_test(study: tuple[Cohort, Path, Path]) -> None:
    cohort, runs, _ = study
    figure = {"n": 40, "interval": "bootstrap", "value": 0.9, "low": 0.8, "high": 0.97}
    names = ("pointing", "pointing above centred blob", "deletion above centred blob", "insertion above centred blob")
    method = {"shown": False, "failed": ["points no better than with random weights"], "seconds": 1.0}
    content = {"format": 1, "weights": "a", "least_mm": 20.0, "erased": {"malignancy": {"lesion": figure}}}
    content["questions"] = {"malignancy": {"occlusion": method | {"figures": dict.fromkeys(names, figure)}}}
    path = runs / "renal/tiny/malignancy/stage1-probe-f1-s42/maps.json"
    path.write_text(json.dumps(content))
    (series,) = [one for one in series_of(runs, cohort, "malignancy") if one.mode == "probe"]
    table, erased = maps_blocks(series)
    path.unlink()
    assert isinstance(table, PageTable)
    assert isinstance(erased, PageTable)
    (row,) = table.rows
    assert row.cells[:3] == ("occlusion", "40", interval(Estimate(0.9, 0.8, 0.97)))
    assert row.cells[-1] == "no: points no better than with random weights"
    assert erased.rows[0].cells[0] == "lesion"


def test_risk_groups_are_cut_on_validation(study: tuple[Cohort, Path, Path], html: str) -> None:
    _, runs, folder = study
    table = pd.read_csv(folder / "tables/risk-groups-rfs-probe.csv").set_index(["group", "encoder"])
    predictions = pd.read_parquet(runs / "renal/tiny/rfs/stage1-probe-f1-s42/predictions.parquet")
    adjusted = False
    for group in groups(predictions):
        if group.kind == "external":
            continue
        outcome = next(outcomes_of(group.rows))
        divided = risk_group_of(predictions, outcome.rows)
        adjusted |= divided is not None
        if divided is None:
            assert "Not divided by the cut of their validation patients" in html
            continue
        expected = hazard_ratios(outcome.months, outcome.target, divided).iloc[0]
        row = table.loc[(group.name, "stage1")]
        assert row["high_n"] == divided.sum()
        np.testing.assert_allclose(row["hazard_ratio"], expected["hazard_ratio"])
        assert p_value(row["p"]) in html
    if adjusted:
        assert "Multivariable Cox regression" in html or "Not adjusted for" in html
    else:
        assert "No adjusted hazard ratio of" in html


def test_survival_by_predicted_aggressiveness_is_cut_on_validation(study: tuple[Cohort, Path, Path], html: str) -> None:
    cohort, runs, folder = study
    predictions = pd.read_parquet(runs / "renal/tiny/aggressiveness/stage1-probe-f1-s42/predictions.parquet")
    patients = cohort.patients().set_index("patient_id")
    malignant = predictions[predictions["patient_id"].map(patients["malignancy"]).eq(1).to_numpy(dtype=bool)]
    for endpoint in ("os",):
        table = pd.read_csv(folder / f"tables/survival-by-aggressiveness-probe-{endpoint}.csv")
        table = table[table["encoder"] == "stage1"].set_index("group")
        own = patients.loc[malignant["patient_id"], [f"{endpoint}_months", f"{endpoint}_event"]]
        known = own.notna().all(axis=1).to_numpy()
        rows, own = malignant[known], own[known]
        cut = rows.loc[rows["part"] == "val", "score_aggressive"].median()
        external = ((rows["part"] == "test") & (rows["role"] == "external")).to_numpy()
        high = (rows["score_aggressive"] > cut).to_numpy()[external]
        time = own[f"{endpoint}_months"].to_numpy(dtype=float)[external]
        event = own[f"{endpoint}_event"].to_numpy(dtype=bool)[external]
        row = table.loc["pooled external"]
        assert (row["high_n"], row["high_events"]) == (high.sum(), event[high].sum())
        test = logrank_test(time[high], time[~high], event[high], event[~high])
        assert row["p"] == pytest.approx(test.p_value)
        score = rows["score_aggressive"].to_numpy()[external]
        assert row["c_index"] == pytest.approx(concordance_index_censored(event, time, score)[0])
        frame = pd.DataFrame({"high": high.astype(float), "time": time, "event": event})
        fitted = CoxPHFitter().fit(frame, "time", "event")
        assert row["hazard_ratio"] == pytest.approx(fitted.hazard_ratios_["high"], rel=1e-3)
        assert f"{endpoint.upper()} by predicted aggressiveness" in html
    assert "DSS: not divided by the cut of their validation patients" in html
    assert "numbers at risk. At 36 months: low aggressiveness" in html


def test_an_endpoint_that_nobody_has_is_named(
    study: tuple[Cohort, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort, runs, _ = study
    (series,) = series_of(runs, cohort, "aggressiveness")
    bare = cohort["patients"].assign(os_months=pd.NA, os_event=pd.NA)
    monkeypatch.setitem(cohort.tables, "patients", bare.astype(cohort["patients"].dtypes))
    assert endpoint_frames(series, "os") == {}
    assert set(endpoint_frames(series, "dss")) == {"stage1", "size"}


def test_nothing_is_invented_where_predictions_or_follow_up_end(study: tuple[Cohort, Path, Path], html: str) -> None:
    table = pd.read_csv(study[2] / "tables/brier-rfs-probe.csv")
    assert set(table["encoder"]) == {"stage1"}  # size predicts risks alone, and is named
    assert "No Brier score and no calibration of Tumour size" in html
    assert table["value"].isna().all()  # nobody of this cohort is followed for a year
    assert pd.read_csv(study[2] / "tables/survival-calibration-rfs-probe.csv")["value"].isna().all()


def test_what_was_not_run_is_named(html: str) -> None:
    assert re.search(r"No finished run: .*Disease-specific survival.*Overall survival", html)
    assert re.search(r"Not run: .*aligned.*clinical", html)
    assert "1 point started and not finished, left out." in html
    assert "Zero-shot: not run" in html
    assert "Zero-shot: not defined for survival." in html
    assert "No curve: one share of the labels (100%) was run." in html
    assert "no probabilities of survival" in html
    assert "One seed only" in html


def test_a_model_card_brings_nothing_from_outside(html: str) -> None:
    assert "<h4>Card of stage 1</h4>" in html
    assert "<strong>much</strong>" in html
    assert "tags: [x]" not in html
    assert "x.org/b" not in re.sub(r"&lt;.*?&gt;", "", html)


@pytest.mark.slow
def test_a_report_is_replaced_as_a_whole(
    study: tuple[Cohort, Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cohort, runs, _ = study
    out = tmp_path / "report"
    (out / "tables").mkdir(parents=True)
    (out / REPORT).write_text("older")
    (out / "tables/older.csv").write_text("older")
    wanted = {"data": cohort.root, "runs": runs, "tasks": ["rfs"], "out": out}

    def broken(page: Page) -> str:
        raise DataError("The template is broken.")

    with monkeypatch.context() as patch:
        patch.setattr(Page, "render", broken)
        with pytest.raises(DataError, match="template is broken"):
            report(**wanted)
    assert (out / REPORT).read_text() == "older"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    report(**wanted)
    assert "Recurrence-free survival" in (out / REPORT).read_text(encoding="utf-8")
    assert not (out / "tables/older.csv").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    capsys.readouterr()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").write_text("mine")
    refused = ["report", f"--data={cohort.root}", f"--runs={runs}", "--tasks=[rfs]", f"--out={tmp_path / 'other'}"]
    assert main(refused) == 2
    assert "name another folder" in capsys.readouterr().err
    assert (tmp_path / "other/mine.txt").is_file()


def test_a_folder_that_cannot_take_its_place_leaves_the_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report"
    out.mkdir()
    (out / REPORT).write_text("older")
    rename = Path.rename

    def full(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError("No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"), replacing_folder(out) as temporary:
        (temporary / REPORT).write_text("newer")
    assert (out / REPORT).read_text() == "older"


def test_points_of_other_patients_are_left_out_and_named(study: tuple[Cohort, Path, Path], tmp_path: Path) -> None:
    cohort = study[0]
    first = Point("malignancy", data=cohort.root, runs=tmp_path, mode="probe", encoder="size")
    finished(first, cohort, 1.0)
    finished(replace(first, seed=43), cohort, 1.0)
    other = replace(first, encoder="clinical")
    frame = finished(other, cohort, 1.0)
    frame.drop(index=frame.index[frame["part"] == "test"][0]).to_parquet(other.folder(cohort) / "predictions.parquet")
    strange = replace(first, seed=7)
    frame = finished(strange, cohort, 1.0)
    frame.assign(patient_id="X-" + frame["patient_id"]).to_parquet(strange.folder(cohort) / "predictions.parquet")
    (series,) = series_of(tmp_path, cohort, "malignancy")
    assert [(point.encoder, point.seed) for point in series.points] == [("size", 42), ("size", 43)]
    assert len(series.remarks) == 2
    assert any("size, 100% of the labels, seed 7" in text and "not in this cohort" in text for text in series.remarks)
    assert any("clinical" in text and "other patients" in text for text in series.remarks)


def test_nothing_finished_is_refused(tiny_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["report", f"--data={tiny_root}", f"--runs={tmp_path}"]
    assert main([*arguments, "--tasks=[malignancy]"]) == 2
    assert "No finished point of cohort tiny was found for malignancy" in capsys.readouterr().err
    assert main([*arguments, "--tasks=[malignncy]"]) == 2
    assert "Did you mean malignancy?" in capsys.readouterr().err
    assert main([*arguments, "--tasks=[rfs,rfs]"]) == 2
    assert "each task once" in capsys.readouterr().err


def test_a_cohort_of_folds_is_reported_out_of_fold(tiny_folds_root: Path, tmp_path: Path) -> None:
    cohort = Cohort.load(tiny_folds_root)
    point = Point("malignancy", data=tiny_folds_root, runs=tmp_path, encoder="size", mode="probe")
    frame = finished(point, cohort, 1.0)
    report(data=tiny_folds_root, runs=tmp_path, tasks=["malignancy"])
    folder = tmp_path / "renal/tiny/report"
    text = (folder / REPORT).read_text(encoding="utf-8")
    table = pd.read_csv(folder / "tables/results-malignancy-probe.csv")
    tested = frame[frame["part"] == "test"]
    assert table["group"].tolist() == ["out-of-fold"]
    assert table["n"].tolist() == [len(tested)] == [len(cohort["patients"])]
    assert "Fold 1" in text
    assert "Airola" in text
    values, pairs, score = [], [], tested["score_malignant"].to_numpy(float)
    target = tested["target"].to_numpy(int)
    for fold in sorted(set(tested["fold"])):
        own = (tested["fold"] == fold).to_numpy()
        values.append(roc_auc_score(target[own], score[own]))
        pairs.append(target[own].sum() * (1 - target[own]).sum())
    assert table["auroc"].item() == pytest.approx(np.average(values, weights=pairs))
    assert table["across_folds"].item() == pytest.approx(roc_auc_score(target, score))
    for prefix in ("", "across_folds_"):
        assert table[f"{prefix}low"].item() < table["across_folds" if prefix else "auroc"].item()
        shown = Estimate(
            *(table[name].item() for name in ("across_folds" if prefix else "auroc", f"{prefix}low", f"{prefix}high"))
        )
        assert interval(shown) in text
    curve = pd.read_csv(folder / "tables/curve-malignancy-probe.csv")
    assert curve["value"].item() == pytest.approx(table["auroc"].item())
    assert curve["across_folds"].item() == pytest.approx(table["across_folds"].item())
    line = format_curve(curve, metric_of(frame)).splitlines()[1]
    assert f"{curve['value'].item():.3f} (" in line
    assert f" {curve['across_folds'].item():.3f}" in line
    moved = frame.assign(fold=(frame["fold"] + 1) % 5)
    moved.to_parquet(point.folder(cohort) / "predictions.parquet")
    with pytest.raises(DataError, match="were tested in another fold"):
        series_of(tmp_path, cohort, "malignancy")
    assert "by fold" in text
    point_found = at_validation_threshold(frame, tested)
    assert point_found is not None
    hits = 0
    for fold, rows in tested.groupby("fold"):
        own = frame[(frame["part"] == "val") & (frame["fold"] == fold)]
        cut = youden_threshold(own["target"].to_numpy(int), own["score_malignant"].to_numpy(float))
        hits += int(((rows["score_malignant"] >= cut) & (rows["target"] == 1)).sum())
    assert point_found.true_positives == hits
    assert at_validation_threshold(tested, tested) is None
