"""Names that are not known, and what their errors suggest."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profl.bench.errors import InputError, in_one_line, nearest, unknown, why_unreadable

METHODS = ["profl", "fedavg", "exclusive", "allsmall", "heterofl", "depthfl", "inclusivefl"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("prolf", "profl"),
        ("ProFL", "profl"),
        ("HeteroFl", "heterofl"),
        ("inclusive", "inclusivefl"),
        ("exlusive", "exclusive"),
        ("fedprox", None),
        ("", None),
    ],
)
def test_the_nearest_name_is_the_one_misspelt_if_any(name: str, meant: str | None) -> None:
    assert nearest(name, METHODS) == meant


@given(st.sampled_from(METHODS), st.data())
def test_any_letter_may_be_left_out_or_doubled(name: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(name) - 1))
    assert nearest(name[:place] + name[place + 1 :], METHODS) == name
    assert nearest(name[:place] + name[place] + name[place:], METHODS) == name


@pytest.mark.parametrize(
    ("name", "meant"),
    [("t5", "t4"), ("T5", "t4"), ("l5", "l4"), ("v10", "v100"), ("x5", None), ("t", None), ("b", None)],
)
def test_short_names_are_known_by_all_but_one_character(name: str, meant: str | None) -> None:
    assert nearest(name, ["a100", "l4", "t4", "v100", "x"]) == meant


@given(st.text(), st.lists(st.text()))
def test_what_is_suggested_is_known(name: str, known: list[str]) -> None:
    assert nearest(name, known) in (None, *known)


def test_an_unknown_name_is_told_with_the_nearest_and_all() -> None:
    with pytest.raises(InputError, match=r"^unknown model 'resnet43': did you mean 'resnet34'\? Choose one of lenet, "):
        unknown("model", "resnet43", ["resnet34", "lenet"])
    with pytest.raises(InputError, match=r"^unknown model 'vgg': choose one of lenet, resnet34$"):
        unknown("model", "vgg", ["resnet34", "lenet"])


TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 2, in build\n    torch.zeros(3)\n'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "no message"),
        ("\n the  first\nthe second", "the first"),
        ("of the model:\n\tsize mismatch\n\tand more", "of the model: size mismatch"),
        (f"failed:\n{TRACEBACK}TypeError: no such form\n * (int)\n * (str)", "failed: TypeError: no such form"),
        (f"failed:\n{TRACEBACK}TypeError: one of:\n * (int)", "failed: TypeError: one of: ..."),
        (f"failed:\n{TRACEBACK}KeyError: 1\n\nDuring:\n\n{TRACEBACK}OSError: 2\nbefore it", "failed: OSError: 2"),
        (f"{TRACEBACK}ValueError: alone", "ValueError: alone"),
        ("cut off:\nTraceback (most recent call last):\n  File", "cut off:"),
        ("Traceback (most recent call last):", "no message"),
    ],
)
def test_of_several_lines_the_one_that_says_what_is_wrong_is_told(text: str, line: str) -> None:
    assert in_one_line(ValueError(text)) == line


@given(st.text())
def test_any_error_is_told_in_one_line(text: str) -> None:
    assert len(in_one_line(ValueError(text)).splitlines()) == 1


def test_why_a_file_cannot_be_read_is_told_in_plain_words(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"ab\xff")
    (tmp_path / "loop").symlink_to("loop")
    for name, why in {
        "none": "there is none of this name",
        ".": "it is a folder",
        "bytes": "it is no text in UTF-8, by the byte at 2",
        "loop": "Too many levels of symbolic links",
    }.items():
        with pytest.raises((OSError, ValueError)) as error:
            (tmp_path / name).read_text(encoding="utf-8")
        assert why_unreadable(error.value) == why
    assert why_unreadable(OSError("no number")) == "no number"
