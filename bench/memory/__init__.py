"""How much GPU memory a training step needs: measured by PyTorch's allocator, on a real or a virtual GPU."""

from profl.bench.memory.api import BuiltStep, Recording, measure, recorded
from profl.bench.memory.errors import GpuUnavailable, MeasurementFailed, OutOfMemory
from profl.bench.memory.footprint import Footprint
from profl.bench.memory.process.probe import Prober

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
