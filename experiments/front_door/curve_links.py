"""Links that open MLflow where an experiment's curves lie over each other."""

from __future__ import annotations

from urllib.parse import quote, urlencode

from mlflow.tracking import MlflowClient

from experiments.runs.tracking import CURVE_LINE, KIND


def curve_links(store: str, port: int) -> dict[str, str]:
    """The link to the chart of every experiment with a curve.

    The page shows the runs of encoders alone, whose metrics MLflow draws by percentage of the labels, one line each.

    Args:
        store: MLflow's store, as `sqlite:///.../mlflow.db`.
        port: Port of its page.

    Returns:
        Links by name of the experiment, `<cohort>/<task>`.
    """
    client = MlflowClient(store)
    lines = f"tags.{KIND} = '{CURVE_LINE}'"
    experiments = [found for found in client.search_experiments() if found.name.startswith("renal/")]
    view = {"searchFilter": lines, "workflowType": "machine_learning", "compareRunsMode": "CHART"}
    place = f"http://localhost:{port}/#/experiments/{{}}/runs?{urlencode(view, quote_via=quote)}"
    return {
        found.name.removeprefix("renal/"): place.format(found.experiment_id)
        for found in sorted(experiments, key=lambda entry: entry.name)
        if client.search_runs([found.experiment_id], lines, max_results=1)
    }
