"""The worker process: one GPU, one job at a time, until the parent goes away."""

from __future__ import annotations

import gc
import pickle
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import spawn
from multiprocessing.connection import Connection

import torch

from bench.memory import measurement
from bench.memory.errors import GpuUnavailable, MeasurementFailed, OutOfMemory
from bench.memory.protocol import Answer, Progress, Request

Jobs = Mapping[str, Callable[..., object]]


def serve(connection: Connection) -> None:
    """Answer requests; raises EOFError when the parent closes the connection."""

    def report(value: object) -> None:
        try:
            connection.send(Progress(value))
        except (BrokenPipeError, ConnectionResetError):
            raise SystemExit from None  # the parent is gone: not the program's failure

    jobs: Jobs = {
        "measure": measurement.measure,
        "fits": measurement.fits,
        "run": lambda program, device: program.run(device, report),
    }
    torch.set_num_threads(1)
    while True:
        connection.send(_answer(connection.recv(), jobs))


def _answer(request: Request, jobs: Jobs) -> Answer:
    if not torch.cuda.is_available():
        return Answer(error=GpuUnavailable(_missing_gpu()))
    torch.cuda.init()
    device = torch.device("cuda", 0)
    result, error = _attempt(request, device, jobs)
    return Answer(result, error, reusable=measurement.clean(device))


def _attempt(request: Request, device: torch.device, jobs: Jobs) -> tuple[object, Exception | None]:
    try:
        if request.main and sys.modules["__main__"].__name__ == "__main__":  # still the worker's own
            spawn.prepare(dict(request.main))
        workload = pickle.loads(request.workload)
    except Exception as error:
        return None, MeasurementFailed(
            f"the worker process cannot load the workload ({type(error).__name__}: {error}): "
            "define it in a module that can be imported, or at the top of the script that runs, which must start the "
            "measurement behind: if __name__ == '__main__'"
        )
    # Whatever the imports brought stays: not to be searched again by each of the many collections to come.
    gc.collect()
    gc.freeze()
    try:
        return jobs[request.job](workload, device=device, **request.arguments), None
    except torch.OutOfMemoryError as error:
        gpu = torch.cuda.get_device_properties(device)
        return None, OutOfMemory(f"{workload.key} needs more than the {gpu.total_memory} bytes of {gpu.name}: {error}")
    except Exception:
        return None, MeasurementFailed(f"{workload.key} could not be measured:\n{traceback.format_exc()}")


def _missing_gpu() -> str:
    remedy = "choose a virtual GPU, for example virtual:h100"
    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} is built without CUDA: install the CUDA build, or {remedy} on Linux"
    return f"PyTorch finds no NVIDIA GPU and driver on this machine: {remedy}"
