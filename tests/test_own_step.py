"""A training step of the user's own, named on the command line."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from profl import fit
from profl.bench.cli import main
from profl.bench.cli.exit_codes import ExitCode, code_of
from profl.bench.cli.own_step import own_arguments
from profl.bench.errors import InputError
from profl.bench.fit import step_at
from profl.bench.memory.api import BuiltStep
from profl.bench.memory.errors import MeasurementFailed, UnusableStep
from profl.bench.memory.named import NamedBuild, _imported
from profl.bench.memory.process.probe import Prober
from profl.bench.memory.recording.measurement import NOTHING
from profl.bench.operations import Counted

pytestmark = pytest.mark.usefixtures("commands_are_warm")

GPU = "virtual:sm_90"  # whose convolutions take no workspace
CPU = torch.device("cpu")
STEP = """
import torch
from torch import nn
from beside import FEATURES

SIZE = 3

def build(device, batch_size=4, hidden=8):
    module = nn.Sequential(nn.Linear(FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, 2)).to(device)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    inputs = torch.zeros(batch_size, FEATURES, device=device)

    def step():
        module(inputs).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return module, optimizer, inputs, step
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("FEATURES = 65536\n")
    path = tmp_path / "my_step.py"
    path.write_text(STEP)
    return path


def profl(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_a_file_builds_its_step_with_what_lies_beside_it(script: Path):
    named = NamedBuild.parse(f"{script}:build", {"hidden": 5})
    module, _, inputs, step = named(CPU, batch_size=2)
    step()
    assert inputs.shape == (2, 65536)
    assert module[0].out_features == 5
    assert str(named) == BuiltStep(named).key == f"{script}:build(hidden=5)"


def test_a_module_is_found_where_the_user_is(script: Path, monkeypatch: pytest.MonkeyPatch):
    (script.parent / "package").mkdir()
    script.rename(script.parent / "package" / "mine.py")
    monkeypatch.chdir(script.parent)
    assert NamedBuild.parse("package.mine:build")(CPU)[2].shape == (4, 65536)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("my_step.py", "names no function that builds a step: write FILE.py:FUNCTION"),
        (":build", "names no function"),
        ("my_step.py:", "names no function"),
        ("my_step.py:build()", "names no function"),
        ("nowhere.py:build", "there is no file nowhere.py"),
        ("my-package.step:build", "'my-package.step' is neither a Python file nor a module"),
    ],
)
def test_what_names_nothing_is_refused_before_anything_runs(text: str, said: str):
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        NamedBuild.parse(text)


def test_what_cannot_be_found_is_told_with_what_there_is(script: Path):
    with pytest.raises(MeasurementFailed, match="has no function 'biuld': did you mean 'build'"):
        NamedBuild.parse(f"{script}:biuld")(CPU)
    with pytest.raises(MeasurementFailed, match="has no function 'SIZE': choose one of build"):
        NamedBuild.parse(f"{script}:SIZE")(CPU)
    for name in ("no_such_package", "os.no_such_module"):
        with pytest.raises(UnusableStep, match=f"there is no module {name} here or among those installed"):
            NamedBuild.parse(f"{name}:build")(CPU)


def test_arguments_that_the_function_does_not_take_are_told_with_those_it_takes(script: Path):
    takes = "it takes device, batch_size, hidden$"
    with pytest.raises(UnusableStep, match=rf"cannot be called with the device, hiden \(.*'hiden'\): {takes}"):
        NamedBuild.parse(f"{script}:build", {"hiden": 5})(CPU)
    other = script.parent / "other.py"
    other.write_text("def build(text): ...")
    with pytest.raises(UnusableStep, match=r"cannot be called with the device, batch_size \(.*\): it takes text$"):
        NamedBuild.parse(f"{other}:build")(CPU, batch_size=2)


@pytest.mark.parametrize(
    ("takes", "first"),
    [
        ("batch_size=64", "batch_size"),
        ("batch", "batch"),
        ("layers: int, device=None", "layers"),
        ("layers: 'float'", "layers"),
        ("rate=0.1, batch_size=2", "rate"),
    ],
)
def test_a_function_that_forgets_the_device_is_told_what_took_its_place(takes: str, first: str, script: Path):
    script.write_text(f"def build({takes}): raise AssertionError")
    named = NamedBuild.parse(f"{script}:build")
    said = (
        rf"build(\(batch_size=2\))? takes {first} first, where it is given the device: write it as def build\(device, "
    )
    for built in (BuiltStep(named), step_at(named, 2), BuiltStep(_imported(str(script), str(script.parent)).build)):
        with pytest.raises(UnusableStep, match=said):
            built.prepare(CPU)


