"""The schedule: which step comes when, how long it lasts, and that a run can stop and go on anywhere."""

import copy
import io
import math
from dataclasses import replace
from itertools import groupby

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from profl.bench.errors import InputError
from profl.bench.method import Method, RoundSummary, Update, initial_state
from profl.bench.models import ModelSpec
from profl.bench.registry import create_method, method_options
from profl.freezing import slope
from profl.method import ProFL
from profl.options import ProFLOptions
from profl.schedule import schedule
from profl.steps import apportion
from tests.conftest import shown
from tests.oracles import progressive

PAPER = ModelSpec("resnet18", 64, 10)
ORDER = [f"{kind} {block}" for block in (4, 3, 2) for kind in ("shrink", "map")]
ORDER += [f"grow {block}" for block in (1, 2, 3, 4)]
EAGER = ProFLOptions(movement_rounds=2, slope_window=2, slope_evaluations=1, slope_threshold=0.5)
WARM = replace(EAGER, warm_up_rounds=1, stand_in="normalised")

paces = st.sampled_from(["effective_movement", "equal", "parameters"])


def rounds_by_step(model, rounds, **options):
    return {step.task.key: step.rounds for step in schedule(model, rounds, ProFLOptions(**options))}


def idle(method, rounds, participants=1):
    """Finish rounds in which nothing moves; the phase of each."""
    phases = []
    for number in range(1, rounds + 1):
        phases.append(method.phase)
        if participants:
            method.aggregate([Update({}, examples=1)] * participants)
        method.finish_round(RoundSummary(number, participants, train_loss=math.nan))
    return phases


def lengths(phases):
    return {phase: len(list(rounds)) for phase, rounds in groupby(phases)}


def test_parameter_aware_allocation_has_the_published_rounds():
    assert apportion(980, progressive.STAGES["resnet18"], least=1) == [13, 46, 184, 737]
    by_step = rounds_by_step(PAPER, 980, shrinking=False, pace="parameters")
    assert list(by_step.values()) == [13, 46, 184, 737]


@settings(deadline=None)
@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=8), st.integers(1, 5), st.integers(0, 10_000))
def test_apportioned_rounds(shares, least, spare):
    rounds = least * len(shares) + spare
    parts = apportion(rounds, shares, least)
    assert sum(parts) == rounds
    assert min(parts) >= least
    quotas = [rounds * share / sum(shares) for share in shares]
    if min(quotas) >= least:
        assert all(abs(part - quota) < 1 for part, quota in zip(parts, quotas, strict=True))


def test_the_default_schedule():
    expected = [8, 4, 8, 4, 8, 4, 29, 29, 28, 28]
    assert rounds_by_step(PAPER, 150) == dict(zip(ORDER, expected, strict=True))


def test_a_schedule_without_shrinking():
    expected = {"grow 1": 38, "grow 2": 38, "grow 3": 37, "grow 4": 37}
    assert rounds_by_step(PAPER, 150, shrinking=False) == expected


def test_shares_of_shrinking_and_mapping():
    by_step = rounds_by_step(PAPER, 200, shrink_share=0.6, map_share=0.25)
    assert [by_step[key] for key in ORDER[:6]] == [30, 10] * 3


def test_shrinking_and_mapping_have_their_least_rounds_though_shares_are_small():
    by_step = rounds_by_step(PAPER, 100, shrink_share=0.01, shrink_min_rounds=5, map_min_rounds=7)
    assert list(by_step.values()) == [5, 7] * 3 + [16] * 4
    # And give them to each other only beyond that.
    by_step = rounds_by_step(PAPER, 100, shrink_share=0.39, map_share=0.9, shrink_min_rounds=5, map_min_rounds=7)
    assert [by_step[key] for key in ORDER[:6]] == [5, 8] * 3


def test_blocks_warm_up_in_rounds_of_their_growing():
    plain = rounds_by_step(PAPER, 100, shrinking=False)
    by_step = rounds_by_step(PAPER, 100, shrinking=False, warm_up_rounds=3)
    assert list(by_step) == ["grow 1", "warm up 2", "grow 2", "warm up 3", "grow 3", "warm up 4", "grow 4"]
    for block in (2, 3, 4):
        assert by_step[f"warm up {block}"] == 3
        assert by_step[f"grow {block}"] == plain[f"grow {block}"] - 3


