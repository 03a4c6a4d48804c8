"""A GPU of PyTorch's fake tensors: it keeps the log that CUDA's allocator would keep, and runs nothing."""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self, cast
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.autograd.graph import _engine_run_backward
from torch.nn import functional
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from profl.bench.memory.errors import GpuUnavailable
from profl.bench.memory.estimate import kernels
from profl.bench.memory.estimate.engine import numbering_apart
from profl.bench.memory.estimate.refusals import refuse_operator, refuse_sparse, refusing
from profl.bench.memory.gpu.profile import VirtualGpu
from profl.bench.memory.recording.event_log import STEP

DEVICE = torch.device("cuda", 0)

# Where autograd's engine believes fake tensors to be: it would look up the streams of what is on a GPU, which takes a
# driver. The index tells it from the meta device that a program uses.
_SEEN_BY_ENGINE = torch.device("meta", 0)

_DEVICE_GUARDS = "_ZN3c104impl26device_guard_impl_registryE"  # c10::impl::device_guard_impl_registry

_TENSOR_FRAME = {"name": "at::detail::empty_cuda", "filename": ""}
_SCRATCH_FRAME = {"name": "at::native::scratch", "filename": ""}
_LIBRARIES = ("torch", "torchvision")
_OWN = __name__.rpartition(".")[0]
_WRAPPERS = ("torch._compile", "torch._dynamo.eval_frame")  # around every dispatch
_aten = torch.ops.aten


