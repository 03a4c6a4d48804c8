"""Of which tensors with memory of their own a tensor consists: on the CPU, where they are the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from profl.bench.memory.recording.plain import plain_tensors

PLAIN = torch.zeros(4, 6)
SPARSE = torch.eye(4)


def sizes(tensor: Tensor) -> list[int]:
    parts = [part for part in plain_tensors(tensor) if part.nbytes]
    assert all(part.untyped_storage().data_ptr() for part in parts)
    return sorted(part.nbytes for part in parts)


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (PLAIN, [96]),
        (nn.Parameter(PLAIN), [96]),
        (PLAIN[1:, 2:], [48]),
        (SPARSE.to_sparse(), [16, 64]),
        (nn.Parameter(SPARSE.to_sparse()), [16, 64]),
        (SPARSE.to_sparse_csr(), [16, 32, 40]),
        (SPARSE.to_sparse_csc(), [16, 32, 40]),
        (SPARSE.to_sparse_bsr((2, 2)), [16, 24, 32]),
        (torch.quantize_per_tensor(PLAIN, 0.1, 0, torch.qint8), [24]),
        (
            torch.quantize_per_channel(PLAIN, torch.ones(4), torch.zeros(4, dtype=torch.int64), 0, torch.qint8),
            [24, 32, 32],
        ),
        (torch.nested.nested_tensor([torch.zeros(3), torch.zeros(5)], layout=torch.jagged), [24, 32]),
        (nn.UninitializedParameter(), []),
    ],
    ids=lambda value: str(getattr(value, "layout", value)),
)
def test_the_parts_of_every_kind(tensor: Tensor, expected: list[int]) -> None:
    assert sizes(tensor) == expected


def test_looking_at_a_parameter_adds_nothing_to_its_graph() -> None:
    parameter = nn.Parameter(SPARSE.to_sparse())
    assert not any(part.requires_grad for part in plain_tensors(parameter))


def test_what_torch_func_wraps_is_seen_through() -> None:
    seen: list[Tensor] = []

    def total(inputs: Tensor) -> Tensor:
        seen.extend(plain_tensors(inputs))
        return inputs.sum()

    torch.func.grad(total)(PLAIN)
    assert [tensor.data_ptr() for tensor in seen] == [PLAIN.data_ptr()]
