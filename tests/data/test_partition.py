import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from profl.bench.data.partition import Dirichlet, Iid, Shards, parse_scheme, partition
from profl.bench.errors import InputError

SCHEMES = ["iid", "dirichlet:0.3", "dirichlet:100", "shards:1", "shards:2"]


def balanced(examples=50_000, classes=10):
    targets = np.repeat(np.arange(classes), examples // classes)
    np.random.default_rng(0).shuffle(targets)
    return targets


@pytest.mark.parametrize(
    ("clients", "alpha", "first", "smallest", "largest"),
    [
        (100, 0.5, [621, 279, 590, 390, 267], 108, 1228),
        (100, 1.0, [480, 477, 970, 179, 454], None, None),
        (20, 0.1, [387, 2092, 1448, 1052, 380], None, None),
    ],
)
def test_dirichlet_sizes_equal_those_of_flwr_datasets(clients, alpha, first, smallest, largest):
    # 50,000 balanced labels at seed 42, counted outside this code base.
    sizes = [len(part) for part in partition(balanced(), clients, f"dirichlet:{alpha}", seed=42)]
    assert sizes[:5] == first
    assert sum(sizes) == 50_000
    if smallest is not None:
        assert (min(sizes), max(sizes)) == (smallest, largest)


def test_dirichlet_equals_a_plain_restatement():
    # Example by example, on unbalanced classes, where the order of the classes matters.
    targets = [2, 0, 1, 1, 1, 1, 0, 2, 1, 1, 1, 0, 1, 1] * 20
    generator = np.random.default_rng(3)
    expected = [[] for _ in range(4)]
    for label in (0, 1, 2):
        held = [index for index, target in enumerate(targets) if target == label]
        cuts = [int(share * len(held)) for share in np.cumsum(generator.dirichlet([0.7] * 4))]
        for client, (start, stop) in enumerate(zip([0, *cuts[:3]], [*cuts[:3], len(held)], strict=True)):
            expected[client] += held[start:stop]
    for part in expected:
        generator.shuffle(part)
    assert [part.tolist() for part in partition(targets, 4, "dirichlet:0.7", seed=3)] == expected


@settings(max_examples=60, deadline=None)
@given(
    # Enough of one class or another for eight clients: shares are rounded down.
    targets=st.lists(st.integers(0, 6), min_size=120, max_size=300),
    clients=st.integers(1, 8),
    scheme=st.sampled_from(SCHEMES),
    seed=st.integers(0, 2**63 - 1),
)
def test_every_example_goes_to_exactly_one_client(targets, clients, scheme, seed):
    parts = partition(targets, clients, scheme, seed)
    assert len(parts) == clients
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(targets)))
    assert all(len(part) >= 1 and part.dtype == np.int64 for part in parts)


@settings(max_examples=30, deadline=None)
@given(scheme=st.sampled_from(SCHEMES), seed=st.integers(0, 2**63 - 1))
def test_a_split_depends_on_its_seed_alone(scheme, seed):
    targets = balanced(200)
    split = partition(targets, 5, scheme, seed)
    np.random.seed(1)  # noqa: NPY002 - the global generator is what is under test
    again = partition(torch.tensor(targets), 5, parse_scheme(scheme), seed)
    other = partition(targets, 5, scheme, seed ^ 1)
    assert [part.tolist() for part in split] == [part.tolist() for part in again]
    assert [part.tolist() for part in split] != [part.tolist() for part in other]


def test_iid_sizes_differ_by_one_at_most():
    assert {len(part) for part in partition(balanced(1000), 7, "iid", seed=0)} == {142, 143}


def test_iid_clients_hold_every_class():
    targets = balanced()
    assert all(len(np.unique(targets[part])) == 10 for part in partition(targets, 100, "iid", seed=0))


def test_shards_limit_the_classes_of_a_client():
    targets = balanced()
    parts = partition(targets, 100, "shards:2", seed=0)
    held = [len(np.unique(targets[part])) for part in parts]
    assert {len(part) for part in parts} == {500}
    assert max(held) == 2
    assert held.count(2) > 50  # shards are dealt at random, not in order of class


def test_smaller_alpha_means_fewer_classes():
    targets = balanced()

    def mean_largest_share(alpha):
        parts = partition(targets, 20, f"dirichlet:{alpha}", seed=0)
        return np.mean([np.bincount(targets[part]).max() / len(part) for part in parts])

    assert mean_largest_share(0.1) > mean_largest_share(1) > mean_largest_share(100) > 0.1


