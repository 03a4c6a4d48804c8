"""``python -m profl``: the command line."""

from profl.bench.cli import main

main(prog_name="profl")