class FakeGpu:
    """The device ``cuda:0`` as long as the context lasts, on any machine.

    Tensors elsewhere stay real: only what touches the device is fake.

    Parameters
    ----------
    gpu
        The GPU that is meant.

    Attributes
    ----------
    events
        The log, as `profl.bench.memory.recording.event_log.read_log` takes it.
    reads
        One sentence for every place where numbers were read, which are zero.
    plans_convolutions
        Whether a convolution has run.
    """

    def __init__(self, gpu: VirtualGpu) -> None:
        self.events: list[dict[str, Any]] = []
        self.reads: dict[str, None] = {}
        self.plans_convolutions = False
        self.gpu = gpu
        self._stamp = STEP
        self._living: dict[int, tuple[int, int]] = {}  # storage -> address and bytes
        self._workspaces: dict[bool, int] = {}
        self._addresses = 0

    def __enter__(self) -> Self:
        fake = FakeTensorMode(allow_non_fake_inputs=True, allow_fallback_kernels=False)
        # A memo of real tensors' fake ones. Nothing is looked up there, and no module can move what is in it.
        fake.fake_tensor_converter.set_tensor_memo = lambda t, v: None  # type: ignore[method-assign]
        foreach_types = [torch.Tensor, torch.nn.Parameter, FakeTensor]
        _hide_streams()
        _lend_device_guard()
        with ExitStack() as stack:
            for owner, name, value in (
                # What a program asks of the GPU.
                (torch.cuda, "get_device_properties", lambda device=None: self._properties()),
                (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
                (torch.cuda, "is_bf16_supported", lambda including_emulation=True: True),
                (torch.cuda.memory, "_get_memory_metadata", lambda: self._stamp),
                (torch.cuda.memory, "_set_memory_metadata", self._set_stamp),
                (import_module("torch.optim.optimizer"), "_foreach_supported_types", foreach_types),
                (_foreach_utils, "_foreach_supported_types", foreach_types),
                # Here C++ would ask the GPU.
                (functional, "scaled_dot_product_attention", kernels.attention(self.gpu.capability)),
                (torch.autograd, "_engine_run_backward", numbering_apart(_engine_run_backward)),
            ):
                stack.enter_context(patch.object(owner, name, value, create=True))
            stack.enter_context(refusing())
            stack.enter_context(fake)
            stack.enter_context(_Dispatch(self))
            # Autograd's own thread would wait for a GPU.
            stack.enter_context(torch.autograd.set_multithreading_enabled(False))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def address(self, tensor: Tensor) -> int | None:
        """Return where the log says that the tensor's storage lives; None if it is not on the device."""
        return self._living.get(tensor.untyped_storage()._cdata, (None, 0))[0]

    @property
    def living_addresses(self) -> set[int]:
        """Where the log says that tensors live now."""
        return {address for address, _ in self._living.values()}

    def clear_workspaces(self) -> None:
        """Let cuBLAS give its workspaces back."""
        for address in self._workspaces.values():
            self._free(address)
        self._workspaces.clear()

    def ran(self, operator: torch._ops.OpOverload, arguments: Sequence[Any], results: object) -> None:
        """Note what the operator has allocated: its results in new storages, and what its kernel takes beside."""
        kernels.keep_buffer(operator, arguments, results)
        for result in tree_leaves(results):
            if isinstance(result, FakeTensor) and result.fake_device.type == "cuda":
                self._notice(operator, result)
        node = torch._C._current_autograd_node()
        computed_by_blas = kernels.uses_blas(operator, arguments, self.gpu.capability)
        if computed_by_blas and (node is not None) not in self._workspaces:
            # Each of the two threads, forward's and autograd's, keeps one.
            size = kernels.blas_workspace_bytes(self.gpu.capability)
            if size:
                self._workspaces[node is not None] = self._allocate(operator, size, _SCRATCH_FRAME)
        passing = [
            self._allocate(operator, size, _SCRATCH_FRAME) for size in kernels.scratch(operator, arguments, self.gpu)
        ]
        for address in passing:
            self._free(address)
        self.plans_convolutions |= operator.overloadpacket is _aten.convolution

    def read(self) -> None:
        """Note that the host reads numbers here."""
        frame = sys._getframe(1)
        while frame and frame.f_globals.get("__name__", "").startswith((*(f"{name}." for name in _LIBRARIES), _OWN)):
            frame = cast(Any, frame.f_back)
        place = f"at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else "in a backward pass"
        self.reads[f"reads numbers from the GPU, which are all zero in an estimate ({place})"] = None

    def _notice(self, operator: torch._ops.OpOverload, tensor: FakeTensor) -> None:
        if tensor.layout != torch.strided:
            refuse_sparse(tensor.layout)
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        address, size_before = self._living.get(key, (None, 0))
        if size == size_before:
            return
        if address is None:
            weakref.finalize(storage, self._died, key).atexit = False
        else:
            self._free(address)  # it was resized
        self._living[key] = (self._allocate(operator, size, _TENSOR_FRAME), size)

    def _died(self, key: int) -> None:
        self._free(self._living.pop(key)[0])

    def _allocate(self, operator: torch._ops.OpOverload, size: int, kind: Mapping[str, str]) -> int:
        node: Any = torch._C._current_autograd_node()
        name = f"at::_ops::{operator.overloadpacket.__name__}::call("
        if node is not None:
            name = f"torch::autograd::{node.name().rpartition(':')[2]}::apply("
        self._addresses += 1
        self.events.append(
            {
                "action": "alloc",
                "addr": self._addresses,
                "size": size,
                "frames": [kind, {"name": name, "filename": ""}],
                "user_metadata": STEP if node is not None else self._stamp,
                "forward_frames": node.metadata.get("traceback_", ()) if node is not None else (),
            }
        )
        return self._addresses

    def _free(self, address: int) -> None:
        self.events.append({"action": "free_completed", "addr": address})

    def _set_stamp(self, stamp: str) -> None:
        self._stamp = stamp

    def _properties(self) -> SimpleNamespace:
        major, minor = self.gpu.capability
        return SimpleNamespace(
            name=self.gpu.name,
            total_memory=self.gpu.total_bytes,
            major=major,
            minor=minor,
            multi_processor_count=self.gpu.multiprocessors,
            uuid="",
        )


@cache
def _hide_streams() -> None:
    """Let autograd's nodes have no stream, for the rest of the process: with CUDA's, the engine asks for its context.

    A node has the stream of PyTorch's accelerator, if that is where its results are. A backend of one's own comes
    before CUDA.
    """
    if torch.backends.cuda.is_built():
        backend = SimpleNamespace(
            is_available=lambda: False,
            is_initialized=lambda: False,
            device_count=lambda: 0,
            current_device=lambda: 0,
            manual_seed_all=lambda seed: None,
            _is_in_bad_fork=lambda: False,
        )
        _setup_privateuseone_for_python_backend("nowhere", backend)


@cache
def _lend_device_guard() -> None:
    """Let C++ switch to a device that a PyTorch without CUDA does not know, for the rest of the process.

    Autograd does so for every tensor. PyTorch keeps a table of who switches to which kind of device; that of meta
    tensors does nothing, which is all that is wanted.

    Raises
    ------
    GpuUnavailable
        If this PyTorch has no such table where a program can reach it.
    """
    kinds = torch._C._autograd.DeviceType
    try:
        table = (ctypes.c_void_p * (kinds.Meta.value + 1)).in_dll(ctypes.CDLL(torch._C.__file__), _DEVICE_GUARDS)
    except (OSError, ValueError):
        raise GpuUnavailable(
            f"PyTorch {torch.__version__} on {sys.platform} cannot be used for estimates, which need Linux or macOS"
        ) from None
    if not table[kinds.CUDA.value]:
        table[kinds.CUDA.value] = table[kinds.Meta.value]


class _Dispatch(TorchDispatchMode):
    """Sends every operator to where its tensors are, and tells the GPU what ran there."""

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.prim.device.default:  # only C++ asks in this way
            return _SEEN_BY_ENGINE if _is_gpu(args[0].device) and _called_by_engine() else args[0].device
        refuse_operator(func, kwargs or {})
        leaves, structure = tree_flatten((args, kwargs or {}))
        if not any(_is_fake(leaf) or _is_gpu(leaf) for leaf in leaves):
            with unset_fake_temporarily():
                return func(*args, **(kwargs or {}))
        composed = func.overloadpacket in kernels.COMPOSED
        if composed or torch.is_inference_mode_enabled():  # else autograd has taken apart what can be
            with self:
                parts = func.decompose(*args, **(kwargs or {}))
                if composed and parts is NotImplemented:
                    parts = func._op_dk(torch.DispatchKey.CompositeExplicitAutograd, *args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        if func is _aten._local_scalar_dense.default:
            self._gpu.read()
            with unset_fake_temporarily():
                return torch.zeros((), dtype=args[0].dtype).item()
        if func is _aten.copy_.default and not _is_fake(args[0]):
            self._gpu.read()
            with unset_fake_temporarily():
                return args[0].zero_()
        if kernels.accumulates(func, args) and _called_by_engine():
            return args[0]
        if not func._schema.returns:
            return None  # it only writes, as optimizers do to many tensors at once
        args, kwargs = tree_unflatten([_as_fake(leaf) for leaf in leaves], structure)
        results = func(*args, **kwargs)
        self._gpu.ran(func, args, results)
        leaves, structure = tree_flatten(results)
        if not any(_is_fake(leaf) and leaf.fake_device.type == "cpu" for leaf in leaves):
            return results
        self._gpu.read()
        return tree_unflatten([_as_real(leaf) for leaf in leaves], structure)


def _called_by_engine() -> bool:
    """Whether autograd's engine calls the caller: it has no code of Python that would be in between."""
    frame = sys._getframe(2)
    while frame.f_globals["__name__"] in _WRAPPERS and frame.f_back:
        frame = frame.f_back
    return frame.f_code is _engine_run_backward.__code__


def _is_fake(leaf: object) -> bool:
    return isinstance(leaf, FakeTensor)


def _is_gpu(leaf: object) -> bool:
    return isinstance(leaf, torch.device) and (leaf.type == "cuda" or leaf == _SEEN_BY_ENGINE)


def _as_fake(leaf: Any) -> Any:
    """Return a fake tensor for a real one, the GPU for what C++ takes for it, and anything else as it is."""
    if _is_gpu(leaf):
        return DEVICE
    if isinstance(leaf, Tensor) and not _is_fake(leaf):
        return torch.empty_strided(leaf.size(), leaf.stride(), dtype=leaf.dtype, device="cpu")
    return leaf


def _as_real(leaf: Any) -> Any:
    if not _is_fake(leaf) or leaf.fake_device.type != "cpu":
        return leaf
    with unset_fake_temporarily():
        return torch.empty_strided(leaf.size(), leaf.stride(), dtype=leaf.dtype, device="cpu").zero_()
