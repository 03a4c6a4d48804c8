"""What a run leaves on disk, and how it is read back. The schema is stated here and nowhere else.

A run is a folder with one folder per cell::

    RUN/cells/CELL/cell.json         what was run: method, model, dataset, tier, seed, recipe
                   environment.json  where it is trained, as `profl.bench.environment` tells; ``earlier``: where rounds
                                     before were, each up to its ``last_round``, if it was resumed elsewhere
                   footprints.json   measured memory of every task of the method
                   timelines.json    live bytes of every task over time, as `profl.bench.memory.timeline` packs them
                   rounds.jsonl      one row per finished round, appended and flushed
                   checkpoint.pt     state after the last finished round, replaced atomically
                   summary.json      final figures; present exactly when the cell is done
                   error.txt         traceback of the last failure, if it failed
                   running           empty; present while a worker is at the cell, and after it was killed
                   cell.lock         empty, and stays; whoever works on the cell holds a lock on it

Every object in environment, footprints, timelines, rounds and summary ends with a ``checksum``, and the checkpoint has
one, so that damage is found which can still be read; ``cell.json`` has its own in the folder's name.
"""

from profl.bench.results.folder import CellFolder
from profl.bench.results.record import Record
from profl.bench.results.run import Run, read_run
from profl.bench.results.schema import CELL_COLUMNS, FOOTPRINT_KEY, ROUND_COLUMNS, peak_column
from profl.bench.results.score import mean_of_last_tests

__all__ = [
    "CELL_COLUMNS",
    "FOOTPRINT_KEY",
    "ROUND_COLUMNS",
    "CellFolder",
    "Record",
    "Run",
    "mean_of_last_tests",
    "peak_column",
    "read_run",
]
