import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profl.bench.errors import InputError
from profl.bench.fleet import (
    UNITS,
    Holdings,
    Tier,
    eligibility,
    eligible_counts,
    first_fitting,
    format_bytes,
    parse_bytes,
)

MB = 10**6
MIB = 2**20
PAPER = {"full": 840 * MB, "block1": 506 * MB, "block2": 220 * MB, "block3": 112 * MB, "block4": 100 * MB}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MiB", 512 * MIB),
        ("900MB", 900 * MB),
        ("1.5GiB", 1536 * MIB),
        (" 2 gb ", 2 * 10**9),
        ("0.1MB", 100_000),  # exact, though 0.1 is no float
        ("64kB", 64_000),
        ("1.0009KiB", 1024),
        ("+7B", 7),
    ],
)
def test_bytes_are_read(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("512", "'512' has no unit: use one of B, kB, MB, .*TiB, as in 512MiB$"),
        ("512MX", "'512MX' has the unknown unit 'MX': did you mean 'MB'. Choose one of B, kB"),
        ("2GiBs", "'2GiBs' has the unknown unit 'GiBs': did you mean 'GiB'. Choose one of B, kB"),
        ("50%", "'50%' is a share, but an amount is asked for: write a number and a unit, as in 512MiB"),
        ("0MB", "'0MB' is not above zero"),
        ("-3MB", "'-3MB' is not above zero"),
        ("0", "'0' is not above zero"),
        ("-5%", "'-5%' is not above zero"),
        ("0.5B", "'0.5B' is less than a byte: write a larger"),
        ("NaN", "'NaN' is not an amount of memory: .* 512MiB"),
        ("infMB", "'infMB' is not an amount"),
        ("", "'' is not an amount"),
        ("1e3MB", "'1e3MB' is not an amount"),
        ("MB", "'MB' is not an amount"),
    ],
)
def test_malformed_bytes(text, message):
    with pytest.raises(InputError, match=message):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["1", "256", "1.5", "999999", "1000000", "268435456", "100..900", "1..2000000"])
@pytest.mark.parametrize("read", [parse_bytes, Tier.parse])
def test_what_is_offered_for_a_missing_unit_is_taken(read: Callable[[str], object], text: str):
    if ".." in text and read is parse_bytes:
        return
    with pytest.raises(InputError) as told:
        read(text)
    offered = re.findall(r"(?:as in |, or )([^ ,]+)", str(told.value))
    assert f"{text}B" in offered or f"{text}MiB" in offered
    for one in offered:
        read(one)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (512 * MIB, "512 MiB"),
        (1536 * MIB, "1.5 GiB"),
        (100 * MB, "95.37 MiB"),
        (-3 * MIB, "-3 MiB"),
        (3 * 2**40, "3 TiB"),
    ],
)
def test_bytes_are_written(size, text):
    assert format_bytes(size) == text


@given(st.integers(1, 2**45))
def test_written_bytes_can_be_read_back(size):
    assert parse_bytes(format_bytes(size)) == pytest.approx(size, rel=1e-3)


@given(st.integers(1, 10**6), st.sampled_from(sorted(UNITS)))
def test_every_unit_is_read(number, unit):
    assert parse_bytes(f"{number}{unit}") == number * UNITS[unit]


def test_an_amount_gives_all_devices_the_same():
    assert Tier.parse("512MiB").budgets(3, seed=0) == [512 * MIB] * 3
    assert not Tier.parse("512MiB").relative


@pytest.mark.parametrize(("text", "budget"), [("50%", 500), ("100%", 1001), ("12.5%", 125), ("150 %", 1501)])
def test_a_share_is_of_the_full_model(text, budget):
    tier = Tier.parse(text)
    assert tier.relative
    assert tier.budgets(2, seed=0, full_model_bytes=1001) == [budget] * 2


def test_a_share_needs_the_full_model():
    with pytest.raises(ValueError, match="'50%' needs the full model's least budget"):
        Tier.parse("50%").budgets(2, seed=0)


