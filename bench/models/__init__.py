"""Staged networks: every model is a stem, a row of stages and a head, at any width."""

from profl.bench.models.spec import ModelSpec
from profl.bench.models.staged import INPUT_SHAPE, StagedModel, global_average_head

__all__ = ["INPUT_SHAPE", "ModelSpec", "StagedModel", "global_average_head"]
