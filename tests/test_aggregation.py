import doctest
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from profl.bench import aggregation
from profl.bench.aggregation import Update, owner_mean
from tests.oracles.naive_mean import naive_owner_mean


def upload(regions=None, **state):
    return Update(state, examples=1, regions=regions or {})


def test_what_the_server_has_no_tensor_for_is_refused():
    """It would be lost without a word."""
    state = {"w": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"an update holds 'x\.w', and the global state no tensor of that name"):
        owner_mean(state, [upload(w=torch.ones(2)), Update({"x.w": torch.ones(2)}, 1)])
    assert state["w"].tolist() == [0, 0]


def test_five_widths_of_a_layer_of_64_channels():
    # HeteroFL: users at widths 1 to 1/16 hold the values 1 to 5.
    state = {"w": torch.full((64,), -1.0)}
    owner_mean(state, [upload(w=torch.full((64 // 2**user,), user + 1.0)) for user in range(5)])
    assert [state["w"][i].item() for i in (0, 5, 10, 20, 63)] == [3.0, 2.5, 2.0, 1.5, 1.0]


def test_four_depths():
    # DepthFL: users of depth 1 to 4 hold the values 1 to 4 in every stage that they have.
    state = {f"stages.{stage}": torch.zeros(2) for stage in range(4)}
    updates = [upload(**{f"stages.{s}": torch.full((2,), user + 1.0) for s in range(user + 1)}) for user in range(4)]
    owner_mean(state, updates)
    assert [value.tolist() for value in state.values()] == [[2.5, 2.5], [3.0, 3.0], [3.5, 3.5], [4.0, 4.0]]


def test_if_everyone_holds_everything_it_is_the_plain_mean():
    generator = torch.Generator().manual_seed(0)
    held = torch.randn(5, 3, 4, generator=generator)
    state = {"w": torch.randn(3, 4, generator=generator)}
    owner_mean(state, [upload(w=part) for part in held])
    assert torch.equal(state["w"], held.double().mean(dim=0).float())


@pytest.mark.parametrize("by_examples", [False, True])
def test_whole_tensors_are_averaged_as_parts_are_to_the_bit(by_examples):
    generator = torch.Generator().manual_seed(0)
    uploads = [
        Update(
            {
                "w": torch.randn(300, 7, generator=generator) * 10.0**device,
                "zeros": torch.full((3,), -0.0),
                "half": torch.randn(50, generator=generator).bfloat16(),
                "steps": torch.tensor(3 + device),
            },
            examples=31 * device,
        )
        for device in range(6)
    ]
    # What all hold in whole, and the same as a region of all elements.
    regions = {name: tuple(map(torch.arange, value.shape)) for name, value in uploads[0].state.items() if value.ndim}
    states = [{name: torch.ones_like(value) for name, value in uploads[0].state.items()} for _ in range(2)]
    owner_mean(states[0], uploads, by_examples)
    owner_mean(states[1], [replace(upload, regions=regions) for upload in uploads], by_examples)
    for name in states[0]:
        bits = [state[name].reshape(-1).view(torch.uint8) for state in states]  # -0.0 is not 0.0
        assert torch.equal(*bits), name


def test_weights_of_devices_are_equal_whatever_their_examples():
    state = {"w": torch.zeros(1)}
    owner_mean(state, [Update({"w": torch.tensor([1.0])}, 1), Update({"w": torch.tensor([3.0])}, 1000)])
    assert state["w"].item() == 2.0


def test_elements_nobody_holds_keep_their_value():
    before = {"w": torch.randn(8, 6), "b": torch.randn(8), "other": torch.randn(3)}
    state = {name: value.clone() for name, value in before.items()}
    owner_mean(state, [upload(w=torch.zeros(4, 2), b=torch.zeros(4)), upload(w=torch.zeros(2, 3), b=torch.zeros(2))])
    held = torch.zeros(8, 6, dtype=torch.bool)
    held[:4, :2] = True
    held[:2, :3] = True
    assert torch.equal(state["w"], torch.where(held, torch.zeros(()), before["w"]))
    assert torch.equal(state["b"], torch.where(torch.arange(8) < 4, torch.zeros(()), before["b"]))
    assert torch.equal(state["other"], before["other"])


def test_the_documented_region_is_what_happens():
    outcome = doctest.testmod(aggregation)
    assert (outcome.failed, outcome.attempted) == (0, 5)


def test_a_window_that_wraps_around():
    # FedRolex, rate 1/16 of 64 channels: round 1 trains channels 63, 0, 1, 2.
    before = torch.randn(64)
    state = {"w": before.clone()}
    window = torch.tensor([63, 0, 1, 2])
    owner_mean(state, [upload({"w": (window,)}, w=torch.tensor([10.0, 20.0, 30.0, 40.0]))])
    assert state["w"][window].tolist() == [10.0, 20.0, 30.0, 40.0]
    assert torch.equal(state["w"][3:63], before[3:63])


@pytest.mark.parametrize("seed", range(5))
def test_overlapping_regions_against_one_element_at_a_time(seed):
    draw = np.random.default_rng(seed)
    before = draw.standard_normal((6, 5, 3)).astype(np.float32)
    uploads = []
    for _ in range(4):
        sizes = [draw.integers(1, size + 1) for size in before.shape]
        indices = [draw.permutation(n)[:k] for n, k in zip(before.shape, sizes, strict=True)]
        uploads.append((draw.standard_normal(sizes).astype(np.float32), indices))
    state = {"w": torch.from_numpy(before.copy())}
    updates = [
        upload({"w": tuple(map(torch.from_numpy, indices))}, w=torch.from_numpy(values)) for values, indices in uploads
    ]
    owner_mean(state, updates)
    np.testing.assert_array_equal(state["w"].numpy(), naive_owner_mean(before, uploads))


def test_what_a_mask_leaves_out_is_neither_counted_nor_read():
    state = {"w": torch.tensor([1.0, 2.0, 3.0, 4.0])}
    masked = Update({"w": torch.tensor([5.0, math.nan, 7.0])}, 3, masks={"w": torch.tensor([True, False, True])})
    owner_mean(state, [masked, upload(w=torch.tensor([1.0, 8.0]))])
    assert state["w"].tolist() == [3.0, 8.0, 7.0, 4.0]
    assert masked.uploaded_bytes == 2 * 4
    state = {"w": torch.zeros(3)}
    owner_mean(state, [masked, Update({"w": torch.ones(3)}, 1)], by_examples=True)
    assert state["w"].tolist() == [4.0, 1.0, 5.5]


def test_the_servers_tensors_change_in_place_and_the_uploads_do_not():
    state = {"w": torch.zeros(4)}
    tensor, part = state["w"], torch.ones(2)
    owner_mean(state, [upload(w=part)])
    assert state["w"] is tensor
    assert tensor.tolist() == [1, 1, 0, 0]
    assert part.tolist() == [1, 1]


def test_integers_are_truncated_and_keep_their_type():
    state = {"steps": torch.tensor(0)}
    owner_mean(state, [upload(steps=torch.tensor(3)), upload(steps=torch.tensor(4))])
    assert state["steps"].dtype == torch.int64
    assert state["steps"].item() == 3


def test_small_values_survive_beside_large_ones():
    # Summed in float32, in this order, both ones would vanish.
    state = {"w": torch.zeros(1)}
    owner_mean(state, [upload(w=torch.tensor([value])) for value in (1e8, 1.0, 1.0, -1e8)])
    assert state["w"].item() == 0.5


def test_uploaded_bytes_are_those_of_the_values():
    rows = torch.arange(2)
    update = upload({"w": (rows, rows)}, w=torch.zeros(2, 2), steps=torch.tensor(7))
    assert update.uploaded_bytes == 4 * 4 + 8


def test_the_bytes_of_an_update_are_those_of_what_is_sent():
    state = {"weight": torch.zeros(10, 10)}
    assert Update(state, examples=1).uploaded_bytes == 400
    assert Update(state, examples=1, sent={"numbers": torch.zeros(3)}).uploaded_bytes == 12
