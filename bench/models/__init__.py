"""Staged networks: every model is a stem, a row of stages and a head, at any width."""

from profl.bench.models.spec import ModelSpec
from profl.bench.models.staged import StagedModel, bare_convolution, global_average_head, initialise_convolutions

__all__ = ["ModelSpec", "StagedModel", "bare_convolution", "global_average_head", "initialise_convolutions"]
