"""cuDNN's recurrent layers on a virtual GPU: their sizes, and the steps that run them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import pytest
from torch import nn

from profl.bench.memory import BuiltStep, Prober
from tests.memory.recurrent_steps import CLASSES, HIDDEN, LENGTHS, STEPS, WIDTH, WORDS, layers
from tests.memory.unwatched import PEAKS, Unwatched

GPU = "virtual:h100"
RELU, TANH, LSTM, GRU = 0, 1, 2, 3
STANDARD, PERSISTENT, SMALL = 0, 1, 3
FLOAT, DOUBLE, HALF, BFLOAT16 = 0, 1, 2, 9
CARD = Path(__file__).parents[1] / "hardware" / "recurrent_h100.csv"


@dataclass(frozen=True)
class Case:
    """Recurrent layers as cuDNN is told of them, and the bytes that it computes."""

    gpu: str
    cell: int
    inputs: int
    hidden: int
    lengths: list[int]
    weights: int
    reserve: int
    workspace: int
    inference_workspace: int
    layers: int = 1
    directions: int = 1
    projection: int = 0
    dropout: float = 0.0
    algorithm: int = STANDARD
    type: int = FLOAT
    packed: bool = False


# fmt: off
# As libcudnn 9.24 computes for devices of these capabilities.
CASES = [
    Case("h100", LSTM, 14, 8, 3 * [5], 3_072, 2_656, 8_396_800, 8_395_936),
    Case("h100", LSTM, 128, 128, 8 * [16], 528_384, 327_936, 10_387_776, 10_387_776, algorithm=SMALL),
    Case("h100", LSTM, 300, 600, 20 * [50], 20_198_400, 26_400_256, 51_097_632, 51_097_632, layers=2),
    Case("a100", LSTM, 300, 256, 20 * [50], 4_390_912, 11_264_256, 11_104_544, 11_104_544, layers=2),
    Case("h100", LSTM, 100, 256, 64 * [80], 9_240_576, 115_998_976, 121_357_056, 121_357_056,
         layers=2, directions=2, dropout=0.5),
    Case("h100", LSTM, 100, 128, 20 * [35], 671_744, 5_017_856, 19_876_704, 19_876_704, layers=2, projection=64),
    Case("h100", LSTM, 8, 256, [100, 80, 50, 6], 3_072_000, 5_208_832, 29_737_216, 29_737_216,
         layers=3, projection=128, dropout=0.5, packed=True),
    Case("h100", GRU, 64, 64, 16 * [50], 497_664, 5_325_056, 39_895_424, 39_248_256,
         layers=2, directions=2, algorithm=SMALL),
    Case("h100", GRU, 256, 512, 32 * [64], 8_669_184, 42_205_440, 45_842_944, 45_842_944,
         layers=3, dropout=0.25, type=HALF),
    Case("a100", GRU, 300, 300, 8 * [40], 2_167_200, 2_304_256, 21_500_736, 21_500_736, directions=2, type=BFLOAT16),
    Case("h100", TANH, 28, 128, 100 * [28], 80_896, 1_433_856, 28_040_736, 17_589_536, algorithm=SMALL),
    Case("t4", TANH, 28, 128, 100 * [28], 425_984, 8_601_856, 29_308_960, 24_176_160, layers=2, type=DOUBLE),
    Case("h100", LSTM, 100, 128, [40, 31, 9, 2], 942_080, 420_096, 18_247_936, 18_247_936, directions=2, packed=True),
    Case("a100", GRU, 100, 256, [60, 33, 33, 12, 1], 6_930_432, 3_739_392, 41_986_304, 41_986_304,
         layers=2, directions=2, dropout=0.3, packed=True),
    Case("h100", TANH, 300, 100, 55 * [200], 322_400, 22_000_256, 74_920_608, 47_684_576, layers=3),
    Case("t4", TANH, 300, 100, 55 * [200], 322_400, 22_000_256, 74_656_608, 47_684_576, layers=3),
    Case("a100", RELU, 300, 64, 20 * [150], 126_976, 2_304_256, 12_636_448, 5_293_088, layers=2),
    Case("a100", RELU, 300, 64, [150, 149, 2], 63_488, 115_840, 263_040, 102_528, layers=2, type=HALF, packed=True),
    Case("h100", LSTM, 64, 32, [400, 300, 20], 50_176, 461_056, 8_808_960, 8_808_960, packed=True),
]
# fmt: on


def lengths(batch: int, longest: int, steps: int) -> list[int]:
    """Return so many lengths, longest first, that are so many steps together."""
    found = [longest]
    for rest in reversed(range(batch - 1)):
        found.append(min(longest, steps - sum(found) - rest))
    return found


def cases_of_card() -> list[tuple[Case, int]]:
    """Return what the H100 was asked, and the states of dropout that it told with each."""
    algorithms = {"standard": STANDARD, "persistent": PERSISTENT, "small": SMALL}
    cells = {"relu": RELU, "tanh": TANH, "lstm": LSTM, "gru": GRU}
    types = {"float32": FLOAT, "float64": DOUBLE, "float16": HALF, "bfloat16": BFLOAT16}
    found = []
    for row in csv.DictReader(line for line in CARD.read_text().splitlines() if not line.startswith("#")):
        shape = {name: int(row[name]) for name in ("inputs", "hidden", "projection", "layers", "directions")}
        sizes = {name: int(row[name]) for name in ("weights", "workspace", "reserve", "inference_workspace")}
        case = Case(
            "h100",
            cells[row["cell"]],
            **shape,
            **sizes,
            lengths=lengths(*(int(row[name]) for name in ("batch", "longest", "steps"))),
            dropout=float(row["dropout"]),
            algorithm=algorithms[row["algorithm"]],
            type=types[row["type"]],
            packed=row["padded"] == "0",
        )
        found.append((case, int(row["states"])))
    return found


PROGRAM = """
import ctypes, json, sys
from profl.bench.memory.gpu.build import build
from profl.bench.memory.gpu.driver import Setup, load
from profl.bench.memory.gpu.installation import find_installation
from profl.bench.memory.gpu.profile import resolve