def test_what_a_block_leaves_over_does_not_prolong_the_warming_up_of_the_next():
    options = ProFLOptions(False, warm_up_rounds=2, movement_rounds=2, slope_window=2, slope_evaluations=1)
    method = ProFL(ModelSpec("tiny", 3, 4), 30, 0, options)
    assert lengths(idle(method, 30)) == {
        "grow 1/3": 3, "warm up 2/3": 2, "grow 2/3": 3, "warm up 3/3": 2, "grow 3/3": 20
    }  # fmt: skip


@settings(deadline=None)
@given(
    st.integers(1, 400),
    st.floats(0.01, 0.99),
    st.floats(0.01, 0.99),
    st.lists(st.integers(1, 9), min_size=3, max_size=3),
    st.integers(0, 4),
    st.booleans(),
    paces,
)
def test_every_budget_gives_a_full_schedule_or_names_the_least(
    budget, shrink, mapping, leasts, warm_up, shrinking, pace
):
    least, least_shrinking, least_mapping = leasts
    options = ProFLOptions(
        shrinking,
        shrink,
        mapping,
        least_shrinking,
        least_mapping,
        min_rounds=least,
        warm_up_rounds=warm_up,
        pace=pace,
    )
    tiny = ModelSpec("tiny", 3, 4)
    enough = 3 * (least + warm_up) + (2 * (least_shrinking + least_mapping) if shrinking else 0)
    if budget < enough:
        with pytest.raises(InputError, match=f"at least {enough}"):
            schedule(tiny, budget, options)
        return
    steps = schedule(tiny, budget, options)
    keys = ["shrink 3", "map 3", "shrink 2", "map 2"] * shrinking
    keys += [
        f"{kind} {block}" for block in (1, 2, 3) for kind in ("warm up",) * (warm_up > 0 and block > 1) + ("grow",)
    ]
    assert [step.task.key for step in steps] == keys
    assert sum(step.rounds for step in steps) == budget
    at_least = {"shrink": least_shrinking, "map": least_mapping, "warm up": warm_up, "grow": least}
    assert all(step.rounds >= at_least[step.task.kind] for step in steps)
    assert all(step.rounds == warm_up for step in steps if step.task.kind == "warm up")
    shrunk = sum(step.rounds for step in steps if step.task.kind in ("shrink", "map"))
    assert shrunk <= max(shrink * budget, 2 * (least_shrinking + least_mapping))


def test_a_budget_too_small_for_shrinking_alone():
    with pytest.raises(InputError, match=r"in 9 rounds: give it at least 10, or leave shrinking out .*shrinking=false"):
        ProFL(PAPER, 9, 0, ProFLOptions())
    ProFL(ModelSpec("resnet18", 1, 10), 9, 0, ProFLOptions(shrinking=False))


@settings(max_examples=30, deadline=None)
@given(st.data(), st.integers(10, 60), st.booleans(), st.integers(1, 3))
def test_every_schedule_ends_inside_its_budget(data, budget, shrinking, least):
    """Whatever the freezing rule says and whoever takes part."""
    options = ProFLOptions(shrinking, min_rounds=least)
    method = ProFL(ModelSpec("tiny", 3, 4), max(budget, 3 * least + 4), 0, options)

    class Whim:
        def holds(self, values):
            return data.draw(st.booleans())

    method.course.rule = Whim()
    planned = {f"{step.task.key}/3": step.rounds for step in method.steps}
    spent = lengths(idle(method, method.rounds, participants=data.draw(st.integers(0, 1))))
    assert list(spent) == list(planned)
    left_over = 0
    for phase, rounds in spent.items():
        assert (least if phase.startswith("grow") else planned[phase]) <= rounds <= planned[phase] + left_over
        left_over += planned[phase] - rounds
    assert left_over == 0


def test_converged_blocks_leave_their_rounds_to_the_last():
    options = ProFLOptions(shrinking=False, min_rounds=2, movement_rounds=2, slope_window=2, slope_evaluations=1)
    method = ProFL(ModelSpec("tiny", 3, 4), 30, 0, options)
    # Nothing moves, so the rule holds as soon as it can: after 2 + 2 + 1 - 2 rounds of a step.
    assert lengths(idle(method, 30)) == {"grow 1/3": 3, "grow 2/3": 3, "grow 3/3": 24}


