"""The suite for plug-in methods: what is planted is found, by name; and pytest runs it from the command line."""

from __future__ import annotations

import random
from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch

from examples.rolling_window.rolling_window import FedRolex, WindowTask, windows
from profl.bench import conformance
from profl.bench.aggregation import Update
from profl.bench.method import FullModel, Method, NoOptions
from profl.bench.models import ModelSpec
from tests.conftest import plug_in

pytest_plugins = ["pytester"]

MODEL = ModelSpec("resnet18", 4, conformance.CLASSES)
CHECKS = {name: check for name, check in vars(conformance).items() if name.startswith("test_")}


def subject_of(kind: type[Method]) -> conformance.Subject:
    return conformance.Subject(lambda seed: kind(MODEL, conformance.ROUNDS, seed, NoOptions()))


class Plain(Method):
    def all_tasks(self):
        return [FullModel(self.model)]

    def tasks(self):
        return self.all_tasks()


class Unannounced(Plain):
    def tasks(self):
        return [*self.all_tasks(), WindowTask(self.model)]


class Forgetful(FedRolex):
    """Counts for itself and does not keep the count."""

    turn = 0

    def all_tasks(self):
        return [WindowTask(task.model, self.turn) for task in super().all_tasks()]

    def finish_round(self, summary):
        self.turn += 1


class Unreadable(Plain):
    def state_dict(self):
        return {**super().state_dict(), "model": self.model}


class Unwritten(Forgetful):
    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.turn = state["turn"]


class Gambling(Plain):
    def tasks(self):
        random.random()
        return self.all_tasks()


class Zeroing(FedRolex):
    """As a suite of federated learning once did."""

    def aggregate(self, updates):
        held = {name: conformance.held(updates[0], name, value.shape) for name, value in self.global_state.items()}
        super().aggregate(updates)
        for name, value in self.global_state.items():
            value[~held[name]] = 0


class Summing(Plain):
    def aggregate(self, updates):
        super().aggregate(updates)
        self.global_state["head.2.bias"] *= len(updates)


class Reseeding(Plain):
    def __init__(self, *values):
        super().__init__(*values)
        self.global_state = self.model.build().state_dict()


class Telling(Plain):
    deviations = "A sentence, not a tuple of them."


class Elsewhere(FullModel):
    def update(self, module, global_state, local):
        return Update(dict(module.state_dict()), local.examples)


class Sharing(Plain):
    def all_tasks(self):
        return [Elsewhere(self.model)]


class Renamed(FullModel):
    def update(self, module, global_state, local):
        return Update({f"sent.{name}": value for name, value in module.state_dict().items()}, local.examples)


class Renaming(Plain):
    def all_tasks(self):
        return [Renamed(self.model)]


@dataclass(frozen=True)
class Leading(WindowTask):
    """Says where it belongs by another turn than it was loaded by."""

    def update(self, module, global_state, local):
        update = super().update(module, global_state, local)
        regions = {name: windows(value, global_state[name], 1) for name, value in update.state.items()}
        return Update(update.state, update.examples, regions)


class Shifted(FedRolex):
    def all_tasks(self):
        return [Leading(task.model, task.turn) for task in super().all_tasks()[1:]]


@dataclass(frozen=True)
class Classless(WindowTask):
    def load(self, module, global_state, local):
        owned = module.owned.clone()
        super().load(module, global_state, local)
        module.owned.copy_(owned & local.classes)


class Clinging(FedRolex):
    def all_tasks(self):
        return [Classless(task.model, task.turn) for task in super().all_tasks()]


@pytest.mark.parametrize(
    ("defect", "check", "message"),
    [
        (
            Unannounced,
            "every_offered_task_is_announced_and_keeps_its_size",
            "'window 1' is offered .* does not list it",
        ),
        (Forgetful, "it_resumes_to_the_bit", "other tasks are offered after resuming: state_dict must return"),
        (Unwritten, "it_resumes_to_the_bit", "load_state_dict asks for 'turn', which state_dict does not return"),
        (Unreadable, "it_resumes_to_the_bit", "more than tensors, numbers, strings and containers"),
        (Gambling, "global_generators_are_left_alone", "all_tasks, settle or tasks draws from a global"),
        (Zeroing, "what_nobody_trains_keeps_its_value", "aggregate changes elements of '.*' that no device has sent"),
        (Summing, "if_all_train_the_whole_model_it_is_fedavg", "'head.2.bias' is not the mean of what they send"),
        (Reseeding, "initial_values_follow_from_the_seed", "starts from other values although the seed is the same"),
        (Reseeding, "it_starts_from_the_values_that_all_start_from", r"take it from initial_state\(model, seed\)"),
        (Telling, "it_says_what_it_is", "give a tuple of sentences"),
        (Sharing, "a_local_step_trains_what_it_is_to", "shares '.*' with the module, .*: clone it"),
        (Renaming, "a_local_step_trains_what_it_is_to", "nothing of what it trains under the module's own names"),
        (Shifted, "what_nobody_changes_keeps_its_value", "disagree about which elements a device holds"),
        (Clinging, "loading_leaves_nothing_of_the_device_before", "leaves in 'owned' what the device before"),
    ],
)
def test_every_planted_defect_is_named(defect: type[Method], check: str, message: str):
    with pytest.raises((AssertionError, pytest.fail.Exception), match=message):
        CHECKS[f"test_{check}"](subject_of(defect))


@pytest.mark.parametrize("check", CHECKS)
def test_a_method_written_from_the_documents_alone_passes(check: str):
    CHECKS[check](subject_of(FedRolex))


def test_the_window_rolls_as_published():
    shapes = torch.empty(4), torch.empty(64)
    rolled = {turn: windows(*shapes, turn)[0].tolist() for turn in (0, 1, 7, 64)}
    assert rolled == {0: [0, 1, 2, 3], 1: [63, 0, 1, 2], 7: [57, 58, 59, 60], 64: [0, 1, 2, 3]}
    (everything,) = windows(torch.empty(64), torch.empty(64), 7)
    assert everything.tolist() == list(range(64))


def test_kernels_colours_and_classes_do_not_roll():
    method = subject_of(FedRolex).method()
    state, model = method.global_state, method.model
    task = WindowTask(model.at_rate(Fraction(1, 2)), turn=1)
    half = conformance.loaded(method, task, conformance.device()).state_dict()
    assert torch.equal(half["stem.0.weight"], state["stem.0.weight"][[3, 0]])
    assert torch.equal(half["head.2.weight"], state["head.2.weight"][:, [31, *range(15)]])
    assert torch.equal(half["head.2.bias"], state["head.2.bias"])


def test_pytest_runs_it_instead_of_the_tests_found(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    plug_in(monkeypatch, "profl.methods", "telling", f"{__name__}:Telling")
    pytester.makepyfile("def test_mine(): pass")
    result = pytester.runpytest_inprocess("--profl-method", "telling", "-k", "says_what_it_is or mine", "-p", "no:cov")
    result.assert_outcomes(failed=2)  # on two networks
    result.stdout.fnmatch_lines(["*give a tuple of sentences*"])
    both = pytester.runpytest_inprocess("--profl-method", "exclusive", "-k", "says_what or mine", ".", "-p", "no:cov")
    both.assert_outcomes(passed=3)


def test_an_unknown_method_is_refused_before_anything_runs(pytester: pytest.Pytester):
    result = pytester.runpytest_inprocess("--profl-method", "heterofi")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --profl-method: unknown method 'heterofi': did you mean 'heterofl'?*"])
