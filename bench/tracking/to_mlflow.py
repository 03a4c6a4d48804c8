"""A sweep in MLflow: an experiment named after the run's folder, with a run for every cell."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from profl.bench.tracking.contract import Point
from profl.bench.tracking.values import flat

LONGEST_VALUE = 500
"""Characters of a parameter that every server takes; longer ones are in the artifact ``cell.json`` alone."""

ID = "profl_id"
"""The tag by which a cell's run is found again."""


class MLflow:
    """Writes to the server or store of ``MLFLOW_TRACKING_URI``, else to files in ``mlflow/`` of the run.

    A cell that goes on is found by its tag, and what its run has already is left out.
    """

    name = "mlflow"

    def __init__(self, run: Path) -> None:
        self._run = run.resolve()
        self._uri = os.environ.get("MLFLOW_TRACKING_URI") or str(self._run / "mlflow")
        self._open: dict[str, str] = {}
        self._written: dict[str, dict[str, int]] = {}
        self._client: Any = None

    def begin(self, cell: str, description: Mapping[str, Any], earlier: Sequence[Point]) -> None:
        """Open the cell's run, or go on with it."""
        client = self._connect()
        id_ = hashlib.sha256(f"{self._run}/{cell}".encode()).hexdigest()[:16]
        experiment = client.get_experiment_by_name(self._run.name)
        place = experiment.experiment_id if experiment else client.create_experiment(self._run.name)
        found = client.search_runs([place], f"tags.{ID} = '{id_}'", max_results=1)
        opened = found[0] if found else client.create_run(place, run_name=cell, tags={ID: id_})
        self._open[cell] = key = opened.info.run_id
        self._written[cell] = {
            name: max(metric.step for metric in client.get_metric_history(key, name)) for name in opened.data.metrics
        }
        if found:
            client.update_run(key, status="RUNNING")
        else:
            client.log_dict(key, dict(description), "cell.json")
            for name, value in flat(description):
                if len(value) <= LONGEST_VALUE:
                    client.log_param(key, name, value)
        for point in earlier:
            self.round(cell, point)

    def round(self, cell: str, point: Point) -> None:
        """Write a round's numbers that the run lacks."""
        from mlflow.entities import Metric

        written, now_ms = self._written[cell], int(1000 * time.time())
        new = {name: value for name, value in point.values.items() if written.get(name, -1) < point.step}
        written.update(dict.fromkeys(new, point.step))
        metrics = [Metric(name, value, now_ms, point.step) for name, value in new.items()]
        self._connect().log_batch(self._open[cell], metrics=metrics)

    def end(self, cell: str, summary: Point, error: str | None) -> None:
        """Write the summary's numbers, or the error, and close the run."""
        self.round(cell, summary)
        if error is not None:
            self._connect().set_tag(self._open[cell], "error", error)
        self._connect().set_terminated(self._open.pop(cell), "FINISHED" if error is None else "FAILED")

    def place(self) -> str:
        """Return the store, and the command that shows it if it is none of a server."""
        named = f"experiment {self._run.name} in {self._uri}"
        if self._uri.startswith(("http://", "https://", "databricks")):
            return named
        files = "" if "://" in self._uri else "MLFLOW_ALLOW_FILE_STORE=true "  # which MLflow 3 wants to hear
        return f"{named}, shown by: {files}mlflow ui --backend-store-uri {quote(self._uri)}"

    def close(self) -> None:
        """Close all runs, as interrupted."""
        while self._open:
            self._connect().set_terminated(self._open.popitem()[1], "KILLED")

    def _connect(self) -> Any:
        if self._client is None:
            if "://" not in self._uri:
                os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # which MLflow 3 wants to hear
            from mlflow import MlflowClient

            self._client = MlflowClient(self._uri)
        return self._client
