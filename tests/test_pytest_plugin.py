"""The pytest plugin: what it lets pass, what it fails, what it tells, and that it costs nothing unused."""

from __future__ import annotations

import inspect
import json
from contextlib import nullcontext
from functools import partial

import pytest

from profl.bench.memory import BuiltStep, Footprint, Prober, measure
from tests.memory import built_steps

pytest_plugins = ["pytester"]

GPU = "virtual:t4"
PLUGINS = ["-p", "profl", "-p", "no:hypothesispytest", "-p", "no:cov"]
IMPORTS = """
from functools import partial
import pytest
from profl.bench.memory import GpuUnavailable
from tests.memory.built_steps import chain, returning
from tests.memory.workloads import Linear
"""


class Suite:
    """A test file of a user, run in this process with the prober that is warm already."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester

    def run(self, source: str, *arguments: str) -> pytest.RunResult:
        self.pytester.makepyfile(IMPORTS + inspect.cleandoc(source))
        return self.pytester.runpytest_inprocess(*PLUGINS, "--strict-markers", *arguments)


@pytest.fixture
def suite(pytester: pytest.Pytester, prober: Prober, monkeypatch: pytest.MonkeyPatch) -> Suite:
    monkeypatch.setattr("profl.bench.memory.Prober", lambda: nullcontext(prober))
    return Suite(pytester)


def footprint_of(prober: Prober, passes: int = 1) -> Footprint:
    return prober.measure(BuiltStep(partial(built_steps.chain, passes=passes)), GPU, least_budget=False, timeline=True)


def test_the_limit_holds_to_the_byte(suite: Suite, prober: Prober):
    peak_bytes = footprint_of(prober).peak_requested_bytes
    result = suite.run(
        f"""
        @pytest.mark.parametrize("room", [
            pytest.param(0, marks=pytest.mark.peak_memory({peak_bytes}, "{GPU}")),
            pytest.param(-1, marks=pytest.mark.peak_memory({peak_bytes - 1}, "{GPU}")),
        ])
        def test_step(memory_footprint, room):
            assert memory_footprint(partial(chain, passes=1)).peak_requested_bytes == {peak_bytes}
        """,
        "-v",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*::test_step[[]0] PASSED*", "*::test_step[[]-1] FAILED*"])


def test_a_failure_says_what_is_too_much_and_what_to_do(suite: Suite, prober: Prober):
    footprint = footprint_of(prober)
    result = suite.run(
        f"""
        @pytest.mark.peak_memory(limit="1MiB", gpu="{GPU}")
        def test_step(memory_footprint):
            memory_footprint(partial(chain, passes=1))
        """
    )
    result.assert_outcomes(failed=1)
    shown = result.stdout.str()
    peak_bytes, block = footprint.peak_requested_bytes, footprint.largest_blocks[0]
    for size, what in [
        (peak_bytes, "peak_requested_bytes"),
        (2**20, "limit"),
        (peak_bytes - 2**20, "too much"),
        *((held, category) for category, held in footprint.categories_at_peak.items()),
        (block.bytes, f"{block.category}, module {block.module}, operator {block.operator}"),
    ]:
        assert f"{size:,} bytes  {size / 2**20:>10,.2f} MiB  {what}\n" in shown
    assert f"requested memory is {peak_bytes / 2**20:.2f} MiB, above the limit of 1.00 MiB: tests.memory.bui" in shown
    raised_mib = int(shown.partition('raise the limit: @pytest.mark.peak_memory(limit="')[2].partition("MiB")[0])
    assert (raised_mib - 1) * 2**20 < peak_bytes <= raised_mib * 2**20
    assert f'(limit="{raised_mib}MiB", quantity="requested", gpu="{GPU}")' in shown


def test_a_marked_test_must_measure(suite: Suite):
    result = suite.run(
        """
        @pytest.mark.peak_memory("1GiB")
        def test_forgotten(memory_footprint):
            pass

        @pytest.mark.peak_memory("1GiB", gpu="virtual:abacus")
        def test_swallowed(memory_footprint):
            with pytest.raises(GpuUnavailable):
                memory_footprint(chain)

        def test_unmarked(memory_footprint):
            pass
        """
    )
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines(
        ["marked peak_memory, but nothing was measured: call the fixture memory_footprint*"] * 2
    )


def test_what_cannot_be_measured_fails_with_the_reason(suite: Suite):
    result = suite.run(
        f"""
        @pytest.mark.peak_memory("1GiB", gpu="virtual:abacus")
        def test_unknown_gpu(memory_footprint):
            memory_footprint(chain)

        @pytest.mark.peak_memory("1GiB", gpu="{GPU}")
        def test_wrong_step(memory_footprint):
            memory_footprint(partial(returning, what="three"))
        """
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        ["E  *UnknownGpu: unknown GPU 'virtual:abacus': choose one of *", "E *returned a tuple of 3*"]
    )
    result.stdout.no_fnmatch_line("*probe.py*")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "peak_memory() missing 1 required positional argument: 'limit'"),
        ("'1GiB', gpus='virtual:t4'", "peak_memory() got an unexpected keyword argument 'gpus'"),
        ("'300'", "'300' has no unit: use one of *"),
        ("0", "limit cannot be 0: give an amount of memory, as in '300MiB', or whole bytes above 0"),
        ("True", "limit cannot be True: *"),
        ("'1GiB', gpu=0", "gpu cannot be 0: give its name, as in 'virtual:t4'"),
        (
            "'1GiB', quantity='peak'",
            "unknown quantity 'peak': choose one of requested, allocated, reserved, least_budget, *",
        ),
    ],
)
def test_wrong_arguments_are_an_error_of_their_test_alone(suite: Suite, arguments: str, message: str):
    marked = f"@pytest.mark.peak_memory({arguments})\ndef test_step(memory_footprint): raise NotImplementedError"
    result = suite.run(f"def test_before(): pass\n{marked}\ndef test_behind(): pass")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*ERROR at setup of test_step*", f"marker peak_memory: {message}"])
    result.stdout.no_fnmatch_line("*pytest_plugin.py*")
    result.stdout.no_fnmatch_line("*During handling*")
    result.assert_outcomes(passed=2, errors=1)


def test_markers_that_name_two_gpus_are_refused(suite: Suite):
    result = suite.run(
        """
        @pytest.mark.peak_memory("1GiB", gpu="virtual:t4")
        @pytest.mark.peak_memory("1GiB", gpu="virtual:h100", quantity="reserved")
        def test_step(memory_footprint):
            memory_footprint(chain)
        """
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["its markers peak_memory name several GPUs, *h100*t4*: name one"])


def test_every_quantity_has_a_limit_of_its_own_and_the_closest_counts(suite: Suite):
    result = suite.run(
        f"""
        pytestmark = pytest.mark.peak_memory("1B", gpu="{GPU}")

        @pytest.mark.peak_memory("1GiB")
        @pytest.mark.peak_memory("1GiB", quantity="least_budget")
        def test_fits(memory_footprint):
            footprint = memory_footprint(Linear())
            assert footprint.environment.gpu == "{GPU}"
            assert footprint.least_budget_bytes >= footprint.peak_requested_bytes

        @pytest.mark.peak_memory("1GiB", gpu="{GPU}")
        @pytest.mark.peak_memory("1kB", quantity="reserved")
        def test_does_not(memory_footprint):
            assert memory_footprint(Linear()).least_budget_bytes is None

        @pytest.mark.peak_memory("1GiB", quantity="nvml_used")
        def test_unknown(memory_footprint):
            memory_footprint(Linear())
        """
    )
    shown = result.stdout.str()
    result.assert_outcomes(passed=1, failed=2)
    assert "reserved memory is" in shown
    assert "nvml_used memory is unknown" in shown


def test_bytes_stand_beside_time_and_are_compared(suite: Suite, prober: Prober, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # where tests run side by side nothing is timed
    before, after = footprint_of(prober), footprint_of(prober, passes=2)
    source = """
        def test_step(memory_footprint, benchmark):
            memory_footprint(partial(chain, passes={passes}), "{gpu}")
            assert benchmark.pedantic(lambda: 1, rounds=3) == 1
        """
    first = suite.run(source.format(passes=1, gpu=GPU), "--benchmark-save=before")
    second = suite.run(source.format(passes=2, gpu=GPU), "--benchmark-compare", "--benchmark-json=after.json")
    first.assert_outcomes(passed=1)
    second.assert_outcomes(passed=1)
    (entry,) = json.loads((suite.pytester.path / "after.json").read_text())["benchmarks"]
    assert entry["extra_info"] == {
        name: value
        for name, value in after.to_dict().items()
        if name.endswith("_bytes") and value is not None  # neither the least budget nor NVML was asked
    }
    change = after.peak_requested_bytes / before.peak_requested_bytes - 1
    second.stdout.re_match_lines(
        [
            "=+ peak memory =+",
            r"test +GPU +quantity +peak \(MiB\) +limit \(MiB\) +change +median time \(ms\)",
            rf".*::test_step +{GPU} +requested +{after.peak_requested_bytes / 2**20:.2f} +none +\{change:+.2%} +0\.\d+",
        ]
    )
    assert "change" not in first.stdout.str().partition("peak memory")[2]


def test_steps_of_one_test_are_told_apart_and_the_most_counts(suite: Suite, prober: Prober):
    sizes = [footprint_of(prober, passes).peak_requested_bytes for passes in (1, 2)]
    result = suite.run(
        f"""
        @pytest.mark.peak_memory(1000, gpu="{GPU}")
        def test_steps(memory_footprint):
            for passes in (1, 2):
                memory_footprint(partial(chain, passes=passes))
        """
    )
    result.assert_outcomes(failed=1)
    for passes in (1, 2):
        result.stdout.fnmatch_lines([f"requested memory is *: tests.memory.built_steps.chain(passes={passes}) on *"])
    result.stdout.re_match_lines([rf".*::test_steps +{GPU} +requested +{max(sizes) / 2**20:.2f} +0\.00"])


def test_a_function_of_the_test_file_is_measured_in_a_worker_of_its_own(pytester: pytest.Pytester):
    pytester.makepyfile(
        """
        import pytest
        import torch
        from torch import nn

        def build(device):
            module = nn.Linear(512, 512, bias=False).to(device)
            optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
            inputs = torch.zeros(8, 512, device=device)

            def step():
                module(inputs).sum().backward()
                optimizer.step()
                optimizer.zero_grad()

            return module, optimizer, inputs, step

        @pytest.mark.peak_memory(limit="30MiB", gpu="virtual:t4")
        def test_step(memory_footprint):
            assert memory_footprint(build).categories_at_peak["parameters"] == 512 * 512 * 4
            assert not torch.cuda.is_initialized()

        @pytest.mark.peak_memory(limit="1MiB", gpu="virtual:t4", quantity="parameter")
        def test_step_again(memory_footprint):
            memory_footprint(build)
        """
    )
    result = pytester.runpytest_subprocess(*PLUGINS, "-p", "no:benchmark")
    result.assert_outcomes(passed=2)
    result.stdout.re_match_lines([r".*::test_step +virtual:t4 +requested +\d+\.\d\d +30\.00"])


def test_a_run_that_measures_nothing_pays_nothing(pytester: pytest.Pytester):
    pytester.makepyfile(
        """
        import sys

        def test_imports():
            ours = {name for name in sys.modules if name.partition(".")[0] == "profl"}
            assert ours <= {"profl", "profl.bench", "profl.bench.pytest_plugin"}
            assert not {"torch", "pandas", "numpy"} & set(sys.modules)
        """
    )
    result = pytester.runpytest_subprocess(*PLUGINS)
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*peak memory*")


def test_the_default_gpu_is_that_of_measure():
    from profl.bench import pytest_plugin

    assert inspect.signature(measure).parameters["gpu"].default == pytest_plugin._DEFAULT_GPU