load(Setup(resolve("virtual:" + sys.argv[1]), build(), find_installation().cudnn))
cudnn = ctypes.CDLL(str(build().driver))

def made(name):
    descriptor = ctypes.c_void_p()
    assert getattr(cudnn, f"cudnnCreate{name}Descriptor")(ctypes.byref(descriptor)) == 0
    return descriptor

def sizes(function, *arguments, count=1):
    found = [ctypes.c_size_t() for _ in range(count)]
    status = getattr(cudnn, function)(*arguments, *map(ctypes.byref, found))
    assert status == 0, f"{function}: {status}"
    return [size.value for size in found]

told = []
for case in json.load(sys.stdin):
    dropout, layers, data = made("Dropout"), made("RNN"), made("RNNData")
    cudnn.cudnnRestoreDropoutDescriptor(dropout, None, ctypes.c_float(case["dropout"]), None, 0, 0)
    assert 0 == cudnn.cudnnSetRNNDescriptor_v8(
        layers, case["algorithm"], case["cell"], 2, case["directions"] - 1, 0, case["type"], 0, 0, case["inputs"],
        case["hidden"], case["projection"] or case["hidden"], case["layers"], dropout, 0 if case["packed"] else 1)
    lengths = case["lengths"]
    cudnn.cudnnSetRNNDataDescriptor(
        data, case["type"], 1 if case["packed"] else 0, max(lengths), len(lengths), case["inputs"],
        (ctypes.c_int * len(lengths))(*lengths), None)
    training, inference = (
        sizes("cudnnGetRNNTempSpaceSizes", None, layers, mode, data, count=2) for mode in (1, 0))
    told.append({
        "weights": sizes("cudnnGetRNNWeightSpaceSize", None, layers)[0],
        "workspace": training[0], "reserve": training[1],
        "inference_workspace": inference[0], "inference_reserve": inference[1],
        "states": sizes("cudnnDropoutGetStatesSize", None)[0],
    })