def test_parts_are_shuffled():
    # A client that reads its examples in order must not see one class after another.
    targets = balanced()
    part = partition(targets, 10, "dirichlet:1", seed=0)[0]
    assert np.count_nonzero(np.diff(targets[part])) > len(part) / 3


def test_minimum_is_kept_by_drawing_again():
    targets = balanced(1000)
    assert min(map(len, partition(targets, 20, "dirichlet:0.5", seed=0))) < 20
    assert min(map(len, partition(targets, 20, "dirichlet:0.5", seed=0, minimum=20))) >= 20


@pytest.fixture
def draws(monkeypatch):
    """The number of Dirichlet draws so far, in a list."""
    count, deal = [0], Dirichlet.deal

    def counted(*arguments):
        count[0] += 1
        return deal(*arguments)

    monkeypatch.setattr(Dirichlet, "deal", counted)
    return count


def test_drawing_again_ends(monkeypatch, draws):
    monkeypatch.setattr("profl.bench.data.partition.TRIES", 50)
    message = r"'dirichlet:1.16': about \d+ of 47 clients get fewer than 2 of 179 examples \(draws: 50\);.*larger alpha"
    with pytest.raises(InputError, match=message):
        partition(np.random.default_rng(0).integers(0, 3, 179), 47, "dirichlet:1.16", seed=1, minimum=2)
    assert draws == [50]


@pytest.mark.parametrize(("clients", "alpha", "most"), [(20_000, 0.5, 1), (20_000, 0.1, 1), (60, 0.01, 10)])
def test_hopeless_draws_are_not_repeated(clients, alpha, most, draws):
    with pytest.raises(InputError, match=rf"of {clients} clients get fewer than 1 of {2 * clients} examples"):
        partition(balanced(2 * clients), clients, f"dirichlet:{alpha}", seed=0)
    assert draws[0] <= most


# Settings in which hardly any draw succeeds, found by trying thousands.
@pytest.mark.parametrize(
    ("examples", "classes", "clients", "alpha", "minimum", "seed", "succeeds"),
    [
        (627, 2, 77, 0.45, 1, 0, 880),
        (240, 3, 57, 0.4, 1, 1, 814),
        (179, 3, 47, 1.16, 2, 1, 830),
        (175, 5, 56, 0.32, 1, 0, 394),
    ],
)
def test_what_succeeds_late_is_not_given_up(examples, classes, clients, alpha, minimum, seed, succeeds, draws):
    targets = np.random.default_rng(0).integers(0, classes, examples)
    generator = np.random.default_rng(seed)
    while min(map(len, parts := Dirichlet(alpha).deal(targets, clients, generator))) < minimum:
        pass
    for part in parts:
        generator.shuffle(part)
    assert draws == [succeeds]
    again = partition(targets, clients, f"dirichlet:{alpha}", seed, minimum)
    assert [part.tolist() for part in again] == [part.tolist() for part in parts]


@pytest.mark.parametrize(
    ("clients", "scheme", "minimum", "message"),
    [
        (0, "iid", 1, "0 clients"),
        (101, "iid", 1, "100 examples .* 101 clients at least 1"),
        (10, "iid", 11, "100 examples .* 10 clients at least 11"),
        (10, "shards:11", 1, "'shards:11': 10 clients need 110 shards"),
    ],
)
def test_too_few_examples(clients, scheme, minimum, message):
    with pytest.raises(InputError, match=message):
        partition(balanced(100), clients, scheme, seed=0, minimum=minimum)


@pytest.mark.parametrize(
    ("text", "scheme"),
    [
        ("iid", Iid()),
        ("dirichlet:0.5", Dirichlet(0.5)),
        (" dirichlet:1e-3 ", Dirichlet(0.001)),
        ("shards:2", Shards(2)),
    ],
)
def test_schemes_are_read_from_text_and_print_as_text(text, scheme):
    assert parse_scheme(text) == scheme
    assert parse_scheme(str(scheme)) == scheme


@pytest.mark.parametrize(
    "text",
    [
        *["", "0.5", "IID", "iid:", "iid:3", "dirichlet", "dirichlet:", "dirichlet:x", "dirichlet:0"],
        *["dirichlet:-1", "dirichlet:nan", "dirichlet:inf", "dirichlet:1e7"],
        *["shards", "shards:0", "shards:1.5", "shards:-2"],
    ],
)
def test_malformed_schemes_name_themselves_and_the_right_form(text):
    with pytest.raises(InputError, match=f"'{text}'.*dirichlet:0.5.*shards:2"):
        parse_scheme(text)
