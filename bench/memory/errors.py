"""What can go wrong when memory is measured."""


class GpuUnavailable(RuntimeError):
    """The GPU asked for cannot be had here; the message says which part is missing and the remedy."""


class UnknownGpu(GpuUnavailable):
    """No GPU has this name, or it is none that PyTorch still supports."""


class MeasurementFailed(RuntimeError):
    """A workload could not be measured: it raised an error, or its worker process died."""


class UnusableStep(MeasurementFailed):
    """What was named builds no training step: it is not there, takes other arguments, or returns something else."""


class OutOfMemory(MeasurementFailed):
    """A workload needs more memory than the whole GPU has."""