def test_left_over_rounds_go_to_the_next_step_that_wants_them():
    method = ProFL(ModelSpec("tiny", 3, 4), 30, 0, ProFLOptions(shrinking=False))

    class OnlyBlock1:
        def holds(self, values):
            return method.phase == "grow 1/3" and method.course.spent == 4

    method.course.rule = OnlyBlock1()
    assert lengths(idle(method, 30)) == {"grow 1/3": 4, "grow 2/3": 10 + 6, "grow 3/3": 10}


def test_the_freezing_rule_waits_for_the_least_rounds():
    options = ProFLOptions(shrinking=False, min_rounds=7, movement_rounds=2, slope_window=2, slope_evaluations=1)
    method = ProFL(ModelSpec("tiny", 3, 4), 30, 0, options)
    assert lengths(idle(method, 30)) == {"grow 1/3": 7, "grow 2/3": 7, "grow 3/3": 16}


@pytest.mark.parametrize("pace", ["equal", "parameters"])
def test_fixed_paces_never_ask_the_freezing_rule(pace):
    options = ProFLOptions(pace=pace, movement_rounds=2, slope_window=2, slope_evaluations=1)
    method = ProFL(ModelSpec("tiny", 3, 4), 60, 0, options)
    assert list(lengths(idle(method, 60)).values()) == [step.rounds for step in method.steps]


def test_a_round_without_participants_counts_but_is_no_observation():
    method = ProFL(ModelSpec("tiny", 3, 4), 30, 0, EAGER)
    before = copy.deepcopy(method.state_dict())
    method.finish_round(RoundSummary(1, participants=0, train_loss=math.nan))
    after = method.state_dict()
    assert (before.pop("spent"), after.pop("spent")) == (0, 1)
    assert_same(before, after)
    # The whole run without anybody: the rule would freeze after 3 rounds, but it has seen nothing.
    idle(method, 29, participants=0)
    assert method.phase == "grow 3/3"
    assert method.course.spent > 3


@pytest.mark.parametrize(("block", "parts"), [(1, ("stem", "stages.0")), (2, ("stages.1",))])
def test_movement_follows_the_active_block(tiny, play, block, parts):
    """The values are the formula's on the block's global parameters, the stem among those of block 1."""
    options = ProFLOptions(shrinking=False, movement_rounds=3, pace="equal")
    method = ProFL(tiny, rounds=24, seed=2, options=options)
    start = 8 * (block - 1)
    list(play(method, range(1, start + 1)))

    def parameters():
        names = [f"{part}.{name}" for part in parts for name in ("0.weight", "1.weight", "1.bias")]
        return torch.cat([method.global_state[name].flatten() for name in names]).tolist()

    rows = [parameters()]
    for phase in play(method, range(start + 1, start + 7)):
        assert phase == f"grow {block}/3"
        rows.append(parameters())
    expected = [progressive.movement(rows[end - 3 : end + 1]) for end in range(3, 7)]
    assert method.movements == pytest.approx(expected)
    assert all(0 < value < 1 for value in method.movements)


@pytest.mark.parametrize("pace", ["effective_movement", "equal"])
def test_diagnostics_tell_what_the_rule_sees_whatever_the_pace(pace):
    """Nothing moves here: effective movement is 0, and the rule holds as soon as it says anything."""
    options = ProFLOptions(False, pace=pace, min_rounds=8, movement_rounds=2, slope_window=2, slope_evaluations=3)
    method = ProFL(ModelSpec("tiny", 3, 4), 24, 0, options)
    told = []
    for number in range(1, 10):
        method.aggregate([Update({}, examples=1)])
        told.append(method.diagnostics())
        method.finish_round(RoundSummary(number, 1, 0.0))
    assert method.phase == "grow 2/3"
    unknown, known = math.nan, 0.0
    expected = {
        "effective_movement": [unknown] + [known] * 7 + [unknown],
        "movement_slope": [unknown] * 2 + [known] * 6 + [unknown],
        "would_freeze": [unknown] * 4 + [1.0] * 4 + [unknown],
    }
    assert {name: pytest.approx([row[name] for row in told], nan_ok=True) for name in told[0]} == expected


