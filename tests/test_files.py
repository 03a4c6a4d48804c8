"""A file that is replaced is whole at every moment."""

from pathlib import Path

import pytest

from profl.bench.files import replacing


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
