"""Put the virtual GPU named by the variable PROFL_TEST_GPU in place of a real one, in this process and its children.

Python runs this file by itself in every process that has its folder in PYTHONPATH.
"""

import os

from profl.bench.memory.gpu.build import build
from profl.bench.memory.gpu.driver import Setup, load
from profl.bench.memory.gpu.installation import find_installation
from profl.bench.memory.gpu.profile import resolve

if gpu := resolve(os.environ["PROFL_TEST_GPU"]):
    load(Setup(gpu, build(), find_installation().cudnn))
