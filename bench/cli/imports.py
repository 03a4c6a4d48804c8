"""What a command has imported."""

from __future__ import annotations

import gc


def spare_imports() -> None:
    """Keep what was imported so far from being searched for garbage, as Python does several times while it ends.

    With PyTorch that takes seconds, also after Ctrl-C. It is called before what is plugged in or the user's own runs:
    the files that such code leaves open must be found as Python ends, so that they are written.
    """
    gc.freeze()
