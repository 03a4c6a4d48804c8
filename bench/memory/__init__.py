"""How much GPU memory a training step needs: measured by PyTorch's allocator, on a real or a virtual GPU."""

from bench.memory.api import BuiltStep, Recording, measure, recorded
from bench.memory.errors import GpuUnavailable, MeasurementFailed, OutOfMemory
from bench.memory.footprint import Footprint
from bench.memory.probe import Prober

__all__ = [
    "BuiltStep",
    "Footprint",
    "GpuUnavailable",
    "MeasurementFailed",
    "OutOfMemory",
    "Prober",
    "Recording",
    "measure",
    "recorded",
]
