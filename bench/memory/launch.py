"""Start of a worker process, run as a script: puts a virtual GPU in place before anything imports torch."""

import signal
import sys
from multiprocessing.connection import Connection


def main() -> None:
    # Ctrl-C and the like reach the whole group; the parent decides, and its death ends this process.
    for request in (signal.SIGINT, signal.SIGTERM):
        signal.signal(request, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    try:
        sys.path[:] = connection.recv()
        stage = connection.recv()
        from profl.bench.memory.protocol import Estimate, Stage

        if isinstance(stage, Stage):
            from profl.bench.memory.gpu.driver import load

            load(stage)
        from profl.bench.memory.worker import serve

        serve(connection, stage.gpu if isinstance(stage, Estimate) else None)
    except (EOFError, BrokenPipeError):
        pass  # the parent is gone


if __name__ == "__main__":
    main()
