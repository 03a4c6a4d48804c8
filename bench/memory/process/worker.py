"""The worker process: one GPU, one job at a time, until the parent goes away."""

from __future__ import annotations

import gc
import pickle
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from multiprocessing import spawn
from multiprocessing.connection import Connection

import torch

from profl.bench.errors import in_one_line
from profl.bench.memory.errors import GpuUnavailable, MeasurementFailed, OutOfMemory
from profl.bench.memory.gpu.profile import VirtualGpu
from profl.bench.memory.gpu.unmodelled import blame, unmodelled
from profl.bench.memory.process.protocol import Answer, Progress, Request
from profl.bench.memory.recording import measurement
from profl.bench.memory.snapshot.stack import Stack

_SECOND_GPU = "asks for a second GPU, and a measurement has one: use device 0 alone"
_SECOND_PROCESS = "uses the GPU in a process of its own, and a measurement is one process: use it in this one alone"
_MEANT = {
    "Invalid device id": _SECOND_GPU,
    "invalid device ordinal": _SECOND_GPU,
    "Cannot re-initialize CUDA in forked subprocess": _SECOND_PROCESS,
    "Found no NVIDIA driver on your system": _SECOND_PROCESS,
    "grad can be implicitly created only for scalar outputs": "calls backward on a loss of several numbers: make it "
    "one first, as with loss.mean().backward()",
}
"""What PyTorch says of what no measurement has, and of what nobody means, and what it means."""

Jobs = Mapping[str, Callable[..., object]]


def serve(connection: Connection, estimated: VirtualGpu | None) -> None:
    """Answer requests; raises EOFError when the parent closes the connection.

    Parameters
    ----------
    estimated
        The GPU to estimate for. None: measure, on the one that PyTorch sees.
    """

    def report(value: object) -> None:
        try:
            connection.send(Progress(value))
        except (BrokenPipeError, ConnectionResetError):
            raise SystemExit from None  # the parent is gone: not the program's failure

    jobs: Jobs = {
        "measure": measurement.measure_workload,
        "fits": measurement.fits,
        "run": lambda program, device: program.run(device, report),
    }
    torch.set_num_threads(1)
    if estimated is None:
        answer = partial(_answer, jobs=jobs)
    else:
        from profl.bench.memory.estimate import estimating

        estimates: Jobs = {"measure": estimating.estimate_workload, "fits": estimating.fits, "run": estimating.run}
        answer = partial(_estimate, jobs=_given(estimates, estimated=estimated))
    import_module("torch._dynamo")  # as every optimizer does once there is one: now, while the parent may be importing
    gc.freeze()  # and so what the imports brought is searched by no collection
    gc.enable()
    while True:
        connection.send(answer(connection.recv()))


def _given(jobs: Jobs, **arguments: object) -> Jobs:
    return {name: partial(job, **arguments) for name, job in jobs.items()}


def _estimate(request: Request, jobs: Jobs) -> Answer:
    return Answer(*_attempt(request, jobs))


def _answer(request: Request, jobs: Jobs) -> Answer:
    if not torch.cuda.is_available():
        return Answer(error=GpuUnavailable(_missing_gpu()))
    torch.cuda.init()
    device = torch.device("cuda", 0)
    result, error = _attempt(request, _given(jobs, device=device))
    if _has_compiled():
        torch.compiler.reset()  # the next job compiles by itself
    return Answer(result, error, reusable=measurement.clean(device))


def _attempt(request: Request, jobs: Jobs) -> tuple[object, Exception | None]:
    try:
        if request.main and sys.modules["__main__"].__name__ == "__main__":  # still the worker's own
            spawn.prepare(dict(request.main))
        workload = pickle.loads(request.workload)
    except MeasurementFailed as error:  # of a script that measures as it is imported
        return None, error
    except SystemExit as end:
        return None, _exited("what is measured", end)
    except Exception as error:
        return None, MeasurementFailed(
            f"the worker process cannot load the workload ({type(error).__name__}: {in_one_line(error)}): "
            "define it in a module that can be imported, or at the top of the script that runs, which must start the "
            "measurement behind: if __name__ == '__main__'"
        )
    unmodelled()  # of earlier jobs
    # Whatever the imports brought stays: not to be searched again by each of the many collections to come.
    gc.collect()
    gc.freeze()
    try:
        return jobs[request.job](workload, **request.arguments), None
    except (MeasurementFailed, GpuUnavailable) as error:
        return None, error
    except SystemExit as end:
        return None, _exited(workload.key, end)
    except torch.OutOfMemoryError as error:
        gpu = torch.cuda.get_device_properties(0)
        return None, OutOfMemory(
            f"{workload.key} needs more than the {gpu.total_memory} bytes of {gpu.name}: {in_one_line(error)}"
        )
    except Exception as error:
        if _cannot_compile(error):
            return None, MeasurementFailed(
                f"{workload.key} cannot be compiled here ({in_one_line(error)}): torch.compile needs a C compiler "
                "and Triton for kernels of its own: install them, or measure with backend='aot_eager' or without "
                "torch.compile"
            )
        if meant := next((meant for said, meant in _MEANT.items() if said in str(error)), None):
            return None, MeasurementFailed(f"{workload.key} {meant}")
        if blamed := blame(error):
            return None, MeasurementFailed(f"{workload.key} cannot be measured on a virtual GPU: {blamed}")
        before = "".join(f"before that it {told}\n" for told in unmodelled())
        failed = f"{workload.key} could not be measured, at {_place(error)}:"
        return None, MeasurementFailed(f"{failed}\n{traceback.format_exc()}{before}")


def _place(error: Exception) -> str | None:
    """Return where the program was as the error was raised, perhaps in a library that it had called."""
    entries = reversed(traceback.extract_tb(error.__traceback__))
    return Stack([{"name": entry.name, "filename": entry.filename, "line": entry.lineno} for entry in entries]).place


def _exited(what: str, end: SystemExit) -> MeasurementFailed:
    return MeasurementFailed(f"{what} called sys.exit({end.code!r}), which a measurement cannot: let it raise an error")


def _has_compiled() -> bool:
    """Return whether torch.compile was used since the last reset, which takes a second where it was not."""
    compiling = sys.modules.get("torch._dynamo.convert_frame")
    return compiling is not None and compiling.FRAME_COUNTER > 0


def _cannot_compile(error: Exception) -> bool:
    compiling = sys.modules.get("torch._dynamo.exc")
    return compiling is not None and isinstance(error, compiling.BackendCompilerFailed)


def _missing_gpu() -> str:
    remedy = "choose a virtual GPU, for example virtual:h100"
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} is built without CUDA: install the CUDA build, or {remedy} on Linux"
    return f"PyTorch finds no NVIDIA GPU and driver on this machine: {remedy}"
