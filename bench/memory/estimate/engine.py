"""The order in which autograd's engine works, where it runs in the program's thread and not in its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

Run = Callable[..., Sequence[Tensor | None]]


def numbering_apart(run: Run) -> Run:
    """Return the engine's ``run``, with numbers for the nodes that it makes as if by a thread of its own.

    Every node has a number, counted by thread, and of those that are ready the largest comes first. With
    ``create_graph`` the engine makes nodes: on a GPU in its thread, whose numbers are far behind the program's.
    """
    made = 0

    @wraps(run)
    def running(
        outputs: Sequence[Tensor], gradients: object, retain_graph: bool, create_graph: bool, *more: object, **how: Any
    ) -> Sequence[Tensor | None]:
        nonlocal made
        begin = torch._C._autograd._get_sequence_nr()
        results = run(outputs, gradients, retain_graph, create_graph, *more, **how)
        if create_graph:
            end = torch._C._autograd._get_sequence_nr()
            for node in [*_nodes(results), *_nodes(_gradients_of_leaves(outputs))]:
                if begin <= node._sequence_nr() < end:
                    # Twice, as the program's own numbers go on here by those that were made.
                    node._set_sequence_nr(node._sequence_nr() - begin + 2 * made)
            made += end - begin
        return results

    return running


def _nodes(tensors: Iterable[Tensor | None]) -> Iterator[Any]:
    """Yield every node of the graph that ends in these tensors."""
    ahead = [tensor.grad_fn for tensor in tensors if isinstance(tensor, Tensor)]
    seen: set[Node] = set()
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            ahead.extend(following for following, _ in node.next_functions)


def _gradients_of_leaves(tensors: Iterable[Tensor]) -> list[Tensor | None]:
    return [node.variable.grad for node in _nodes(tensors) if hasattr(node, "variable")]
