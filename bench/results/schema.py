"""Columns of rounds, cells and footprints, and what a value in them may be. Stated here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, create_model

from profl.bench.held import HELD
from profl.bench.memory.footprint import Footprint
from profl.bench.memory.usage import PEAK_STATISTICS

ROUND_COLUMNS = {
    "round": "number of the round, from 1",
    "phase": "where the method's schedule stands",
    "train_loss": "mean local training loss; NaN if nobody trained or training diverged",
    "tested": "name of the network that was tested: the most complete of which every part was trained",
    "test_loss": "its cross-entropy on the test set; NaN if not evaluated in this round",
    "test_accuracy": "share of the test set classified correctly, BatchNorm re-estimated; NaN if not evaluated",
    "raw_test_accuracy": "the same with the BatchNorm statistics that training left; NaN if it keeps none",
    "gradient_norm": "2-norm of the gradient of what the most preferred task trains; NaN unless the recipe asks for it",
    "participants": "devices that trained",
    "eligible_devices": "devices for which an offered task fits",
    "devices_out_share": "share of devices for which nothing offered fits",
    "data_out_share": "share of training examples on those devices",
    "classes_out_share": "share of classes of which no eligible device holds an example",
    "uploaded_bytes": "bytes sent by all participants together",
    "downloaded_bytes": "bytes received by all participants together",
    "operations": "floating-point operations of all participants' training, as `profl.bench.operations` counts them",
    "out_of_memory_devices": "devices drawn beside the participants, whose training ran out of memory; NaN if on a CPU",
    "seconds": "wall-clock seconds of the round, evaluation included",
    "peak_requested_bytes": "most GPU memory that any participant's training asked for; NaN if on a CPU, as below",
    "peak_allocated_bytes": "the same rounded up to blocks",
    "peak_reserved_bytes": "most GPU memory that was reserved for any participant's training",
    "peak_fragmented_bytes": "most that lay unused in the rest of divided blocks",
    "held_bytes": "GPU memory still allocated after the last participant: what grows from round to round is a leak",
    "attempt": "which start of the cell ran the round, from 1: above 1 after an interruption, with memory begun anew",
    "diagnostics": "figures of the method's own, by name",
}
"""Columns of the rounds frame, beside ``cell`` and one count ``tasks`` (participants by task; in the report's tables as
JSON text, and so are ``diagnostics``).

