"""The worker process: measurements run there, so that nothing this process holds is measured."""