@pytest.mark.parametrize("takes", ["device: int", "text", "*arguments", "where='cuda'", "device, /"])
def test_what_may_be_the_device_is_given_it(takes: str, script: Path):
    script.write_text(f"def build({takes}): return list(locals().values())[0]")
    assert NamedBuild.parse(f"{script}:build")(CPU) in (CPU, (CPU,))


def test_a_class_in_place_of_the_function_is_told(script: Path):
    script.write_text("class Spotter:\n    def __init__(self, device): ...")
    with pytest.raises(UnusableStep, match=r"Spotter is a class: name a function that takes the device and returns \("):
        NamedBuild.parse(f"{script}:Spotter")(CPU)


def test_a_text_for_a_number_is_told_where_it_fails_and_an_error_by_its_first_line(script: Path):
    script.write_text(STEP + "\ndef failing(device, size: int | str = 'auto', count=3):\n    [][:count] + size\n")
    with pytest.raises(
        UnusableStep, match=r"build fails with the text hidden='x' \(TypeError: .*: give a number$"
    ) as told:
        NamedBuild.parse(f"{script}:build", {"hidden": "x"})(CPU)
    assert code_of(told.value) == ExitCode.BAD_INPUT
    assert "\n" not in str(told.value)
    with pytest.raises(TypeError):  # which may have been meant
        NamedBuild.parse(f"{script}:failing", {"size": "x"})(CPU)
    with pytest.raises(TypeError):
        NamedBuild.parse(f"{script}:failing", {"size": 2, "count": 4})(CPU)


def test_what_a_module_does_as_it_is_imported_may_fail(script: Path):
    for name, line, said in (
        ("lacking", "import no_such_package", r"lacking.py cannot be imported \(No module named 'no_such_package'\)"),
        ("failing", "1 / 0", r"failing.py cannot be imported \(ZeroDivisionError: division by zero\)"),
    ):
        path = script.parent / f"{name}.py"
        path.write_text(line)
        with pytest.raises(MeasurementFailed, match=said) as failed:
            NamedBuild.parse(f"{path}:build")(CPU)
        assert code_of(failed.value) == ExitCode.FAILED


def test_the_command_measures_what_the_function_of_python_measures(script: Path, prober: Prober):
    expected = prober.measure(BuiltStep(NamedBuild.parse(f"{script}:build", {"hidden": 16})), GPU, least_budget=False)
    status, printed = profl("measure", f"{script}:build", "--argument", "hidden=16", "--gpu", GPU, "--json")
    assert status == 0
    told = json.loads(printed)
    assert told["peak_requested_bytes"] == expected.peak_requested_bytes
    assert told["parameter_bytes"] == 4 * (65536 * 16 + 16 + 16 * 2 + 2)
    assert told["least_budget_bytes"] >= told["peak_requested_bytes"]
    # Forward and the weights' gradients of both layers, the inputs' of the second alone.
    assert told["operations_per_step"] == 2 * 4 * (2 * 65536 * 16 + 3 * 16 * 2)


def test_the_largest_batch_is_the_same_for_python_and_the_command(script: Path, prober: Prober):
    named = NamedBuild.parse(f"{script}:build")
    budget = prober.measure(step_at(named, 64), GPU).least_budget_bytes
    assert budget is not None
    most = fit(named, budget, GPU, most=256)
    assert most is not None
    assert 64 <= most < 256  # 192 more examples are 48 MiB, and the GPU gives memory in pieces of 20 MiB
    status, printed = profl("fit", f"{script}:build", "--budget", f"{budget}B", "--gpu", GPU, "--json")
    assert status == 0
    told = json.loads(printed)
    assert told["fits"] == [{"budget_bytes": budget, "largest_batch": most}]
    assert told["batch_size"] is None


