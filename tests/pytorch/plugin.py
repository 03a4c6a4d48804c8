"""A plug-in of pytest: passes over what PyTorch's tests assert about numbers that the virtual GPU does not compute.

An assertion that fails is passed over if numbers were read from the GPU since the assertion before it, or by itself; it
is counted, as the property ``passed over`` of the test. All others hold as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import TestCase

import pytest

from profl.bench.memory.gpu.unmodelled import unmodelled

_RAISING = ("assertRaises", "assertWarns", "assertLogs", "assertNoLogs")


class Assertions:
    """How deep in assertions a test is (they call each other), and how many were passed over."""

    depth = 0
    passed_over = 0

    def about_numbers(self, check: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``check`` but for failures that numbers from the GPU decide."""

        @functools.wraps(check)
        def checked(*arguments: Any, **options: Any) -> Any:
            self.depth += 1
            try:
                return check(*arguments, **options)
            except AssertionError:
                if self.depth > 1 or not any("reads numbers" in told for told in unmodelled()):
                    raise
                self.passed_over += 1
            finally:
                self.depth -= 1
                if not self.depth:
                    unmodelled()

        return checked


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Run one test, and say how many of its assertions were passed over."""
    assertions, kind = Assertions(), getattr(item, "cls", TestCase)
    unmodelled()
    with pytest.MonkeyPatch.context() as patched:
        for name in dir(kind):
            if name.startswith("assert") and not name.startswith(_RAISING):
                patched.setattr(kind, name, assertions.about_numbers(getattr(kind, name)))
        try:
            return (yield)
        finally:
            item.user_properties.append(("passed over", assertions.passed_over))
