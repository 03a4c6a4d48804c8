"""A file that is replaced is whole at every moment."""

import os
from pathlib import Path

import pytest

from profl.bench.files import replacing, write_whole


def test_the_old_content_stays_until_the_new_is_whole(tmp_path: Path):
    path = tmp_path / "new" / "table.csv"
    for text in ("old", "new"):
        with replacing(path) as partial:
            partial.write_text(text)
            assert not path.exists() or path.read_text() == "old"
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_content(tmp_path: Path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), replacing(path) as partial:
        partial.with_name("nowhere").read_text()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_who_write_at_once_do_not_meet(tmp_path: Path):
    path = tmp_path / "table.csv"
    with replacing(path) as one:
        one.write_text("one, begun")
        with replacing(path) as other:
            other.write_text("other")
        assert path.read_text() == "other"
        one.write_text("one")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    order: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "fsync", lambda number: order.append("on disk"))
    monkeypatch.setattr(os, "replace", lambda *paths: order.append("named") or replace(*paths))
    write_whole(tmp_path / "table.csv", "text")
    assert order == ["on disk", "named"]
