"""Start of a worker process, run as a script: puts a virtual GPU in place before anything imports torch."""

import gc
import signal
import sys
from multiprocessing.connection import Connection


def main() -> None:
    # Ctrl-C and the like reach the whole group; the parent decides, and its death ends this process.
    for request in (signal.SIGINT, signal.SIGTERM):
        signal.signal(request, signal.SIG_IGN)
    gc.disable()  # until all is imported: nothing of that is garbage worth the search
    connection = Connection(int(sys.argv[1]))
    try:
        sys.path[:] = connection.recv()
        setup = connection.recv()
        from profl.bench.memory.gpu.driver import Setup, load
        from profl.bench.memory.process.protocol import Estimate

        if isinstance(setup, Setup):
            load(setup)
            from profl.bench.memory.gpu.process_group import play_alone

            play_alone()
        from profl.bench.memory.process.worker import serve

        serve(connection, setup.gpu if isinstance(setup, Estimate) else None)
    except (EOFError, BrokenPipeError):
        pass  # the parent is gone


if __name__ == "__main__":
    main()
