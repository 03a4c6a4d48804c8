"""Training memory of torchvision's classifiers on several GPUs: a row for every model, GPU and precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from profl.bench.memory.gpu.profile import resolve
from profl.bench.memory.process.probe import Prober
from profl.bench.survey.classifier import IMAGE_SIDES, PRECISIONS, USUAL_IMAGE_SIDE, Classifier
from profl.bench.survey.measuring import columns_of
from profl.bench.survey.table import PEAKS, Identity, Row, Table, environment

TABLE = Table(
    "models",
    {"model": "string", "gpu": "string", "precision": "string", "batch_size": "Int64", "image_size": "Int64"},
)
"""The columns of the table of models."""

# fmt: off
MODELS = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "maxvit_t", "mnasnet1_0", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_y_400mf",
    "resnet18", "resnet34", "resnet50", "resnext50_32x4d", "shufflenet_v2_x1_0", "squeezenet1_1", "swin_t",
    "swin_v2_t", "vgg11_bn", "vit_b_16", "wide_resnet50_2",
)
# fmt: on
"""Of every family of torchvision at least one."""

GPUS = ("virtual:h100", "virtual:a100-80", "virtual:t4", "virtual:jetson-orin")
USUAL_PRECISIONS = PRECISIONS[:2]


@dataclass(frozen=True)
class Entry:
    """What one row of the table measures, and where."""

    classifier: Classifier
    gpu: str

    @property
    def identity(self) -> Identity:
        """What its row holds in the columns of `Table.identity`, measured in this environment."""
        one = self.classifier
        return one.name, self.gpu, one.precision, one.batch_size, one.image_size, *environment()

    def is_met_by(self, row: Row) -> bool:
        """Return True: every row holds all there is."""
        return True

    def measure(self, prober: Prober) -> Row:
        """Return the footprint's columns; raises as `Prober.measure` does."""
        return columns_of(prober.measure(self.classifier, self.gpu))


def entries(
    models: Sequence[str] = MODELS,
    gpus: Sequence[str] = GPUS,
    precisions: Sequence[str] = USUAL_PRECISIONS,
    batch_size: int = 8,
    image_size: int | None = None,
) -> list[Entry]:
    """Return every combination, each once.

    Parameters
    ----------
    image_size
        Side of the pictures in pixels. None: the usual 224, or what the model asks for.

    Raises
    ------
    InputError
        If a model or a precision is unknown, or a size is none.
    GpuUnavailable
        If a GPU is unknown.
    """
    for gpu in gpus:
        resolve(gpu)
    usual = {name: IMAGE_SIDES.get(name, USUAL_IMAGE_SIDE) for name in models}
    chosen = (
        Entry(Classifier(name, precision, batch_size, usual[name] if image_size is None else image_size), gpu)
        for gpu in gpus
        for name in models
        for precision in precisions
    )
    return list(dict.fromkeys(chosen))


def errors(table: pd.DataFrame) -> pd.DataFrame:
    """Compare the rows of ``estimate:NAME`` with those of ``virtual:NAME`` that are equal in everything else.

    Parameters
    ----------
    table
        As `TABLE` makes it a frame.

    Returns
    -------
    pandas.DataFrame
        One row for every pair: the identity, with the estimate's ``gpu``, and for every column of `PEAKS` the
        estimate's signed relative error: 0.01 is one percent too much, NaN if either is unknown.
    """
    kind = table["gpu"].str.split(":", n=1, expand=True).reindex(columns=[0, 1])
    pairs = table[kind[0] == "estimate"].assign(board=kind[1])
    measured = table[kind[0] == "virtual"].assign(board=kind[1]).drop(columns="gpu")
    same = ["board", *(name for name in TABLE.identity if name != "gpu")]
    pairs = pairs.merge(measured, on=same, suffixes=("", "_measured"))
    relative = {name: pairs[name].astype(float) / pairs[f"{name}_measured"].astype(float) - 1 for name in PEAKS}
    return pairs[list(TABLE.identity)].assign(**relative)
