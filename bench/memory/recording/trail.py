"""Tell the allocator's log which module asks for memory, without changing what it asks for.

In forward, hooks of ``torch.nn`` stamp the log with the path of the module that runs. For backward, the path is
written onto the nodes of the autograd graph, from which the allocator itself copies it into the log: no hook runs in
backward and no tensor passes through Python.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch._guards import TracingContext

from profl.bench.memory.recording.event_log import GRAPH_NODE, STEP
from profl.bench.memory.recording.plain import plain_tensors

ROOT = "(root)"
"""Path of the whole module, which PyTorch names by an empty string."""

# Where autograd keeps the traceback that its anomaly mode shows, and the allocator looks for it.
_TRACEBACK = "traceback_"


class _Thread(threading.local):
    """What one thread has seen: autograd numbers its nodes by thread, and may compute forward passes again."""

    def __init__(self) -> None:
        self.stamps_before: list[str] = []
        self.turns: list[int] = [0]
        self.stamps: list[str] = [STEP]


class ModuleTrail:
    """Stamps allocations with the path of the module that runs, while used as a context manager.

    Hooks are global ones, as PyTorch takes other paths through modules that have hooks of their own. A module that is
    no part of ``module`` and is called by none that is known, such as a copy, has its class's name for its path.
    Nothing that a step makes lives longer for being known here.

    Parameters
    ----------
    on_stranger
        Told of every such module as it is first called.
    """

    def __init__(self, module: nn.Module, on_stranger: Callable[[nn.Module], None] = lambda module: None) -> None:
        self._paths: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
        self._owners: dict[int, tuple[ReferenceType[Tensor], str]] = {}
        self._on_stranger = on_stranger
        self._thread = _Thread()
        self._know(module, "")

    def __enter__(self) -> Self:
        register = nn.modules.module
        self._hooks = (
            register.register_module_forward_pre_hook(self._enter_module),
            register.register_module_forward_hook(self._leave_module, always_call=True),
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._paths.clear()
        self._owners.clear()

    def owner(self, parameter: Tensor) -> str:
        """Return the path of the first module that holds the parameter; ``STEP`` if none is known to."""
        known, path = self._owners.get(id(parameter), (None, STEP))
        return path if known is None or known() is parameter else STEP

    def path(self, module: nn.Module) -> str:
        """Return the path of a module; ``STEP`` if it is not known."""
        return self._paths.get(module, STEP)

    def _know(self, module: nn.Module, name: str) -> None:
        for path, child in module.named_modules():
            self._paths.setdefault(child, ".".join(filter(None, (name, path))) or ROOT)
        for parameter, path in parameter_owners(module).items():
            if self.owner(parameter) == STEP:
                whole = path if not name else ".".join((name, path)).removesuffix(f".{ROOT}")
                self._owners[id(parameter)] = ref(parameter), whole

    def annotate_graph(self, output: Tensor) -> list[Tensor]:
        """Write onto every node that ``output`` was computed by which module made it; return what the nodes save.

        Nodes that were annotated before, for another backward pass, are left out.
        """
        saved: list[Tensor] = []
        seen: set[Any] = set()
        coming: list[Any] = [output.grad_fn]
        while coming:
            node = coming.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            lines = node.metadata.get(_TRACEBACK, [])  # of anomaly mode
            if lines and lines[-1].startswith(GRAPH_NODE):
                continue
            node.metadata[_TRACEBACK] = [*lines, GRAPH_NODE + self._maker(node)]
            saved.extend(_saved_by(node))
            coming.extend(following for following, _ in node.next_functions)
        return saved

    def _maker(self, node: Any) -> str:
        if type(node).__name__ == "AccumulateGrad":
            return self.owner(node.variable)
        turn = bisect_right(self._thread.turns, node._sequence_nr()) - 1
        return self._thread.stamps[turn]

    def _enter_module(self, module: nn.Module, _: object) -> None:
        if is_compiling():
            return
        if module not in self._paths and not self._thread.stamps_before and _holds_something(module):
            self._know(module, type(module).__name__)
            self._on_stranger(module)
        if module in self._paths:
            self._thread.stamps_before.append(torch.cuda.memory._get_memory_metadata())
            self._stamp(self._paths[module])

    def _leave_module(self, module: nn.Module, _: object, __: object) -> None:
        if not is_compiling() and module in self._paths:
            self._stamp(self._thread.stamps_before.pop())

    def _stamp(self, path: str) -> None:
        torch.cuda.memory._set_memory_metadata(path)
        self._thread.turns.append(torch._C._autograd._get_sequence_nr())
        self._thread.stamps.append(path)


def is_compiling() -> bool:
    """Whether torch.compile looks at the step, which does not run: what it makes must not depend on who watches."""
    return torch.compiler.is_compiling() or TracingContext.try_get() is not None


def _saved_by(node: Any) -> Iterator[Tensor]:
    """Yield the tensors that a node of the graph keeps, as they lie there: nothing is unpacked or computed again."""
    for name in _saved_names(type(node)):
        try:
            kept = getattr(node, name)
        except RuntimeError:  # used up
            continue
        for each in kept if isinstance(kept, (list, tuple)) else (kept,):
            tensor = getattr(each, "data", None)
            if isinstance(tensor, Tensor):
                yield tensor


# A function of the program's own may be a class that holds on to tensors: it must be free to go.
_names: WeakKeyDictionary[type, tuple[str, ...]] = WeakKeyDictionary()


def _saved_names(kind: type) -> tuple[str, ...]:
    if kind not in _names:
        _names[kind] = tuple(name for name in dir(kind) if name.startswith("_raw_saved_"))
    return _names[kind]


def _holds_something(module: nn.Module) -> bool:
    return any(True for _ in (*module.parameters(), *module.buffers()))


def parameter_owners(module: nn.Module) -> Mapping[Tensor, str]:
    """Return the path of the first module that holds each parameter."""
    owners: dict[Tensor, str] = {}
    for path, child in module.named_modules():
        for parameter in child.parameters(recurse=False):
            owners.setdefault(parameter, path or ROOT)
    return owners


def stage_parameter_bytes(module: nn.Module) -> dict[str, int]:
    """Return the bytes of the parameters of each stage: of every child, of a list's entries, and of the rest.

    Returns
    -------
    dict
        By the stage's path, in the order of the children; ``ROOT`` comes last.
    """
    children: dict[str, nn.Module] = {}
    for name, child in module.named_children():
        if isinstance(child, (nn.ModuleList, nn.ModuleDict)):
            children.update({f"{name}.{entry}": part for entry, part in child.named_children()})
        else:
            children[name] = child
    counted: set[Tensor] = set()
    sizes: dict[str, int] = {}
    for name, part in [*children.items(), (ROOT, module)]:
        own = set(part.parameters()) - counted
        counted |= own
        sizes[name] = sum(part.nbytes for parameter in own for part in plain_tensors(parameter))
    return sizes