def test_diagnostics_are_of_the_latest_rounds(tiny, play):
    options = ProFLOptions(False, pace="equal", movement_rounds=2, slope_window=3, slope_evaluations=2)
    method = ProFL(tiny, rounds=24, seed=2, options=options)
    told = []
    for _ in play(method, range(1, 8)):
        told.append(method.diagnostics())
    assert [row["effective_movement"] for row in told[1:]] == method.movements
    assert told[-1]["movement_slope"] == pytest.approx(slope(method.movements[-3:]))
    assert told[-1]["would_freeze"] == method.course.rule.holds(method.movements)


def test_the_published_rule_says_nothing_before_round_39_of_a_step():
    method = ProFL(ModelSpec("tiny", 3, 4), 120, 0, ProFLOptions(shrinking=False))
    told = []
    for number in range(1, 40):
        method.aggregate([Update({}, examples=1)])
        told.append(method.diagnostics()["would_freeze"])
        method.finish_round(RoundSummary(number, 1, 0.0))
    assert all(math.isnan(value) for value in told[:38])
    assert told[38] == 1
    assert method.phase == "grow 2/3"


def test_a_mapped_block_does_not_move(tiny, play):
    options = ProFLOptions(shrink_min_rounds=4, map_min_rounds=4, movement_rounds=2)
    method = ProFL(tiny, rounds=40, seed=0, options=options)
    told = {}
    for _ in play(method, range(1, 8)):
        told.setdefault(method.phase, []).append(method.diagnostics()["effective_movement"])
    assert 0 < told["shrink 3/3"][-1] <= 1
    assert all(map(math.isnan, told["map 3/3"]))


def test_one_task_at_a_time_in_the_order_of_all_tasks(tiny):
    method = ProFL(tiny, 14, 0, ProFLOptions(pace="equal"))
    offered = []
    for number in range(1, 15):
        (task,) = method.tasks()
        assert method.phase == f"{task.key}/3"
        offered.append(task)
        method.finish_round(RoundSummary(number, 1, 0.0))
    assert [task for task, _ in groupby(offered)] == list(method.all_tasks())


def test_there_is_a_network_to_test_after_every_round(tiny, play, batch):
    method = ProFL(tiny, rounds=17, seed=0, options=ProFLOptions(pace="equal", warm_up_rounds=1))
    inputs, _ = batch()
    held = {}
    rounds = play(method, range(1, 18))
    while method.phase not in held or next(rounds, None):
        model = shown(method).eval()
        assert model(inputs).shape == (6, 4)
        tensors = model.state_dict()
        assert all(torch.equal(value, method.global_state[name]) for name, value in tensors.items())
        parts = {".".join(name.split(".")[:2]) for name in tensors}
        held[method.phase] = sorted(parts - {"stem.0", "stem.1", "head.2"})
    full = ["stages.0", "stages.1", "stages.2"]
    without_last = ["proxies.2", "stages.0", "stages.1"]
    first_only = ["proxies.1", "proxies.2", "stages.0"]
    assert held == {
        "shrink 3/3": full,
        "map 3/3": without_last,
        "shrink 2/3": without_last,
        "map 2/3": first_only,
        "grow 1/3": first_only,
        "warm up 2/3": first_only,
        "grow 2/3": without_last,
        "warm up 3/3": without_last,
        "grow 3/3": full,
    }


def test_the_run_ends_with_the_full_model(tiny, play, batch):
    method = ProFL(tiny, rounds=14, seed=0, options=ProFLOptions())
    list(play(method, range(1, 15)))
    full, last = tiny.build(), shown(method)
    full.load_state_dict(last.state_dict())  # strict: the same names and shapes
    inputs, _ = batch()
    torch.testing.assert_close(full.eval()(inputs), last.eval()(inputs))


@pytest.mark.parametrize(
    "options",
    [{}, {"stand_in": "normalised", "warm_up_rounds": 3, "frozen_batchnorm": "eval", "map_learning_rate": 0.01}],
)
def test_the_whole_schedule_learns(tiny, play, batch, options):
    """Classes that differ in brightness are told apart after a run, and not before."""
    method = ProFL(tiny, rounds=80, seed=0, options=ProFLOptions(**options))

    def accuracy():
        model = shown(method).eval()
        hits = [model(inputs).argmax(1) == targets for inputs, targets in map(batch, range(1000, 1020))]
        return torch.cat(hits).float().mean()

    assert accuracy() < 0.5
    list(play(method, range(1, 81)))
    assert accuracy() > 0.8