json.dump(told, sys.stdout)
"""


def told(gpu: str, cases: list[Case]) -> list[dict[str, int]]:
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, gpu],
        input=json.dumps([asdict(case) for case in cases]),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


@pytest.mark.parametrize("gpu", sorted({case.gpu for case in CASES}))
def test_the_sizes_are_those_of_the_real_library(gpu: str) -> None:
    cases = [case for case in CASES if case.gpu == gpu]
    for case, sizes in zip(cases, told(gpu, cases), strict=True):
        assert_equal(sizes, case)


def test_the_sizes_are_those_of_a_card() -> None:
    cases, states = zip(*cases_of_card(), strict=True)
    assert len(cases) > 200
    for case, states_bytes, sizes in zip(cases, states, told("h100", list(cases)), strict=True):
        assert_equal(sizes, case)
        assert sizes["states"] == states_bytes


def assert_equal(sizes: dict[str, int], case: Case) -> None:
    assert sizes["inference_reserve"] == 0
    for name in ("weights", "reserve", "workspace", "inference_workspace"):
        assert sizes[name] == getattr(case, name), (name, case)


def test_sequences_of_other_lengths_that_are_padded_are_refused() -> None:
    """PyTorch never asks for their sizes, which are not known."""
    case = Case("h100", LSTM, 14, 8, [5, 3], 0, 0, 0, 0)
    with pytest.raises(AssertionError, match="cudnnGetRNNTempSpaceSizes: 3000"):
        told("h100", [case])


@pytest.mark.parametrize(("gpu", "threads"), [("a100", 108 * 2048), ("t4", 40 * 1024)])
def test_the_states_of_dropout_grow_with_the_device(gpu: str, threads: int) -> None:
    assert told(gpu, CASES[:1])[0]["states"] == 24 * threads


def test_a_gpu_without_workspaces_has_none_here() -> None:
    (sizes,) = told("sm_90", CASES[:1])
    assert sizes["workspace"] == sizes["inference_workspace"] == 0
    assert sizes["reserve"] == CASES[0].reserve


# --- steps ---


@pytest.mark.parametrize("name", STEPS)
def test_the_bytes_are_pytorchs_own_and_the_formula_is_told(prober: Prober, name: str) -> None:
    own = prober.run(Unwatched(STEPS[name]), GPU, lambda _: None)
    footprint = prober.measure(BuiltStep(STEPS[name]), GPU, least_budget=False)
    assert tuple(getattr(footprint, f"peak_{peak}_bytes") for peak in PEAKS) == own
    assert any("recurrent layer of cuDNN" in caveat for caveat in footprint.caveats)


def test_a_text_classifier_holds_what_arithmetic_says(prober: Prober) -> None:
    """Weights, gradients and momentum; the reserve of the words that there are, padding left out, is saved."""
    footprint = prober.measure(BuiltStep(STEPS["texts"]), GPU, least_budget=False)
    reader = 2 * 4 * HIDDEN * (WIDTH + HIDDEN + 2)
    parameters = 4 * (WORDS * WIDTH + reader + 2 * HIDDEN * CLASSES + CLASSES)
    assert footprint.parameter_bytes == parameters
    assert footprint.categories_at_peak["optimizer state"] == parameters
    reserve = 256 + 4 * 5 * 2 * HIDDEN * sum(LENGTHS)
    assert reserve < footprint.categories_at_peak["activations"] < 1.3 * reserve


def test_dropout_costs_states_a_mask_and_a_copy_in_the_workspace(prober: Prober) -> None:
    plain, dropping = (
        prober.measure(
            BuiltStep(partial(layers, kind=nn.LSTM, num_layers=2, dropout=dropout)), GPU, least_budget=False
        ).peak_requested_bytes
        for dropout in (0.0, 0.5)
    )
    states, elements = 24 * 132 * 2048, len(LENGTHS) * max(LENGTHS) * HIDDEN
    assert dropping - plain == states + elements // 8 + 4 * elements