def test_a_range_draws_the_published_fleet():
    # Counts, least, largest and mean as published for seed 42.
    budgets = Tier.parse("100..900MB").budgets(100, seed=42)
    assert eligibility(budgets, PAPER).sum().to_dict() == {
        "full": 8,
        "block1": 43,
        "block2": 81,
        "block3": 99,
        "block4": 100,
    }
    assert (min(budgets), max(budgets)) == (106 * MB, 891 * MB)
    assert round(np.mean(budgets) / MB) == 487


@given(st.integers(1, 50), st.integers(0, 50), st.integers(0, 2**63 - 1))
def test_a_range_draws_whole_units_within_it(low, width, seed):
    budgets = Tier.parse(f"{low}..{low + width} MiB").budgets(20, seed)
    assert all(low * MIB <= budget <= (low + width) * MIB and budget % MIB == 0 for budget in budgets)
    assert budgets == Tier.parse(f"{low}..{low + width} MiB").budgets(20, seed)


@pytest.mark.parametrize("text", ["20%..120%", "20..120%"])
def test_a_range_of_shares_draws_whole_percents(text):
    tier = Tier.parse(text)
    budgets = tier.budgets(2000, seed=1, full_model_bytes=10_000)
    assert tier.relative
    assert set(budgets) == {percent * 100 for percent in range(20, 121)}


def test_ranges_differ_by_seed():
    tier = Tier.parse("100..900MB")
    assert tier.budgets(10, seed=1) != tier.budgets(10, seed=2)


def test_a_file_lists_budgets(tmp_path):
    path = tmp_path / "fleet.txt"
    path.write_text("# two phones\n512MiB\n\n1.5 GB  # the new one\n")
    tier = Tier.parse(str(path))
    path.unlink()
    assert tier.budgets(2, seed=0) == [512 * MIB, 1500 * MB]
    with pytest.raises(InputError, match=r"fleet.txt' lists 2 budgets for 3 devices"):
        tier.budgets(3, seed=0)


def test_a_file_may_look_like_a_range(tmp_path, monkeypatch):
    (tmp_path / "inside").mkdir()
    (tmp_path / "2024-fleet.txt").write_text("5MB\n")
    monkeypatch.chdir(tmp_path / "inside")
    assert Tier.parse("../2024-fleet.txt").budgets(1, seed=0) == [5 * MB]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"5MB\n\n12 MX\n", "fleet.txt, line 3: '12 MX' has the unknown unit 'MX'"),
        (b"5MB\n0MB\n", "fleet.txt, line 2: '0MB' is not above zero"),
        (b"nan\n", "fleet.txt, line 1: 'nan' is not an amount"),
        (b"# nothing\n", "fleet.txt lists no budgets"),
        (b"\xff\xfe\x00", "fleet.txt cannot be read"),
    ],
)
def test_malformed_files(tmp_path, content, message):
    (tmp_path / "fleet.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        Tier.parse(str(tmp_path / "fleet.txt"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "tier '' is neither"),
        ("NaN", "tier 'NaN' is neither .*512MiB.*50%.*100..900MB"),
        ("nan%", "tier 'nan%' is neither"),
        ("no/such/file", "tier 'no/such/file' is neither .* nor a file"),
        (".", "tier '.' is neither"),
        ("512", "'512' has no unit"),
        ("512MX", "unknown unit 'MX'"),
        ("0MiB", "'0MiB' is not above zero"),
        ("-5MiB", "'-5MiB' is not above zero"),
        ("0%", "tier '0%' is not above zero"),
        ("-50%", "tier '-50%' is not above zero"),
        ("900..100MB", "tier '900..100MB' is no range .* the smaller first"),
        ("0..100MB", "tier '0..100MB' is no range of whole numbers above zero"),
        ("-5..100MB", "tier '-5..100MB' is no range"),
        ("0.5..2GiB", "tier '0.5..2GiB' is no range of whole numbers .* smaller unit"),
        ("100..900", "'100..900' has no unit"),
        ("100..900MX", "'100..900MX' has the unknown unit 'MX'"),
        ("120%..20%", "tier '120%..20%' is no range"),
        ("20%..900MB", "tier '20%..900MB' mixes"),
        ("nan..900MB", "tier 'nan..900MB' is neither"),
    ],
)
def test_malformed_tiers(text, message):
    with pytest.raises(InputError, match=message):
        Tier.parse(text)