A row on disk also has ``usages``, the memory of every participant that trained on a GPU: ``device``, ``task`` and the
five columns of memory. An earlier version's rows may lack these.
"""

CELL_COLUMNS = {
    "cell": "folder name",
    "status": "done, failed, running (a process is at it now), stopped (begun, but none is) or waiting",
    "method": "name of the federated method",
    "model": "name of the network",
    "width": "channels of its first stage",
    "dataset": "name of the data",
    "tier": "how the fleet got its memory",
    "seed": "seed of every random draw",
    "gpu": "where memory was measured",
    "memory_only": "whether all training ran on the virtual GPU, for its memory alone",
    "measured_as": "model, width and batch size at which memory was measured; missing if they are those of training",
    "technique": "how local steps save memory: ways such as checkpoint, or none",
    "learning_rate": "learning rate of local training",
    "rounds": "rounds finished",
    "last_five_accuracy": "the score: mean test accuracy of the last five tests, or of all if there were fewer",
    "final_accuracy": "test accuracy after the last round",
    "raw_final_accuracy": "the same with the BatchNorm statistics that training left; NaN if it keeps none",
    "best_accuracy": "best test accuracy of any evaluated round",
    "best_round": "round of the best test accuracy",
    "participation_share": "mean over the rounds of the share of devices that an offered task fits",
    "data_out_share": "mean over the rounds of the share of training examples out of reach",
    "classes_out_share": "mean over the rounds of the share of classes out of reach",
    "uploaded_bytes": "bytes uploaded in the whole run",
    "downloaded_bytes": "bytes downloaded in the whole run",
    "operations": "floating-point operations of local training in the whole run",
    "out_of_memory_trainings": "local trainings that ran out of memory in the whole run; NaN if on a CPU",
    "seconds": "wall-clock seconds of all rounds",
    "peak_reserved_bytes": "most GPU memory that was reserved in any round; NaN if training ran on a CPU",
    "most_held_bytes": "most GPU memory that was still allocated after any round; NaN likewise",
    "held_bytes_per_round": "slope of held_bytes over the rounds of an attempt, least squares; NaN likewise",
    "held_growth_share": "share of rounds after which more was held than after the one before; NaN likewise",
    "full_model_least_budget_bytes": "least memory in which the full model trains",
    "dearest_trained_budget_bytes": "least budget of the dearest task that any device trained; NaN if nobody trained",
    "mean_device_budget_bytes": "mean memory of the fleet's devices",
}
"""Columns of the cells frame."""


_IDENTITY = (
    *("cell", "status", "method", "model", "width", "dataset", "tier", "seed"),
    *("gpu", "memory_only", "measured_as", "technique", "learning_rate", "rounds"),
)
ADDED_LATER = (
    *(*PEAK_STATISTICS, "held_bytes", "attempt", *HELD, "operations", "diagnostics"),
    *("tested", "raw_test_accuracy", "gradient_norm", "last_five_accuracy", "raw_final_accuracy"),
    *("out_of_memory_devices", "out_of_memory_trainings"),
)
"""Columns that a run of an earlier version lacks."""


def _field(column: str) -> Any:
    default = None if column in ADDED_LATER else ...
    if column.endswith(("_share", "_accuracy")):
        return Annotated[float, Field(ge=0, le=1)] | None, default
    signed = column.endswith(("_loss", "_per_round"))
    return (float if signed else Annotated[float, Field(ge=0)]) | None, default


_ROUND: Any = {name: _field(name) for name in ROUND_COLUMNS} | {
    "round": (Annotated[int, Field(ge=1)], ...),
    "phase": (str, ...),
    "tasks": (dict[str, int], ...),
    "usages": (list[dict[str, Any]], []),
    "attempt": (Annotated[int, Field(ge=1)] | None, None),
    "tested": (str | None, None),
    "diagnostics": (dict[str, float | None], {}),
}
_SUMMARY: Any = {name: _field(name) for name in CELL_COLUMNS if name not in _IDENTITY}

_EARLIER: Any = {"last_round": (Annotated[int, Field(ge=1)], ...), "environment": (dict[str, Any], ...)}
_ENVIRONMENT: Any = {"earlier": (list[create_model("Earlier", **_EARLIER)], [])}  # type: ignore[misc]

OBJECT_FORM = TypeAdapter(dict[str, Any])
OBJECTS_FORM = TypeAdapter(list[dict[str, Any]])
ENVIRONMENT_FORM = TypeAdapter(create_model("Environment", __config__=ConfigDict(extra="allow"), **_ENVIRONMENT))
ROUND_FORM = TypeAdapter(create_model("Round", **_ROUND))
FOOTPRINT_FORM = TypeAdapter(Footprint)
SUMMARY_FORM = TypeAdapter(create_model("Summary", **_SUMMARY))

FOOTPRINT_CONTEXT = ("measured_model", "measured_width", "operations_per_step")
"""What a footprint's entry says beside its bytes, batch size and GPU: the scale at which it was measured, and the
floating-point operations of that step. An earlier version's entries lack it: their scale was that of training."""

FOOTPRINT_KEY = [
    *("method", "model", "width", "dataset", "task"),
    *("measured_model", "measured_width", "batch_size", "gpu", "technique"),
]
"""Columns that tell the rows of the footprints frame apart; ``model`` and ``width`` are those of training."""


def category_columns(categories: Mapping[str, int]) -> dict[str, int]:
    """Return ``{'optimizer state': 5}`` as ``{'optimizer_state_bytes': 5}``."""
    return {f"{name.replace(' ', '_')}_bytes": value for name, value in categories.items()}


def peak_column(category: str) -> str:
    """Return the column of a category's bytes at the peak: ``at_peak_parameters_bytes`` is not ``parameter_bytes``."""
    return f"at_peak_{category.replace(' ', '_')}_bytes"
