"""What builds a training step, by its name: ``my_model.py:build``, or ``package.module:build``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from profl.bench.errors import InputError, choose, in_one_line, nearest
from profl.bench.memory.calling import called
from profl.bench.memory.errors import MeasurementFailed, UnusableStep

if TYPE_CHECKING:
    import torch

_FORM = "write FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, as in my_model.py:build"


@dataclass(frozen=True)
class NamedBuild:
    """A function that builds a step, as `profl.bench.memory.measure` takes it; looked up where it is called.

    Parameters
    ----------
    text
        As the user wrote it.
    module
        The file as an absolute path, or the module's name.
    function
        Name of the function in it.
    folder
        Where the import begins: the file's folder, or the one where the user is.
    arguments
        Given to the function by name, behind the device.
    """

    text: str
    module: str
    function: str
    folder: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, arguments: Mapping[str, Any] | None = None) -> NamedBuild:
        """Read what the user wrote; nothing is imported.

        Raises
        ------
        InputError
            If it has another form, or there is no such file.
        """
        place, colon, function = text.rpartition(":")
        if not (colon and place and function.isidentifier()):
            raise InputError(f"'{text}' names no function that builds a step: {_FORM}")
        if not place.endswith(".py"):
            if not all(part.isidentifier() for part in place.split(".")):
                raise InputError(f"'{place}' is neither a Python file nor a module: {_FORM}")
            return cls(text, place, function, str(Path.cwd()), arguments or {})
        file = Path(place).expanduser().absolute()
        if not file.is_file():
            raise InputError(f"there is no file {place}: {_FORM}")
        return cls(text, str(file), function, str(file.parent), arguments or {})

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.text}({given})" if given else self.text

    def __call__(self, device: torch.device, **more: Any) -> Any:
        """Build the step.

        Raises
        ------
        UnusableStep
            If there is no such module or function, or it does not take what it is given.
        MeasurementFailed
            If the module cannot be imported.
        """
        module = _imported(self.module, self.folder)
        function: Callable[..., Any] | None = getattr(module, self.function, None)
        if not callable(function):
            own = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
            remedy = choose(nearest(self.function, own), ", ".join(sorted(own))) if own else "define it there"
            raise UnusableStep(f"{self.text.rpartition(':')[0]} has no function '{self.function}': {remedy}")
        return called(function, self.text, device, {**self.arguments, **more})


@cache
def _imported(module: str, folder: str) -> ModuleType:
    """Import a file or a module, with what lies beside it in reach; once in a process."""
    sys.path.insert(0, folder)
    try:
        if not module.endswith(".py"):
            return importlib.import_module(module)
        name = Path(module).stem
        spec = importlib.util.spec_from_file_location(name, module)
        assert spec is not None
        assert spec.loader is not None  # as of every file that ends in .py
        loaded = importlib.util.module_from_spec(spec)
        sys.modules.setdefault(name, loaded)  # where dataclasses and pickles look for what it defines
        spec.loader.exec_module(loaded)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):  # and not one that it imports
            raise UnusableStep(f"there is no module {error.name} here or among those installed: {_FORM}") from None
        raise MeasurementFailed(
            f"{module} cannot be imported ({in_one_line(error)}): install or mend that first"
        ) from error
    except Exception as error:
        raise MeasurementFailed(
            f"{module} cannot be imported ({type(error).__name__}: {in_one_line(error)}): mend it first"
        ) from error
    return loaded
