"""What a run leaves on disk, and how it is read back."""

from profl.bench.results.folder import (
    CELL_COLUMNS,
    FOOTPRINT_KEY,
    ROUND_COLUMNS,
    CellFolder,
    Record,
    Run,
    as_json,
    category_columns,
    cell_folders,
    check_one_recipe,
    peak_column,
    read_json,
    read_run,
    write_json,
)

__all__ = [
    "CELL_COLUMNS",
    "FOOTPRINT_KEY",
    "ROUND_COLUMNS",
    "CellFolder",
    "Record",
    "Run",
    "as_json",
    "category_columns",
    "cell_folders",
    "check_one_recipe",
    "peak_column",
    "read_json",
    "read_run",
    "write_json",
]