def test_one_command_answers_above_256_and_a_cap_says_that_it_is_one(script: Path):
    command = ["fit", f"{script}:build", "--budget", "250MiB", "--gpu", GPU]
    status, printed = profl(*command, "--json")
    assert status == 0
    (found,) = json.loads(printed)["fits"]
    assert 512 < found["largest_batch"] < 800  # an example is 256 KiB
    status, printed = profl(*command, "--batch-size", "100")
    assert (status, "100+" in printed) == (0, True)
    assert "as --batch-size 100 is the cap: give a larger one" in " ".join(printed.split())


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("module(inputs).sum().backward()", 2 * 4 * 2 * 8 * 8),
        ("torch.compile(module, backend='aot_eager')(inputs).sum().backward()", 2 * 4 * 2 * 8 * 8),
        ("nn.functional.relu(inputs)", 0),
        ("torch.optim.SGD(module.parameters(), lr=1).step()", 0),
        ("graph.replay()", None),
        ("torch.ops.mine.twice(inputs)", None),
        ("torch.mv(module.weight, inputs[0])", None),
        ("torch.dot(inputs[0], inputs[1])", None),
        ("torch.fft.rfft(inputs)", None),
        ("torch.einsum('bi,oi->bo', inputs, module.weight)", 2 * 4 * 8 * 8),
    ],
)
def test_operations_are_counted_whole_or_not_known(step: str, expected: int | None, tmp_path: Path):
    (tmp_path / "other.py").write_text(f"""
import torch
from torch import nn

torch.library.custom_op("mine::twice", lambda inputs: 2 * inputs, mutates_args=(), schema="(Tensor inputs) -> Tensor")
graph = torch.cuda.CUDAGraph.__new__(torch.cuda.CUDAGraph)
torch.cuda.CUDAGraph.replay = lambda graph: None

def build(device):
    module = nn.Linear(8, 8).to(device)
    inputs = torch.zeros(4, 8, device=device)
    return module, [], inputs, lambda: {step}
""")
    before = torch.cuda.CUDAGraph.replay
    try:
        counted = Counted(BuiltStep(NamedBuild.parse(f"{tmp_path}/other.py:build")))
        assert counted.run(CPU, print) == expected
    finally:
        torch.cuda.CUDAGraph.replay = before


def test_a_step_that_leaves_the_gpu_alone_is_told_without_advice(script: Path):
    script.write_text(script.read_text().replace("(device, ", "(elsewhere, device='cpu', "))
    status, printed = profl("measure", f"{script}:build", "--gpu", GPU, "-v")
    assert status == 0
    assert NOTHING in printed
    assert "most of it is" not in printed
    assert "my_step.py:build" in printed.splitlines()[0]  # as -v tells it
    status, printed = profl("fit", f"{script}:build", "--gpu", GPU, "--budget", "1MiB")  # any batch would fit
    assert status == 1
    assert printed.splitlines() == [f"Error: {script}:build(batch_size=1): {NOTHING}"]


def test_python_is_told_of_a_step_that_leaves_the_gpu_alone():
    with pytest.raises(UnusableStep, match=NOTHING):
        fit(elsewhere, "1MiB", GPU)


def elsewhere(device: torch.device, batch_size: int) -> object:
    module, inputs = torch.nn.Linear(8, 8), torch.zeros(batch_size, 8)
    return module, [], inputs, lambda: module(inputs).sum().backward()


def test_values_are_written_as_in_python_or_toml():
    told = ("wide=True", "deep=false", "seed=None", "kind=none", "size=3", "rate=1e-2", "name=False1")
    assert own_arguments(told) == {
        **{"wide": True, "deep": False, "seed": None, "kind": None},
        **{"size": 3, "rate": 0.01, "name": "False1"},
    }


def test_the_batch_that_is_looked_for_is_not_given(script: Path):
    status, printed = profl("fit", f"{script}:build", "--budget", "1MiB", "--argument", "batch_size=7")
    assert status == 1
    assert "argument 'batch_size' is what is looked for: leave it out, or give a cap by --batch-size" in printed


def test_options_of_tasks_are_refused_beside_a_step(script: Path):
    status, printed = profl("measure", f"{script}:build", "--method", "profl", "--width", "8")
    assert status == 2
    assert "--method, --width chooses tasks of methods" in printed
    assert "--argument" not in printed
    status, printed = profl("measure", f"{script}:build", "--batch-size", "8")
    assert status == 2
    assert "its batch is an argument: --argument batch_size=N" in " ".join(printed.split())
    status, printed = profl("measure", "--argument", "hidden=3")
    assert status == 2
    assert "--argument is for a step of your own" in printed
    for wrong in ("hidden", "=3", "2x=3"):
        status, printed = profl("fit", f"{script}:build", "--budget", "1MiB", "--argument", wrong)
        assert status == 1
        assert f"argument '{wrong}' is no assignment: write NAME=VALUE" in printed


def test_a_virtual_gpu_may_be_named_alone(script: Path):
    status, printed = profl("fit", f"{script}:build", "--budget", "1MiB", "--gpu", "t44")
    assert status == 1
    assert "did you mean 'virtual:t4'?" in printed
    status, printed = profl("measure", f"{script}:no_function", "--gpu", "t4")
    assert status == 1
    assert "has no function 'no_function'" in printed  # so the GPU was found
