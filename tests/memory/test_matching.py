"""Which virtual GPU stands for a card, as drivers describe cards."""

from __future__ import annotations

import json

import pytest

from profl.bench.memory.comparison.matching import caveat, matching, matching_gpu
from profl.bench.memory.errors import GpuUnavailable
from profl.bench.memory.gpu.profile import Profile, profiles, resolve
from profl.bench.memory.process.probe import Prober

GIB = 1 << 30


@pytest.mark.parametrize("profile", profiles(), ids=lambda profile: profile.name)
def test_every_profile_stands_for_the_card_it_describes(profile: Profile) -> None:
    gpu = profile.gpu
    name = json.loads(gpu.cudnn_device)["deviceName"]
    found = matching(name, gpu.capability, gpu.total_bytes, gpu.multiprocessors)
    chosen = resolve(found)
    assert chosen is not None
    assert chosen.cudnn_device == gpu.cudnn_device  # one card has two names
    assert caveat(name, found) is None


@pytest.mark.parametrize(
    ("name", "capability", "gib", "multiprocessors", "gpu"),
    [
        ("NVIDIA A100-SXM4-40GB", (8, 0), 39.6, 108, "virtual:a100-40"),
        ("NVIDIA A100-SXM4-80GB", (8, 0), 79.1, 108, "virtual:a100-80"),
        ("NVIDIA H100 80GB HBM3", (9, 0), 79.6, 132, "virtual:h100"),
        ("NVIDIA H200", (9, 0), 139.7, 132, "virtual:h200"),
        ("Tesla T4", (7, 5), 14.6, 40, "virtual:t4"),
        ("NVIDIA GeForce RTX 3090", (8, 6), 23.6, 82, "virtual:rtx3090"),
        ("NVIDIA GeForce RTX 3060", (8, 6), 12.0, 28, "virtual:rtx3060"),
        ("NVIDIA GeForce RTX 4090", (8, 9), 23.5, 128, "virtual:rtx4090"),
        ("NVIDIA L4", (8, 9), 22.0, 58, "virtual:l4"),
        ("Orin", (8, 7), 61.4, 16, "virtual:jetson-orin-agx"),
        ("Orin", (8, 7), 15.3, 8, "virtual:jetson-orin-nx"),
        ("Orin", (8, 7), 7.4, 8, "virtual:jetson-orin-nano"),
    ],
)
def test_cards_by_the_names_of_their_drivers_and_about_their_memory(
    name: str, capability: tuple[int, int], gib: float, multiprocessors: int, gpu: str
) -> None:
    assert matching(name, capability, round(gib * GIB), multiprocessors) == gpu
    assert caveat(name, gpu) is None


@pytest.mark.parametrize(
    ("name", "capability", "total_bytes", "multiprocessors", "gpu"),
    [
        ("NVIDIA H100 PCIe", (9, 0), 79 * GIB, 114, "virtual:sm_90"),  # fewer multiprocessors
        ("NVIDIA GH200 480GB", (9, 0), 94 * GIB, 132, "virtual:sm_90"),  # between two cards' memories
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", (8, 0), 5 * GIB, 14, "virtual:sm_80"),
        ("NVIDIA GeForce RTX 2070 SUPER", (7, 5), 8 * GIB, 40, "virtual:sm_75"),
        ("NVIDIA B200", (10, 0), 191 * GIB, 148, "virtual:sm_100"),
    ],
)
def test_other_cards_get_their_architecture_and_a_caveat(
    name: str, capability: tuple[int, int], total_bytes: int, multiprocessors: int, gpu: str
) -> None:
    assert matching(name, capability, total_bytes, multiprocessors) == gpu
    assert resolve(gpu) is not None
    assert caveat(name, gpu) == (
        f"{gpu} is no board, and plans convolutions without workspace: those of {name} may need some"
    )


def test_a_card_of_the_same_shape_and_another_name_has_a_caveat() -> None:
    gpu = matching("NVIDIA A800-SXM4-80GB", (8, 0), 79 * GIB, 108)
    assert gpu == "virtual:a100-80"
    assert caveat("NVIDIA A800-SXM4-80GB", gpu) == (
        "virtual:a100-80 describes another card than NVIDIA A800-SXM4-80GB: NVIDIA A100 SXM4 80 GB"
    )


def test_an_estimate_has_the_caveat_of_what_it_estimates() -> None:
    assert caveat("NVIDIA H100 80GB HBM3", "estimate:h100") is None
    assert caveat("NVIDIA H100 PCIe", "estimate:h100") == (
        "estimate:h100 describes another card than NVIDIA H100 PCIe: NVIDIA H100 SXM 80 GB"
    )


def test_a_card_that_is_no_longer_supported_is_refused() -> None:
    with pytest.raises(
        GpuUnavailable, match=r"Tesla V100-SXM2-16GB: its compute capability 7\.0 is none of 7\.5, 8\.0"
    ):
        matching("Tesla V100-SXM2-16GB", (7, 0), 16 * GIB, 80)


def test_the_card_is_asked_in_its_process(prober: Prober) -> None:
    assert matching_gpu(prober, "virtual:h100") == "virtual:h100"
