"""Measure any training step: of a function in a process of its own, or of code that already runs on a GPU."""

from __future__ import annotations

import functools
import inspect
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profl.bench.memory.calling import called
from profl.bench.memory.errors import UnusableStep
from profl.bench.memory.footprint import Footprint
from profl.bench.memory.named import NamedBuild
from profl.bench.memory.process.probe import probe
from profl.bench.memory.workload import Prepared, StepObserver

if TYPE_CHECKING:
    import torch
    from torch import nn

    from profl.bench.memory.workload import Optimizers

    Modules = nn.Module | Sequence[nn.Module]
    Build = Callable[[torch.device], tuple[Modules, Optimizers, Any, Callable[[], object]]]

__all__ = ["BuiltStep", "Recording", "measure", "recorded"]


def measure(
    build: Build,
    gpu: str = "virtual:h100",
    *,
    steps: int = 3,
    least_budget: bool = False,
    snapshot: Path | str | None = None,
) -> Footprint:
    """Return the GPU memory that a training step needs, measured in a process of its own.

    The step is ordinary PyTorch code. Its phases are found by hooks: forward begins when the module is called, or else
    with the step; backward with ``loss.backward()`` or ``torch.autograd.grad``; the optimizer's step is that of any
    optimizer. One call of ``step()`` is one step, whatever it does: several passes, a closure, a round of a client.

    ``torch.compile`` is measured as it runs: with ``aot_eager`` anywhere, with ``inductor``, which builds kernels of
    its own for the GPU, where there are a C compiler and Triton, also for a virtual GPU. CUDA graphs are captured and
    replayed, those of ``mode="reduce-overhead"`` too; the memory of their pools is the step's like any other.

    Parameters
    ----------
    build
        Called with the device; builds everything there and returns ``(module, optimizer, inputs, step)``. ``inputs``
        is the batch: a tensor, or any nest of tuples, lists and dicts of tensors. ``step()`` runs one training step.
        Several modules or optimizers are a list or tuple; the modules' paths then begin with their place in it, which
        also tells whose an optimizer's state is. Optimizers that are not returned are known once they step, modules
        once they are called: by their class's name. A function that can be imported, or of the script that runs,
        or a ``functools.partial`` of one.
    gpu
        ``cuda``, or a virtual GPU, which needs no hardware: ``virtual:h100``, ``virtual:t4``, ...
    steps
        Training steps to run; momentum and the like exist from the second on.
    least_budget
        Whether to search for the least memory in which the step runs, which runs dozens of steps more.
    snapshot
        Also write the allocator's log to this file, for https://pytorch.org/memory_viz.

    Returns
    -------
    Footprint
        With its timeline and its attribution to modules. Its caveats tell whether memory grows from step to step, and
        what stays on the GPU when all that was built is given up; the least budget is then not searched for.

    Raises
    ------
    GpuUnavailable
        If the GPU cannot be had; the message says what is missing.
    OutOfMemory
        If the whole GPU is too small.
    MeasurementFailed
        If ``build`` or the step raises an error, cannot be sent, loaded or compiled, or the process dies;
        `profl.bench.memory.errors.UnusableStep` if ``build`` does not take the device, or returns something else.
    TypeError
        If ``build`` is no function.

    Examples
    --------
    A whole script; the last line but one keeps the process that measures from measuring in turn.

    >>> import torch
    >>> from torch import nn
    >>> from profl import measure
    >>>
    >>> def build(device, batch_size=64):
    ...     module = nn.Sequential(nn.Linear(1024, 256), nn.ReLU(), nn.Linear(256, 10)).to(device)
    ...     optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    ...     inputs = torch.zeros(batch_size, 1024, device=device)
    ...     targets = torch.zeros(batch_size, dtype=torch.int64, device=device)
    ...
    ...     def step():
    ...         loss = nn.functional.cross_entropy(module(inputs), targets)
    ...         loss.backward()
    ...         optimizer.step()
    ...         optimizer.zero_grad()
    ...
    ...     return module, optimizer, (inputs, targets), step
    >>>
    >>> def report():
    ...     footprint = measure(build, "virtual:t4")
    ...     print(footprint.parameter_bytes, footprint.categories_at_peak["parameters"])
    ...     by_stage = footprint.frame().groupby("stage")["bytes"].sum()
    ...     assert by_stage.sum() == footprint.peak_requested_bytes
    ...     footprint.plot("memory.png")
    ...     footprint.write_trace("memory.json")
    >>>
    >>> if __name__ == "__main__":
    ...     report()
    1059880 1059880
    """
    if not callable(build):
        raise TypeError(f"cannot measure {build!r}: give a function that takes the device and builds a training step")
    return probe(
        BuiltStep(build),
        gpu,
        steps=steps,
        least_budget=least_budget,
        timeline=True,
        snapshot=Path(snapshot) if snapshot else None,
    )


@dataclass(frozen=True)
class BuiltStep:
    """A training step as `measure` takes it, for a `profl.bench.memory.Prober`, which measures many in one process."""

    build: Build

    @property
    def key(self) -> str:
        """Name of the function with the arguments that it is given."""
        return _name(self.build)

    def prepare(self, device: torch.device) -> Prepared:
        """Build the step.

        Raises
        ------
        UnusableStep
            If ``build`` does not take the device, or returns anything else than a module, an optimizer, inputs and a
            step.
        """
        from profl.bench.memory.recording.hooked import told_by_hooks

        built = called(self.build, self.key, device, {})
        if wrong := _what_is_wrong(built):
            raise UnusableStep(f"{self.key} returned {wrong}: it must return (module, optimizer, inputs, step)")
        modules, optimizer, inputs, step = built
        module = _one_module(modules)

        def observed(observer: StepObserver) -> None:
            with told_by_hooks(module, optimizer, observer):
                step()

        return Prepared(module, optimizer, _tensors(inputs), observed)