def test_a_fleet_needs_a_device():
    with pytest.raises(InputError, match="0 devices"):
        Tier.parse("512MiB").budgets(0, seed=0)


def test_a_budget_that_just_suffices_is_eligible():
    table = eligibility([99, 100, 101], {"a": 100, "b": 101})
    expected = pd.DataFrame({"a": [False, True, True], "b": [False, False, True]})
    pd.testing.assert_frame_equal(table, expected, check_names=False)
    assert (table.index.name, table.columns.name) == ("device", "task")


def test_counts_by_tier_and_task():
    fleets = {"100..900MB": Tier.parse("100..900MB").budgets(100, seed=42), "220MB": [220 * MB] * 100}
    table = eligible_counts(fleets, PAPER)
    assert table.loc["100..900MB"].tolist() == [8, 43, 81, 99, 100]
    assert table.loc["220MB"].tolist() == [0, 0, 100, 100, 100]
    assert list(table.columns) == list(PAPER)
    assert (table.index.name, table.columns.name) == ("tier", "task")


@given(budgets=st.lists(st.integers(0, 9), min_size=1), needs=st.lists(st.integers(1, 9)))
def test_each_device_trains_the_first_task_that_fits(budgets, needs):
    first = [next((index for index, need in enumerate(needs) if need <= budget), -1) for budget in budgets]
    assert first_fitting(budgets, needs).tolist() == first


TARGETS = np.array([0, 0, 1, 1, 2, 2, 3, 3])
PARTITION = [np.array([0, 1, 2]), np.array([3, 4]), np.array([5, 6, 7])]


@pytest.mark.parametrize(
    ("eligible", "expected"),
    [
        ([True, True, True], (0, 0, 0)),
        ([True, False, False], (2 / 3, 5 / 8, 1 / 2)),
        ([True, False, True], (1 / 3, 1 / 4, 0)),
        ([False, True, False], (2 / 3, 3 / 4, 1 / 2)),
        ([False, False, False], (1, 1, 1)),
    ],
)
def test_what_exclusion_loses(eligible, expected):
    assert Holdings(PARTITION, TARGETS, classes=4).lost(pd.Series(eligible)) == pytest.approx(expected)


def test_a_mask_of_another_fleet_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2,\) is not of these 3 devices"):
        Holdings(PARTITION, TARGETS, classes=4).lost([True, False])


def test_a_tier_keeps_its_text():
    assert Tier.parse(" 100..900MB ").text == "100..900MB"


def test_whatever_is_written_is_a_tier_or_refused_in_one_line():
    draw = random.Random(0)
    pieces = [
        *"0123456789.%+-~/ \0\n",
        "..",
        "MB",
        "GiB",
        "kb",
        "TiB",
        "unlimited",
        "9" * 40,
        "9" * 5000,
        "~nouser",
        "²",
        "٣",
    ]
    refused = 0
    for _ in range(3000):
        text = "".join(draw.choices(pieces, k=draw.randint(0, 6)))
        try:
            budgets = Tier.parse(text).budgets(3, 0, full_model_bytes=2**40)
        except InputError as error:
            refused += 1
            assert len(str(error)) < 6000  # noqa: PT017
            continue
        assert all(0 <= budget < 2**63 for budget in budgets)
    assert 1000 < refused < 3000


def test_a_list_of_budgets_that_never_ends_is_refused(tmp_path: Path):
    (tmp_path / "long").write_text("1MB\n" * 2**24 + "1")
    with pytest.raises(InputError, match="holds more than 67108864 bytes"):
        Tier.parse(str(tmp_path / "long"))
