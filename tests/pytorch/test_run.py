"""The command that runs PyTorch's own tests, on a small file of ours that looks like theirs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.pytorch.listed import MEMORY_TESTS, older_name
from tests.pytorch.run import print_table

FILE = """
import subprocess, sys, unittest
import torch

class TestCuda(unittest.TestCase):
    def assertSame(self, one, other):
        self.assertEqual(one, other)

    def test_memory_stats(self):
        self.assertTrue(torch.cuda.get_device_name().startswith("virtual t4"))
        self.assertEqual(torch.zeros(3, device="cuda").sum().item(), 0)

    def test_out_of_memory(self):
        ones = torch.ones(3, device="cuda")
        self.assertSame(ones.sum().item(), 3)
        self.assertTrue((ones == 1).all())
        self.assertEqual(torch.cuda.memory_allocated(), 512)

    def test_memory_allocation(self):
        torch.ones(3, device="cuda").sum().item()
        self.assertEqual(1, 1)
        self.assertEqual(torch.cuda.memory_allocated(), 1)

    def test_record_stream(self):
        raise AssertionError("not to be run")

    def test_graph_error(self):
        program = "import torch; print(torch.cuda.device_count())"
        self.assertEqual(subprocess.check_output([sys.executable, "-c", program], text=True), "1\\n")

    def test_cuda_graph_error_options(self):
        self.skipTest("for once")

    def test_not_listed(self):
        raise AssertionError("not to be run")

class TestCudaMallocAsync(unittest.TestCase):
    def test_cycles(self):
        import os
        os.abort()
"""


def test_the_table_says_what_became_of_each_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "test_cuda.py"
    path.write_text(FILE)
    assert print_table(path, "virtual:t4") == ["TestCuda.test_memory_allocation", "TestCudaMallocAsync.test_cycles"]
    told = capsys.readouterr()
    rows = dict(line.strip("| ").split(" | ") for line in told.out.splitlines() if line.startswith("| Test"))
    assert rows["TestCuda.test_memory_stats"] == rows["TestCuda.test_graph_error"] == "passes"
    assert rows["TestCuda.test_out_of_memory"] == "passes, 2 assertions about numbers passed over"
    assert rows["TestCuda.test_memory_allocation"].startswith("fails: AssertionError: 0 != 1")
    assert rows["TestCuda.test_record_stream"].startswith("cannot: waits until the GPU has spun")
    assert rows["TestCuda.test_cuda_graph_error_options"] == "skipped: for once"
    assert rows["TestCudaMallocAsync.test_cycles"] == "fails: it did not run"
    assert "7 tests: 3 pass, 2 fail, 1 are skipped by PyTorch, 1 cannot pass" in told.out
    assert f"{len(MEMORY_TESTS['TestMemPool'])} listed tests of TestMemPool are not in test_cuda.py" in told.err


def test_a_missing_file_is_refused_in_a_line() -> None:
    command = [sys.executable, "-m", "tests.pytorch.run", "nowhere.py"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert refused.stderr == "nowhere.py is no file: give the path of your copy of PyTorch's test/test_cuda.py\n"


def test_only_a_class_that_was_renamed_has_an_older_name() -> None:
    assert older_name("TestCudaAllocator") == "TestCudaMallocAsync"
    assert older_name("TestCuda") == "TestCuda"