class Recording:
    """What `recorded` has seen. Its ``footprint`` is there when the block has ended.

    Parameters
    ----------
    footprint
        With its timeline and its attribution to modules.
    snapshot
        The allocator's state and log, a dict as ``torch.cuda.memory._snapshot`` returns it.
    """

    footprint: Footprint
    snapshot: dict[str, Any]

    def write_snapshot(self, path: Path | str) -> None:
        """Write the snapshot to ``path``, for https://pytorch.org/memory_viz."""
        Path(path).write_bytes(pickle.dumps(self.snapshot))


@contextmanager
def recorded(
    module: Modules, optimizer: Optimizers, inputs: object = (), *, key: str = "recorded"
) -> Iterator[Recording]:
    """Record the training steps that run in the block, in this process, on the GPU that holds ``module``.

    Nothing about the code changes, nor does what it allocates. What lives on the GPU before is part of the peak:
    among the buffers, where it is not known as something else. PyTorch's own memory history is used, and ended: a
    history that was being recorded is lost. PyTorch's peak statistics start anew, and cuBLAS gives its workspaces
    back when the block ends. If the block raises an error, there is no footprint. A step is over when all of the
    optimizers have stepped; a forward pass after the last one is part of it.

    Parameters
    ----------
    module, optimizer, inputs
        What is trained, with what, and on which batch, as for `measure`.
    key
        Name of the footprint.

    Raises
    ------
    ValueError
        If no parameter of ``module`` is on a GPU.

    Examples
    --------
    ::

        with recorded(module, optimizer) as recording:
            train_step()
        print(recording.footprint.frame())
    """
    # Read when PyTorch first names the functions of a stack: its other ways take minutes.
    os.environ.setdefault("TORCH_SYMBOLIZE_MODE", "dladdr")

    from profl.bench.memory.recording.allocator_log import CudaLog
    from profl.bench.memory.recording.hooked import told_by_hooks
    from profl.bench.memory.recording.measurement import gpu_name, read_footprint
    from profl.bench.memory.recording.recorder import Recorder

    module = _one_module(module)
    device = next((parameter.device for parameter in module.parameters() if parameter.is_cuda), None)
    if device is None:
        raise ValueError("no parameter of the module is on a GPU: move it there, or use measure on a virtual one")
    recording, log = Recording(), CudaLog(device)
    with Recorder(log) as recorder:
        recorder.prepared(module, optimizer, _tensors(inputs))
        with told_by_hooks(module, optimizer, recorder):
            yield recording
    recording.footprint = read_footprint(recorder, log, key, gpu_name(device), timeline=True)
    recording.snapshot = log.snapshot


def _what_is_wrong(built: object) -> str:
    """Say which part of what a function has built is none of a training step, and what it is; empty if all are."""
    from torch import nn

    if not isinstance(built, tuple) or len(built) != 4:
        return f"a tuple of {len(built)}" if isinstance(built, tuple) else _described(built)
    modules, optimizers, _, step = built
    if not all(isinstance(one, nn.Module) for one in _each(modules)):
        return f"{_described(modules)} as module, which is an nn.Module or a list of them"
    if not all(hasattr(one, "param_groups") and hasattr(one, "state") for one in _each(optimizers)):
        return f"{_described(optimizers)} as optimizer, which is one of torch.optim's or a list of them"
    if not callable(step):
        return f"{_described(step)} as step, which is a function without arguments"
    if inspect.isgeneratorfunction(step) or inspect.iscoroutinefunction(step):
        return "a generator or coroutine as step, which would run nothing when it is called"
    return "" if _takes_nothing(step) else "a step that lacks arguments, which is called without any"


def _takes_nothing(step: Callable[..., object]) -> bool:
    try:
        signature = inspect.signature(step)
    except (TypeError, ValueError):  # written in C, say
        return True
    try:
        signature.bind()
    except TypeError:
        return False
    return True


def _each(one_or_several: object) -> Sequence[object]:
    return one_or_several if isinstance(one_or_several, (list, tuple)) else [one_or_several]


def _described(value: object) -> str:
    """Return what a value is: ``None``, ``an object of type SGD``, ``a list of Linear and str``."""
    kinds = dict.fromkeys(type(one).__name__ for one in _each(value))
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {' and '.join(kinds) or 'nothing'}"
    return "None" if value is None else f"an object of type {type(value).__name__}"


def _one_module(modules: Modules) -> nn.Module:
    from torch import nn

    return modules if isinstance(modules, nn.Module) else nn.ModuleList(modules)


def _tensors(inputs: object) -> tuple[torch.Tensor, ...]:
    import torch
    from torch.utils._pytree import tree_leaves

    return tuple(leaf for leaf in tree_leaves(inputs) if isinstance(leaf, torch.Tensor))


def _name(build: Callable[..., object]) -> str:
    if isinstance(build, NamedBuild):
        return str(build)
    if not isinstance(build, functools.partial):
        name = getattr(build, "__qualname__", repr(build))
        # A worker process knows the main script by the second name.
        return name if build.__module__ in ("__main__", "__mp_main__") else f"{build.__module__}.{name}"
    given = [repr(value) for value in build.args] + [f"{name}={value!r}" for name, value in build.keywords.items()]
    return f"{_name(build.func)}({', '.join(given)})"