def assert_same(first, second):
    """Equal to the bit, types and order included."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for name in first:
            assert_same(first[name], second[name])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert first == second


@pytest.mark.parametrize(
    ("name", "rounds", "options"), [("tiny", 24, EAGER), ("resnet18", 12, EAGER), ("tiny", 24, WARM)]
)
def test_a_run_can_stop_and_go_on_after_any_round(name, rounds, options, play):
    spec = ModelSpec(name, 2, 4)
    straight = ProFL(spec, rounds, 7, options)
    phases, saved = [], []
    for phase in play(straight, range(1, rounds + 1)):
        phases.append(phase)
        saved.append(io.BytesIO())
        torch.save(straight.state_dict(), saved[-1])
    assert len(set(phases)) == len(straight.steps)

    def state_after(number):
        saved[number - 1].seek(0)
        return torch.load(saved[number - 1], weights_only=True)

    for stop in range(1, rounds):
        resumed = ProFL(spec, rounds, 7, options)
        resumed.load_state_dict(state_after(stop))
        end = rounds if stop % 8 == 0 else stop + 1
        assert list(play(resumed, range(stop + 1, end + 1))) == phases[stop:end]
        assert_same(resumed.state_dict(), state_after(end))


def test_the_resumed_run_froze_a_block_early(play):
    """Without this the test above would not cover the history of effective movement."""
    method = ProFL(ModelSpec("tiny", 2, 4), 24, 7, EAGER)
    spent = lengths(play(method, range(1, 25)))
    assert any(spent[f"{step.task.key}/3"] < step.rounds for step in method.steps)
    assert method.movements


def test_seeds(tiny):
    first, again, other = (ProFL(tiny, 14, seed, ProFLOptions()).global_state for seed in (1, 1, 2))
    assert_same(dict(first), dict(again))
    for name in ("stem.0.weight", "stages.2.0.weight", "proxies.1.weight", "head.2.weight"):
        assert not torch.equal(first[name], other[name])
    assert all(torch.equal(value, first[name]) for name, value in initial_state(tiny, 1).items())


def test_global_random_state_does_not_matter_and_is_left_alone(tiny):
    states = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        states.append(dict(ProFL(tiny, 14, 3, ProFLOptions()).global_state))
        assert torch.equal(torch.get_rng_state(), before)
    assert_same(*states)


def test_created_by_name_with_options():
    options = {"pace": "equal", "shrinking": False}
    method = create_method("profl", ModelSpec("resnet18", 1, 10), 20, 0, options)
    assert isinstance(method, ProFL)
    assert isinstance(method, Method)
    assert method.options == ProFLOptions(pace="equal", shrinking=False)
    with pytest.raises(InputError, match="method 'profl' has no option 'speed': choose one of"):
        create_method("profl", ModelSpec("resnet18", 1, 10), 20, 0, {"speed": 1})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shrinking", 1),
        ("shrinking", "no"),
        ("shrink_share", 0),
        ("shrink_share", 1),
        ("shrink_share", "0.5"),
        ("map_share", 1.5),
        ("map_share", math.nan),
        ("map_share", True),
        ("map_learning_rate", 0.0),
        ("map_learning_rate", math.inf),
        ("frozen_batchnorm", "test"),
        ("frozen_batchnorm", True),
        ("pace", "fast"),
        ("min_rounds", 0),
        ("min_rounds", 2.0),
        ("movement_rounds", 1),
        ("movement_scalars", 0),
        ("slope_window", 1),
        ("slope_evaluations", 0),
        ("slope_evaluations", True),
        ("slope_threshold", -0.2),
        ("slope_threshold", 0),
        ("stand_in", "linear"),
        ("warm_up_rounds", -1),
        ("shrink_min_rounds", 0),
        ("map_min_rounds", 1.0),
    ],
)
def test_options_that_cannot_be(name, value):
    with pytest.raises(InputError, match=rf"options of method 'profl': {name} cannot be {value!r}: input should be "):
        method_options("profl", {name: value})


def test_options_that_can_be():
    ProFLOptions(False, 0.5, 0.5, 1, 1, 1, "eval", "normalised", 0, "parameters", 1, 2, 1, 2, 1, 5)
