"""``python -m tests.faults``: all harm, many times; a table of what came of it."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import harm


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch, harm.victims() as server, harm.victims() as other:
        folder = Path(scratch)
        server.finish(folder / "warm", "here")
        began = time.monotonic()
        server.finish(folder / "whole", "here")
        seconds = time.monotonic() - began
        whole = harm.bits(folder / "whole")
        print(f"a sweep of {len(whole)} cells takes {seconds:.1f} s\n{harm.HEADING}", flush=True)
        begun = harm.begun(server, folder, seconds)
        tallies = (
            lambda: harm.killed(server, "here", 30, folder, whole, seconds),
            lambda: harm.killed(server, "two", 30, folder, whole, 3 * seconds),
            lambda: harm.broken_worker(server, 10, folder, whole, 3 * seconds),
            lambda: harm.too_full(server, [1, 100, 700, 2_000, 20_000, 40_000], folder, whole),
            lambda: harm.full_disk(server, [4, 16, 64, 128, 256, 400], folder, whole),
            lambda: harm.damaged(folder / "whole", 1000, folder),
            lambda: harm.mixed_up(folder / "whole", folder),
            lambda: harm.damaged_checkpoint(server, begun, 30, folder, whole),
            lambda: harm.diverging(server, 10, folder, seconds / 2),
            lambda: harm.at_once(server, other, 10, folder, whole, seconds),
        )
        failed = 0
        for tried in tallies:
            tally = tried()
            print(tally or "full disk: none can be mounted here", flush=True)
            failed += tally.lost + tally.wrong if tally else 0
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
