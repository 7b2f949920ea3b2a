"""How busy the machine is while a run trains: MLflow's own measures, sent as the rest of the run is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlflow.entities import Metric
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from experiments.runs.outbox import Outbox

PREFIX = "system/"
"""How their names begin; MLflow's page shows such metrics under System metrics."""


@contextmanager
def measured(outbox: Outbox, begun: Path, seconds: float = 10.0) -> Iterator[None]:
    """Measure the machine while the body runs, and once at its end.

    MLflow's own monitor writes to the store by itself, and ends where that is locked; an outbox keeps what it is given.

    Args:
        outbox: What sends the metrics of the run.
        begun: A file that is as old as the run. The step of a metric is the number of seconds since then, so that a run
            that is resumed goes on in its charts.
        seconds: Time between two measurements.
    """
    monitors, done = _monitors(), threading.Event()
    since = begun.stat().st_mtime

    def watch() -> None:
        for monitor in monitors:  # the first share of a processor's time is that since the last question
            monitor.collect_metrics()
            monitor.clear_metrics()
        while True:
            ended = done.wait(seconds)
            outbox.log_batch(metrics=_points(monitors, since))
            if ended:
                return

    thread = threading.Thread(target=watch, name="system metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _monitors() -> list[BaseMetricsMonitor]:
    """Processor, memory, disk and network, and the GPUs of NVIDIA where there are some."""
    found: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    with suppress(RuntimeError):  # what it makes of a machine without NVIDIA's driver
        found.append(GPUMonitor())
    return found


def _points(monitors: list[BaseMetricsMonitor], since: float) -> list[Metric]:
    now = time.time()
    values: dict[str, float] = {}
    for monitor in monitors:
        monitor.collect_metrics()
        values |= monitor.aggregate_metrics()
        monitor.clear_metrics()
    return [Metric(PREFIX + name, value, int(1000 * now), max(0, int(now - since))) for name, value in values.items()]
