"""Staged networks: every model is a stem, a row of stages and a head, at any width."""

from bench.models.resnet import resnet18, resnet34
from bench.models.staged import INPUT_SHAPE, ModelSpec, StagedModel, global_average_head

__all__ = ["INPUT_SHAPE", "ModelSpec", "StagedModel", "global_average_head", "resnet18", "resnet34"]
